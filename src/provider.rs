//! The provider's HTTP: one POST that pays, one GET that asks, one that fetches.
//!
//! The three clients differ on purpose. The paying one neither retries, nor
//! follows redirects, nor reuses an idle connection, each of which could send
//! a POST twice. The fetching one follows redirects by hand, so that the key
//! never leaves its origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::time::Instant;
use url::{Host, Url};

use crate::config::is_loopback;
use crate::job::{JobSpec, Millis};
use crate::verdict::{Answer, Reply};

/// How long a connection may take to be made, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most that is read of an answer that is not a video, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

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

/// Bytes a second: a body that comes more slowly would take days and keep
/// others from being fetched all that time.
const SLOWEST: u64 = 1024;

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
        // A video is stored as it is sent.
        let fetching = builder(CONNECT_TIMEOUT)
            .no_gzip()
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

    /// Whether the key may be sent there: same scheme, host and port as the provider.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.base_url.origin()
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

async fn exchange(request: RequestBuilder) -> Reply {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() || error.is_builder() => {
            return Reply::NotSent(chain(error));
        }
        Err(error) => {
            return Reply::Lost {
                symptom: if error.is_timeout() {
                    "timeout"
                } else {
                    "broken"
                },
                error: if error.is_timeout() {
                    "the request was sent, at least in part, but no answer came in time".to_owned()
                } else {
                    format!(
                        "the request was sent, at least in part, but the connection broke: {}",
                        chain(error)
                    )
                },
            };
        }
    };
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after: retry_after(response.headers()),
        request_id: request_ids(response.headers()),
        ..Answer::default()
    };
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if answer.body.len() + chunk.len() <= MAX_ANSWER => {
                answer.body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                answer.broken = Some(format!("longer than {MAX_ANSWER} bytes"));
                break;
            }
            Ok(None) => break,
            Err(error) => {
                answer.broken = Some(chain(error));
                break;
            }
        }
    }
    Reply::Answer(answer)
}

/// The causes of an error in one line, without the address, which may be signed.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        source = cause.source();
    }
    words
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Seconds, or a date: that is compared with the answer's own, so no two clocks need to agree.
fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let date = |name| jiff::fmt::rfc2822::parse(text(name)?).ok();
    let seconds = ["retry-after", "llm_provider-retry-after"]
        .iter()
        .find_map(|name| text(name)?.parse::<f64>().ok())
        .or_else(|| {
            let (until, now) = (date("retry-after")?, date("date")?);
            Some((until.timestamp().as_second() - now.timestamp().as_second()) as f64)
        })?;
    (seconds.is_finite() && seconds >= 0.0).then_some((seconds * 1_000.0) as Millis)
}

fn request_ids(headers: &HeaderMap) -> Option<String> {
    let ids: Vec<String> = [
        "x-oneapi-request-id",
        "x-request-id",
        "x-litellm-call-id",
        "cf-ray",
    ]
    .iter()
    .filter_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        Some(format!("{name}: {}", crate::verdict::shorten(value, 200)))
    })
    .collect();
    (!ids.is_empty()).then(|| ids.join(", "))
}

/// `bytes 5-9/10` or `bytes 5-9/*`: the first byte and the total length.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

/// A host that a video may come from. Link-local addresses and two clouds' own
/// serve a machine's secrets; loopback is fine only if the provider itself is there.
pub(crate) fn is_outer(ip: IpAddr, loopback: bool) -> bool {
    const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
                && ip != METADATA_V4
                && (loopback || !ip.is_loopback())
        }
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(embedded) => is_outer(IpAddr::V4(embedded), loopback),
            None => {
                !(ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast())
                    && ip != METADATA_V6
                    && (loopback || !ip.is_loopback())
            }
        },
    }
}

/// The IPv4 address that a packet to this one may reach: mapped, NAT64, 6to4.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => ip.to_ipv4_mapped(),
    }
}

/// Names are judged by what they resolve to.
#[derive(Debug)]
pub(crate) struct OuterResolver {
    pub(crate) loopback: bool,
}

impl reqwest::dns::Resolve for OuterResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let loopback = self.loopback;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await?
                .filter(|address| is_outer(address.ip(), loopback))
                .collect();
            if found.is_empty() {
                return Err(
                    format!("{} has no address that is fetched from", name.as_str()).into(),
                );
            }
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
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
    fn a_host_is_judged_by_where_a_packet_may_go() {
        #[rustfmt::skip]
        let rows = [
            ("169.254.169.254", false), ("100.100.100.200", false), ("fd00:ec2::254", false),
            ("127.0.0.1", false), ("::1", false), ("0.0.0.0", false), ("::", false),
            ("::ffff:169.254.169.254", false), ("::ffff:100.100.100.200", false),
            ("64:ff9b::169.254.169.254", false), ("64:ff9b::127.0.0.1", false),
            ("64:ff9b::100.100.100.200", false), ("64:ff9b::0.0.0.0", false),
            ("2002:a9fe:a9fe::1", false), ("2002:7f00:1::", false), ("2002:6464:64c8::1", false),
            ("203.0.113.9", true), ("100.100.100.201", true), ("fd00:ec2::253", true),
            ("::ffff:203.0.113.9", true), ("64:ff9b::203.0.113.9", true),
            ("2002:cb00:7109::1", true), ("2001:db8::9", true),
        ];
        for (ip, outer) in rows {
            assert_eq!(is_outer(ip.parse().unwrap(), false), outer, "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "64:ff9b::127.0.0.1", "::ffff:127.0.0.1"] {
            assert!(
                is_outer(ip.parse().unwrap(), true),
                "{ip}, beside the provider"
            );
        }
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_a_date() {
        let asked = |headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            retry_after(&headers.collect())
        };
        let now = ("date", "Wed, 25 Nov 2026 03:50:00 GMT");
        assert_eq!(asked(&[("retry-after", "7")]), Some(7_000));
        assert_eq!(asked(&[("llm_provider-retry-after", "0.5")]), Some(500));
        let later = ("retry-after", "Wed, 25 Nov 2026 03:50:20 GMT");
        assert_eq!(asked(&[now, later]), Some(20_000));
        assert_eq!(asked(&[later]), None, "compared with nothing");
        let before = ("retry-after", "Wed, 25 Nov 2026 03:49:00 GMT");
        assert_eq!(asked(&[now, before]), None);
        assert_eq!(asked(&[now, ("retry-after", "soon")]), None);
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
