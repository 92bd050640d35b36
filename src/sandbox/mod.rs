//! The documented video API on loopback: rehearse a batch at no cost, with a bill that says what
//! it would have cost, and with the faults of a real provider where they are asked for.
//!
//! Requests are checked as strictly as the documentation says, tasks take time, and videos are
//! real MP4s that every player shows. Nothing leaves the machine: input images are not fetched.
//! Nothing is stored: tasks end with the process. No code is shared with the client side.
//!
//! A request goes `api` → `check` → `tasks`; a download goes `api` → `delivery` → `films` →
//! `movie` → `scene` → `h264`.

mod api;
mod check;
mod clock;
mod delivery;
mod dice;
mod films;
mod h264;
mod links;
mod movie;
mod order;
mod range;
mod reply;
mod scene;
mod tasks;
mod world;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use order::{MODEL, Micros, Prices, Size};
pub use tasks::{Bill, BilledTask};

/// How long [`Sandbox::shutdown`] waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(5);

/// The longest time that an option can set: 365 days.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How the sandbox behaves. The default is a provider without faults.
///
/// A *rate* is a share from 0 to 1 of the cases in question. Which cases is decided by `seed` and
/// by the number of the request, task, poll or download, so it does not depend on timing.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. Default `127.0.0.1:8788`.
    pub listen: SocketAddr,
    /// Allows an address that is not loopback. Without TLS, and with a bill that anyone can read,
    /// that is for a network of one's own.
    pub allow_remote: bool,
    /// The only key that is accepted; without one, any that is not empty.
    pub key: Option<String>,
    /// What a task takes, give or take a fifth; at most 365 days. Default 5 s.
    pub generation_time: Duration,
    /// The rate of tasks that end `failed`.
    pub fail_rate: f64,
    /// The rate of create requests that are turned away with a 429 or a 503 and not billed.
    pub error_rate: f64,
    /// The rate of valid create requests that are accepted and billed, but whose connection
    /// closes without an answer.
    pub lose_rate: f64,
    /// The rate of status requests that are answered with 429, 500, 502 (HTML) or 503.
    pub poll_error_rate: f64,
    /// The rate of downloads whose connection closes half-way.
    pub cut_rate: f64,
    /// The rate of downloads that end half-way without an error, as they do when a gateway leaves
    /// `Content-Length` out. Applies to those that are not cut.
    pub truncate_rate: f64,
    /// For how long a `video_url` works; then it answers 410, and the next status request gives
    /// a new one. At most 365 days; without one, for ever.
    pub link_ttl: Option<Duration>,
    /// How long each answer is held back once it is made; at most 365 days.
    pub latency: Duration,
    /// Repeats the faults of an earlier run; without one they differ from run to run.
    pub seed: Option<u64>,
    /// What the bill counts a second of video at.
    pub prices: Prices,
    /// The most tasks in memory, at least 1; beyond it the oldest settled one is forgotten, and
    /// when none is settled a create request gets a 429. Default 100,000.
    pub max_tasks: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8788)),
            allow_remote: false,
            key: None,
            generation_time: Duration::from_secs(5),
            fail_rate: 0.0,
            error_rate: 0.0,
            lose_rate: 0.0,
            poll_error_rate: 0.0,
            cut_rate: 0.0,
            truncate_rate: 0.0,
            link_ttl: None,
            latency: Duration::ZERO,
            seed: None,
            prices: Prices::default(),
            max_tasks: 100_000,
        }
    }
}

impl Options {
    /// Says what cannot be, if anything.
    fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && !self.allow_remote {
            return Err(format!(
                "{} can be reached from other machines, which must be allowed expressly",
                self.listen
            ));
        }
        for (name, rate) in [
            ("fail rate", self.fail_rate),
            ("error rate", self.error_rate),
            ("lose rate", self.lose_rate),
            ("poll error rate", self.poll_error_rate),
            ("cut rate", self.cut_rate),
            ("truncate rate", self.truncate_rate),
        ] {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("the {name} must be from 0 to 1, not {rate}"));
            }
        }
        for (name, time) in [
            ("generation time", self.generation_time),
            ("link's time", self.link_ttl.unwrap_or_default()),
            ("latency", self.latency),
        ] {
            if time > MAX_TIME {
                return Err(format!("the {name} must be at most 365 days"));
            }
        }
        if self
            .key
            .as_ref()
            .is_some_and(|key| key.trim().is_empty() || key.trim() != key)
        {
            return Err("the key must be neither empty nor have spaces around it".into());
        }
        if self.max_tasks == 0 {
            return Err("there must be room for at least one task".into());
        }
        Ok(())
    }
}

/// A sandbox that is serving. Dropping it stops it as well, without waiting.
pub struct Sandbox {
    address: SocketAddr,
    world: Arc<world::World>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<io::Result<()>>>,
}

/// Starts a sandbox; it serves in the background of the current Tokio runtime.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when an option cannot be, otherwise what listening at the
/// address failed with.
pub async fn start(options: Options) -> io::Result<Sandbox> {
    options
        .check()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let world = Arc::new(world::World::new(options, address));
    let (stop, stopped) = oneshot::channel();
    let server =
        axum::serve(listener, api::router(Arc::clone(&world))).with_graceful_shutdown(async {
            // An error says that the sandbox was dropped, which ends it just as well.
            let _ = stopped.await;
        });
    let server = tokio::spawn(async { server.await });
    Ok(Sandbox {
        address,
        world,
        stop: Some(stop),
        server: Some(server),
    })
}

impl Sandbox {
    /// Where it listens, with the port it got.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What a client takes as its base URL, such as `http://127.0.0.1:8788`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was accepted, refused and served so far.
    pub fn bill(&self) -> Bill {
        self.world.bill()
    }

    /// Waits until the server ends, which it does by itself only when it fails. Can be
    /// cancelled and called again.
    ///
    /// # Errors
    /// What the server failed with.
    pub async fn wait(&mut self) -> io::Result<()> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let ended = server.await;
        self.server = None;
        ended.map_err(io::Error::other)?
    }

    /// Takes no more connections, waits a few seconds for answers under way, and returns the
    /// final bill.
    pub async fn shutdown(mut self) -> Bill {
        drop(self.stop.take());
        // A client that never reads its answer must not keep the sandbox from ending.
        let _ = tokio::time::timeout(GRACE, self.wait()).await;
        self.bill()
    }
}

/// A number that differs from run to run.
fn entropy() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests;
