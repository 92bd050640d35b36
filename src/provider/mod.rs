//! The provider's HTTP: one POST that pays, one GET that asks, one that fetches.
//!
//! The three clients differ on purpose. The paying one neither retries, nor
//! follows redirects, nor reuses an idle connection, each of which could send
//! a POST twice. The fetching one follows redirects by hand, so that the key
//! never leaves its origin.

mod exchange;
mod fetch;
mod hosts;

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{self, HeaderValue};
use reqwest::{Client, RequestBuilder, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use crate::config::is_loopback;
use crate::job::JobSpec;
use crate::verdict::Reply;
use exchange::exchange;
pub(crate) use exchange::{chain, unzipped};
pub use fetch::{FetchError, Opened};
pub(crate) use hosts::{OuterResolver, is_outer};

/// How long a connection may take to be made, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Asked for; an answer that is compressed all the same is understood.
const PLAIN: &str = "identity";

/// Stands for the key in what is kept.
const KEY_MARK: &str = "[key]";

/// What a path segment may hold unescaped.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Where the provider is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The address in front of `/v1/videos`.
    pub base_url: Url,
    /// Sent as a bearer token, to this origin only.
    pub key: SecretString,
    /// The value of `model`.
    pub model: String,
    /// How long a POST may take altogether.
    pub post_timeout: Duration,
    /// How long a GET of a task may take altogether.
    pub poll_timeout: Duration,
    /// How long a download may be without a byte.
    pub idle_timeout: Duration,
}

/// The provider.
pub struct Provider {
    endpoint: Endpoint,
    authorization: HeaderValue,
    paying: Client,
    asking: Client,
    fetching: Client,
}

/// Why the HTTP clients could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be set up: {0}")]
pub struct SetupError(String);

impl Provider {
    /// Sets up the three clients.
    ///
    /// # Errors
    /// The system's certificates cannot be read, or the key is not a header value.
    pub fn new(endpoint: Endpoint) -> Result<Provider, SetupError> {
        // Fails only if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let setup = |error: reqwest::Error| SetupError(chain(error));
        if endpoint.key.expose_secret().is_empty() {
            return Err(SetupError("the key is empty".to_owned()));
        }
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", endpoint.key.expose_secret())).map_err(
                |_| SetupError("the key holds a character that a header cannot carry".to_owned()),
            )?;
        authorization.set_sensitive(true);
        let builder = |connect_timeout: Duration| {
            Client::builder()
                .user_agent(concat!("reelq/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(connect_timeout)
        };
        // Before the time for the whole request is over: that it was not sent must not be in doubt.
        let part_of = |whole: Duration| CONNECT_TIMEOUT.min(whole / 2);
        let paying = builder(part_of(endpoint.post_timeout))
            .http1_only()
            .pool_max_idle_per_host(0)
            .build()
            .map_err(setup)?;
        let asking = builder(part_of(endpoint.poll_timeout))
            .build()
            .map_err(setup)?;
        let loopback = is_loopback(&endpoint.base_url);
        let fetching = builder(CONNECT_TIMEOUT)
            .dns_resolver(Arc::new(OuterResolver { loopback }))
            .build()
            .map_err(setup)?;
        Ok(Provider {
            endpoint,
            authorization,
            paying,
            asking,
            fetching,
        })
    }

    /// Submits a job. This is the request that costs money: it is sent once.
    /// The idempotency key names this very try, in case a gateway honours it.
    pub async fn create(&self, spec: &JobSpec, idempotency_key: &str) -> Reply {
        let body = json!({
            "model": self.endpoint.model,
            "prompt": spec.prompt,
            "image_url": spec.image_url,
            "duration": spec.duration,
            "size": spec.size.as_str(),
        });
        let request = self
            .paying
            .post(self.address("v1/videos"))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, PLAIN)
            .header("idempotency-key", idempotency_key)
            .header("x-request-id", idempotency_key)
            .timeout(self.endpoint.post_timeout)
            .body(body.to_string());
        self.exchange(request).await
    }

