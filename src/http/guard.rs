//! Who may come in. A web page must never spend the user's money: on loopback
//! the request must be meant for this address and come from no other site;
//! elsewhere it must know the token.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::App;
use super::error::{ApiError, ApiResult};
use super::input::{media_type, wrong_type};

/// What is left of a refused body is read and thrown away up to here, so that
/// the client gets to read the answer.
const DRAINED: usize = 64 << 20;

/// And for so long.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Pages without a word of the queue in them.
const PUBLIC: [&str; 2] = ["/healthz", "/"];

/// Where requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// A loopback address with this port.
    Loopback(u16),
    /// An address that other machines reach.
    Network,
    /// A socket, which no web page reaches.
    Socket,
}

impl Door {
    pub fn of(address: SocketAddr) -> Door {
        match address.ip().is_loopback() {
            true => Door::Loopback(address.port()),
            false => Door::Network,
        }
    }
}

/// The outermost layer: judges, answers a panic, and hears the client out.
pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let rest = (!body.is_end_stream()).then(|| Rest::new(body));
    let waits = parts.headers.contains_key(header::EXPECT);
    let body = match &rest {
        Some(rest) => Body::from_stream(rest.clone()),
        None => Body::empty(),
    };
    let verdict = judge(&app, &parts.method, &parts.uri, &parts.headers);
    let mut response = match verdict {
        Err(refused) => refused.into_response(),
        Ok(()) => {
            let answer = next.run(Request::from_parts(parts, body));
            match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(response) => response,
                Err(_) => {
                    tracing::error!("a request panicked: a bug; the queue is as it was");
                    ApiError::internal().into_response()
                }
            }
        }
    };
    if let Some(rest) = rest {
        // A client that waits for "100 Continue" sends nothing before.
        rest.drain(waits).await;
    }
    let headers = response.headers_mut();
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn judge(app: &App, method: &Method, uri: &Uri, headers: &HeaderMap) -> ApiResult<()> {
    if let Door::Loopback(port) = app.door {
        check_site(port, uri, headers)?;
    }
    if let Some(token) = &app.http.token
        && !PUBLIC.contains(&uri.path())
    {
        check_token(token, headers)?;
    }
    // What a page of another site can send without asking the browser first.
    if method != Method::GET && method != Method::HEAD {
        let found = media_type(headers);
        if found == "text/plain" || found == "application/x-www-form-urlencoded" {
            return Err(wrong_type(&found, "application/json"));
        }
    }
    Ok(())
}

fn check_site(port: u16, uri: &Uri, headers: &HeaderMap) -> ApiResult<()> {
    let refuse = |code, message: String| Err(ApiError::new(StatusCode::FORBIDDEN, code, message));
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|value| value.to_str().ok());
    let authority = uri.authority().map(|authority| authority.as_str());
    let good = hosts.next().is_none()
        && host.is_some_and(|host| is_ours(host, port))
        && authority.is_none_or(|authority| is_ours(authority, port));
    if !good {
        return refuse(
            "host_not_allowed",
            format!("reelq answers here only as localhost:{port} or 127.0.0.1:{port}"),
        );
    }
    let from_here = headers.get_all(header::ORIGIN).iter().all(|origin| {
        origin
            .to_str()
            .ok()
            .and_then(|origin| origin.strip_prefix("http://"))
            .is_some_and(|origin| Some(origin) == host)
    });
    let site = headers
        .get("sec-fetch-site")
        .and_then(|site| site.to_str().ok());
    // A link to the dashboard may be followed from anywhere.
    let asks = matches!(site, Some("cross-site" | "same-site"))
        && headers
            .get("sec-fetch-mode")
            .is_none_or(|mode| mode != "navigate");
    if !from_here || asks {
        return refuse(
            "origin_not_allowed",
            "a web page of another site may not use reelq".to_owned(),
        );
    }
    Ok(())
}

/// Whether an authority is a loopback name or address with our port.
fn is_ours(authority: &str, port: u16) -> bool {
    let (host, given) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => match digits.parse::<u16>() {
            Ok(given) => (host, given),
            Err(_) => return false,
        },
        _ => (authority, 80),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let loopback = match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() && ip.is_ipv6() == host.starts_with('['),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    loopback && given == port
}

fn check_token(token: &SecretString, headers: &HeaderMap) -> ApiResult<()> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, given)| given.trim());
    // Hashes have one length, so not even the token's length can be measured.
    let hash = |text: &str| Sha256::digest(text.as_bytes());
    let same = hash(given.unwrap_or_default()).ct_eq(&hash(token.expose_secret()));
    if given.is_some() && bool::from(same) {
        return Ok(());
    }
    let (code, message) = match given {
        None => (
            "missing_token",
            "reelq needs its token: send it as \"Authorization: Bearer TOKEN\"; SDKs call it the API key",
        ),
        Some(_) => (
            "invalid_api_key",
            "this is not the token in the file that http.token_file names",
        ),
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, code, message))
}

/// A body that the guard keeps a hand on.
#[derive(Clone)]
struct Rest(Arc<Mutex<Reading>>);

struct Reading {
    stream: BodyDataStream,
    begun: bool,
    over: bool,
}

impl Rest {
    fn new(body: Body) -> Rest {
        Rest(Arc::new(Mutex::new(Reading {
            stream: body.into_data_stream(),
            begun: false,
            over: false,
        })))
    }

    /// Reads on to the end, within limits.
    async fn drain(mut self, waits: bool) {
        let skip = {
            let reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            reading.over || (waits && !reading.begun)
        };
        if skip {
            return;
        }
        let all = async {
            let mut length = 0;
            while let Some(Ok(chunk)) = self.next().await {
                length += chunk.len();
                if length > DRAINED {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, all).await;
    }
}

impl Stream for Rest {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.over {
            return Poll::Ready(None);
        }
        reading.begun = true;
        let item = reading.stream.poll_next_unpin(cx);
        reading.over = matches!(item, Poll::Ready(None | Some(Err(_))));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_with_the_port_are_ours() {
        for (authority, ours) in [
            ("localhost:8787", true),
            ("LocalHost:8787", true),
            ("127.0.0.1:8787", true),
            ("127.9.9.9:8787", true),
            ("[::1]:8787", true),
            ("localhost", false),
            ("localhost:80", false),
            ("localhost:", false),
            ("::1:8787", false),
            ("[127.0.0.1]:8787", false),
            ("evil.example:8787", false),
            ("localhost.evil.example:8787", false),
            ("127.0.0.1.evil.example:8787", false),
            ("10.0.0.1:8787", false),
            ("user@localhost:8787", false),
            ("", false),
            (":8787", false),
        ] {
            assert_eq!(is_ours(authority, 8787), ours, "{authority:?}");
        }
        assert!(is_ours("localhost", 80));
        assert!(is_ours("[::1]", 80));
    }
}
