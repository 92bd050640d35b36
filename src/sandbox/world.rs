//! What all requests share: the options, the tasks, the time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};

use super::check::Refusal;
use super::clock::Clock;
use super::dice::Dice;
use super::films::Films;
use super::links::Links;
use super::tasks::{Bill, Book};
use super::{Options, entropy};

/// The state that handlers take.
pub type Shared = State<Arc<World>>;

/// One sandbox.
pub struct World {
    /// How it behaves.
    pub options: Options,
    /// What time it is.
    pub clock: Clock,
    /// What chance decides.
    pub dice: Dice,
    /// Which links open which video.
    pub links: Links,
    /// The videos.
    pub films: Films,
    address: SocketAddr,
    book: Mutex<Book>,
    requests: AtomicU64,
}

impl World {
    /// A world in which nothing has been asked yet, served at `address`.
    pub fn new(options: Options, address: SocketAddr) -> Self {
        let clock = Clock::start();
        let dice = Dice::new(options.seed.unwrap_or_else(entropy));
        Self {
            book: Mutex::new(Book::new(&options, dice, clock.start_unix_ms())),
            options,
            clock,
            dice,
            links: Links::default(),
            films: Films::default(),
            address,
            requests: AtomicU64::new(0),
        }
    }

    /// The bill as of now.
    pub fn bill(&self) -> Bill {
        self.book().bill(self.clock.now())
    }

    /// The tasks; not to be held across an `await`.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a request, unlike any other of this sandbox.
    pub fn request_id(&self) -> String {
        format!(
            "sandbox-{}",
            self.requests.fetch_add(1, Ordering::Relaxed) + 1
        )
    }

    /// Whether a request brings a key that is accepted.
    ///
    /// # Errors
    /// 401, saying whether the key is missing or wrong.
    pub fn authorise(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, token)| token.trim());
        let message = match &self.options.key {
            _ if token.is_empty() => {
                "No key was passed: send the header Authorization: Bearer YOUR_KEY."
            }
            Some(key) if token != key => "The key is not valid.",
            _ => return Ok(()),
        };
        Err(Refusal::gateway(401, "invalid_api_key", message))
    }

    /// The link to a task's video, on the host that the client used to get here.
    pub fn video_url(&self, headers: &HeaderMap, number: u64) -> String {
        let host = headers
            .get(header::HOST)
            .and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let host = host.map_or_else(|| self.address.to_string(), |host| host.to_string());
        let expires = self.options.link_ttl.map(|ttl| self.clock.now() + ttl);
        format!(
            "http://{host}/files/{}.mp4",
            self.links.make(number, expires)
        )
    }
}
