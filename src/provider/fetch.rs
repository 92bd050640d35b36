//! A video's bytes: where they may come from, and how fast they have to.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{self, HeaderMap};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::{Host, Url};

use super::exchange::chain;
use super::hosts::is_outer;
use super::{CONNECT_TIMEOUT, KEY_MARK, PLAIN, Provider};
use crate::config::is_loopback;

/// Bytes a second: a body that comes more slowly would take days and keep
/// others from being fetched all that time.
const SLOWEST: u64 = 1024;

/// Why bytes did not come.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{words}")]
pub struct FetchError {
    /// What happened.
    pub words: String,
    /// Not even a connection was made.
    pub unreachable: bool,
}

impl FetchError {
    fn broken(words: String) -> FetchError {
        FetchError {
            words,
            unreachable: false,
        }
    }
}

/// The start of an answer whose body is still to come.
pub struct Opened {
    /// The status code.
    pub status: u16,
    /// The length that the server names for this body, in bytes.
    pub length: Option<u64>,
    /// First byte and total length of a partial answer, as `Content-Range` says.
    pub range: Option<(u64, Option<u64>)>,
    /// The `ETag`, if it is quoted and not weak.
    pub validator: Option<String>,
    /// Where a redirect points.
    pub location: Option<String>,
    response: Response,
    idle_timeout: Duration,
    pace: Pace,
}

impl Opened {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, no byte came for `idle_timeout`, or in twice that
    /// time less than a KiB a second.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        match tokio::time::timeout(self.idle_timeout, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => match self.pace.came(chunk.len(), Instant::now()) {
                true => Ok(Some(chunk)),
                false => Err(FetchError::broken(format!(
                    "less than {SLOWEST} bytes a second for {:?}",
                    self.pace.window
                ))),
            },
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(FetchError::broken(chain(error))),
            Err(_) => Err(FetchError::broken(format!(
                "no byte for {:?}",
                self.idle_timeout
            ))),
        }
    }
}

/// Whether a body comes fast enough, window by window.
struct Pace {
    window: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration, now: Instant) -> Pace {
        Pace {
            window,
            since: now,
            bytes: 0,
        }
    }

    /// Counts bytes; false if a window is over that brought too few.
    fn came(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes += bytes as u64;
        let passed = now - self.since;
        if passed < self.window {
            return true;
        }
        let enough = self.bytes / SLOWEST >= self.window.as_secs();
        *self = Pace::new(self.window, now);
        enough
    }
}

impl Provider {
    /// An address as the provider gave it, made absolute, if it may be fetched.
    ///
    /// # Errors
    /// Not http(s), or a host that no video is served from.
    pub fn video_address(&self, text: &str, base: Option<&Url>) -> Result<Url, String> {
        let join = |link: &str| {
            base.unwrap_or(&self.endpoint.base_url)
                .join(link)
                .map_err(|error| format!("{text:?} is not an address: {error}"))
        };
        let mut url = join(text)?;
        // Of a link that was kept; whoever else writes the mark is not told the key.
        if text.contains(KEY_MARK) && self.is_own(&url) {
            url = join(&text.replace(KEY_MARK, self.endpoint.key.expose_secret()))?;
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{}: only http and https are fetched", url.scheme()));
        }
        // A name before the host is a disguise more often than a password, and would be sent as one.
        // It cannot fail: the scheme was looked at.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(_)) => None,
            None => return Err(format!("{text:?} names no host")),
        };
        if literal.is_some_and(|ip| !is_outer(ip, is_loopback(&self.endpoint.base_url))) {
            return Err(format!(
                "{}: a host that is never fetched from",
                url.host_str().unwrap_or("")
            ));
        }
        Ok(url)
    }

    /// Asks for a file, from `offset` on if the content is still the one that
    /// `validator` names. The key goes along only if `with_key`, and only to
    /// the provider's own origin.
    ///
    /// # Errors
    /// No connection, or no status line in time.
    pub async fn open(
        &self,
        url: &Url,
        with_key: bool,
        resume: Option<(u64, &str)>,
    ) -> Result<Opened, FetchError> {
        let mut request = self
            .fetching
            .get(url.clone())
            .header(header::ACCEPT, "video/mp4, */*;q=0.5")
            .header(header::ACCEPT_ENCODING, PLAIN)
            .header(header::CACHE_CONTROL, "no-cache");
        if with_key && self.is_own(url) {
            request = request.header(header::AUTHORIZATION, self.authorization.clone());
        }
        if let Some((offset, validator)) = resume {
            request = request
                .header(header::RANGE, format!("bytes={offset}-"))
                .header(header::IF_RANGE, validator);
        }
        let idle_timeout = self.endpoint.idle_timeout;
        let response =
            match tokio::time::timeout(idle_timeout + CONNECT_TIMEOUT, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    return Err(FetchError {
                        unreachable: error.is_connect(),
                        words: chain(error),
                    });
                }
                Err(_) => {
                    return Err(FetchError::broken(format!(
                        "no answer for {idle_timeout:?}"
                    )));
                }
            };
        let headers = response.headers();
        let text = |name| text(headers, name);
        Ok(Opened {
            status: response.status().as_u16(),
            length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            range: text(header::CONTENT_RANGE).and_then(|range| content_range(&range)),
            validator: text(header::ETAG)
                .filter(|tag| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"')),
            location: text(header::LOCATION),
            response,
            idle_timeout,
            pace: Pace::new(2 * idle_timeout, Instant::now()),
        })
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .map(|text| text.trim().to_owned())
}

/// `bytes 5-9/10` or `bytes 5-9/*`: the first byte and the total length.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_crawls_is_given_up() {
        let start = Instant::now();
        for (bytes, secs, enough) in [
            (1024, 60, true),
            (1000, 60, false),
            (3, 60, false),
            (3, 59, true),
        ] {
            let mut pace = Pace::new(Duration::from_secs(60), start);
            let all = (1..=secs).all(|s| pace.came(bytes, start + Duration::from_secs(s)));
            assert_eq!(all, enough, "{bytes} a second for {secs} s");
        }
        // A good beginning is no excuse later.
        let mut pace = Pace::new(Duration::from_secs(60), start);
        assert!(pace.came(1 << 20, start + Duration::from_secs(61)));
        assert!(!pace.came(1, start + Duration::from_secs(121)));
    }
}
