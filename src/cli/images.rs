//! Whether an input image is there, asked before any money is spent on it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RANGE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response};
use tokio::sync::mpsc::Receiver;
use url::{Host, Url};

use super::failure::Failure;
use crate::config::is_loopback;
use crate::provider::{self, OuterResolver};

/// Images that are asked for at once.
const CONCURRENCY: usize = 16;

/// For one image's beginning.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Before a fault that may pass is believed.
const PAUSE: Duration = Duration::from_secs(1);

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Enough to tell an image by its first bytes.
const ENOUGH: usize = 16;

/// A URL without its text: of hundreds of thousands only this is kept.
pub type UrlHash = u64;

/// Asks for images.
#[derive(Debug)]
pub struct Checker {
    client: Client,
    loopback: bool,
    hasher: RandomState,
}

/// What is wrong with some URLs, by their hash.
pub type Verdicts = HashMap<UrlHash, String>;

impl Checker {
    /// A checker for images that the provider at this address is to fetch.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(base_url: &Url) -> Result<Checker, Failure> {
        // Fails only if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let loopback = is_loopback(base_url);
        let client = Client::builder()
            .user_agent(concat!("reelq/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::custom(move |attempt| redirect(attempt, loopback)))
            .dns_resolver(Arc::new(OuterResolver { loopback }))
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| {
                Failure::failed(format_args!(
                    "the HTTP client cannot be set up: {}",
                    provider::chain(error)
                ))
            })?;
        Ok(Checker {
            client,
            loopback,
            hasher: RandomState::new(),
        })
    }

    /// What stands for a URL in [`Verdicts`].
    pub fn hash(&self, url: &str) -> UrlHash {
        self.hasher.hash_one(url)
    }

    /// Looks at every URL that comes in, each once; `looked` is called after each.
    pub async fn check_all(&self, urls: Receiver<String>, looked: impl Fn()) -> Verdicts {
        let mut seen = HashSet::new();
        stream::unfold(urls, |mut urls| async {
            urls.recv().await.map(|url| (url, urls))
        })
        .filter(|url| std::future::ready(seen.insert(self.hash(url))))
        .map(async |url| {
            let hash = self.hash(&url);
            let verdict = self.check(&url).await;
            looked();
            verdict.err().map(|reason| (hash, reason))
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await
    }

    /// Whether an image is there.
    ///
    /// # Errors
    /// What was found instead, as a sentence that the field's name begins.
    pub async fn check(&self, url: &str) -> Result<(), String> {
        match self.look(url).await {
            Err((_, true)) => {
                tokio::time::sleep(PAUSE).await;
                self.look(url).await
            }
            verdict => verdict,
        }
        .map_err(|(reason, _)| reason)
    }

    /// The reason, and whether it may pass.
    async fn look(&self, url: &str) -> Result<(), (String, bool)> {
        let for_good = |reason: String| (reason, false);
        let url: Url = url
            .parse()
            .map_err(|error| for_good(format!("is not a URL: {error}")))?;
        if !is_reachable(&url, self.loopback) {
            return Err(for_good(format!(
                "names {}, which only this machine reaches: the provider has to fetch it",
                url.host_str().unwrap_or_default()
            )));
        }
        let request = self
            .client
            .get(url)
            .header(ACCEPT, "image/*")
            .header(RANGE, "bytes=0-65535");
        let may_pass = |error: reqwest::Error| {
            let reason = format!("cannot be fetched: {}", provider::chain(error));
            (reason, true)
        };
        let mut response = request.send().await.map_err(may_pass)?;
        let status = response.status();
        if !status.is_success() {
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            return Err((format!("answers HTTP {status}"), passing));
        }
        let mut head = Vec::new();
        while head.len() < ENOUGH
            && let Some(chunk) = response.chunk().await.map_err(may_pass)?
        {
            head.extend_from_slice(&chunk);
        }
        if is_image(&head) {
            Ok(())
        } else {
            Err(for_good(format!(
                "is not a JPEG, PNG, WebP or GIF image: it answers with {}",
                description(&response, &head)
            )))
        }
    }
}

fn description(response: &Response, head: &[u8]) -> String {
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|kind| super::format::one_line(kind, 60));
    match (head.is_empty(), kind) {
        (true, _) => "nothing".to_owned(),
        (false, Some(kind)) => format!("what it calls {kind}"),
        (false, None) => "something else".to_owned(),
    }
}

/// Whether the provider could fetch from there, as far as the address says.
fn is_reachable(url: &Url, loopback: bool) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => provider::is_outer(ip.into(), loopback),
        Some(Host::Ipv6(ip)) => provider::is_outer(ip.into(), loopback),
        Some(Host::Domain(_)) => true,
        None => false,
    }
}

fn redirect(attempt: Attempt, loopback: bool) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        attempt.error("too many redirects")
    } else if is_reachable(attempt.url(), loopback) {
        attempt.follow()
    } else {
        attempt.error("it redirects to an address that only this machine reaches")
    }
}

/// JPEG, PNG, GIF or WebP by the first bytes.
fn is_image(head: &[u8]) -> bool {
    head.starts_with(b"\xff\xd8\xff")
        || head.starts_with(b"\x89PNG\r\n\x1a\n")
        || head.starts_with(b"GIF87a")
        || head.starts_with(b"GIF89a")
        || (head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_first_bytes() {
        for (head, image) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF"[..], true),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", true),
            (b"GIF89a\x01\0\x01\0", true),
            (b"RIFF\x24\0\0\0WEBPVP8 ", true),
            (b"RIFF\x24\0\0\0WAVEfmt ", false),
            (b"<!DOCTYPE html>", false),
            (b"\xff\xd8", false),
            (b"", false),
        ] {
            assert_eq!(is_image(head), image, "{head:?}");
        }
    }

    #[test]
    fn addresses_that_the_provider_cannot_reach() {
        let reachable = |url: &str, loopback| is_reachable(&url.parse().unwrap(), loopback);
        assert!(reachable("https://example.com/a.png", false));
        assert!(!reachable("http://127.0.0.1/a.png", false));
        assert!(reachable("http://127.0.0.1/a.png", true));
        assert!(!reachable("http://169.254.169.254/a.png", true));
        assert!(!reachable("http://[::1]/a.png", false));
    }
}