    /// Asks for a task.
    pub async fn task(&self, task_id: &str) -> Reply {
        let request = self
            .asking
            .get(self.task_address(task_id, ""))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, PLAIN)
            .header(header::CACHE_CONTROL, "no-cache")
            .timeout(self.endpoint.poll_timeout);
        self.exchange(request).await
    }

    /// A request that costs nothing and needs the key.
    pub async fn probe(&self) -> Reply {
        let request = self
            .asking
            .get(self.address("v1/models"))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::ACCEPT, "application/json")
            .timeout(self.endpoint.poll_timeout);
        self.exchange(request).await
    }

    /// The address of a task's video at the provider itself.
    pub fn content_address(&self, task_id: &str) -> Url {
        self.task_address(task_id, "/content")
    }

    /// Whether the key may be sent there: same scheme, host and port as the provider.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.base_url.origin()
    }

    /// Some gateways repeat the key in their words or links; it is kept nowhere.
    pub fn without_key(&self, words: String) -> String {
        let key = self.endpoint.key.expose_secret();
        if words.contains(key) {
            words.replace(key, KEY_MARK)
        } else {
            words
        }
    }

    async fn exchange(&self, request: RequestBuilder) -> Reply {
        match exchange(request).await {
            Reply::Answer(mut answer) => {
                let key = self.endpoint.key.expose_secret().as_bytes();
                // Judged is what came: an id or a link may hold the key, or a word that is like it.
                if answer.body.windows(key.len()).any(|part| part == key) {
                    let words = String::from_utf8_lossy(&answer.body).into_owned();
                    answer.shown = Some(self.without_key(words).into_bytes());
                }
                answer.request_id = answer.request_id.map(|id| self.without_key(id));
                Reply::Answer(answer)
            }
            other => other,
        }
    }

    fn task_address(&self, task_id: &str, tail: &str) -> Url {
        let id = utf8_percent_encode(task_id, SEGMENT);
        self.address(&format!("v1/videos/{id}{tail}"))
    }

    fn address(&self, path: &str) -> Url {
        let mut url = self.endpoint.base_url.clone();
        let prefix = url.path().trim_end_matches('/');
        let path = format!("{prefix}/{path}");
        url.set_path(&path);
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(base: &str) -> Provider {
        Provider::new(Endpoint {
            base_url: base.parse().unwrap(),
            key: "k".to_owned().into(),
            model: "m".to_owned(),
            post_timeout: Duration::from_secs(1),
            poll_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        })
        .unwrap()
    }

    #[test]
    fn a_task_id_stays_one_path_segment() {
        let provider = provider("https://example.com/api/");
        assert_eq!(
            provider.content_address("sora-2:a/../b?c#d==").as_str(),
            "https://example.com/api/v1/videos/sora-2%3Aa%2F..%2Fb%3Fc%23d%3D%3D/content"
        );
    }

    #[tokio::test]
    async fn a_connection_that_is_never_made_carries_no_post() {
        // The system takes the connection, and nobody speaks TLS on it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = provider(&format!("https://{}", silent.local_addr().unwrap()));
        let spec = JobSpec::new("a boat", "https://example.com/boat.jpg");
        for reply in [provider.create(&spec, "1").await, provider.probe().await] {
            assert!(matches!(reply, Reply::NotSent(_)), "{reply:?}");
        }
    }

    #[test]
    fn addresses_that_are_never_fetched() {
        let provider = provider("https://example.com");
        for refused in [
            "file:///etc/passwd",
            "ftp://example.com/a.mp4",
            "data:video/mp4;base64,AAAA",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/a.mp4",
            "http://[::ffff:169.254.169.254]/a.mp4",
            "http://127.0.0.1/a.mp4",
            "http://0.0.0.0/a.mp4",
        ] {
            assert!(provider.video_address(refused, None).is_err(), "{refused}");
        }
        for (given, fetched) in [
            ("/files/a.mp4", "https://example.com/files/a.mp4"),
            (
                "https://cdn.example.net/a.mp4",
                "https://cdn.example.net/a.mp4",
            ),
            ("//cdn.example.net/a.mp4", "https://cdn.example.net/a.mp4"),
        ] {
            assert_eq!(
                provider.video_address(given, None).unwrap().as_str(),
                fetched
            );
        }
    }

    #[test]
    fn the_key_is_only_for_the_provider_s_origin() {
        let provider = provider("https://example.com");
        for (url, own) in [
            ("https://example.com/x", true),
            ("https://example.com:443/x", true),
            ("https://example.com:444/x", false),
            ("http://example.com/x", false),
            ("https://cdn.example.com/x", false),
        ] {
            assert_eq!(provider.is_own(&url.parse().unwrap()), own, "{url}");
        }
    }
}
