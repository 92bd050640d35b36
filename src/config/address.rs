//! Addresses: where to listen, where the provider is, and who can read on the way.

use std::net::SocketAddr;
use std::path::Path;

use url::{Host, Url};

use super::raw;
use super::settings::Listen;

/// The longest path that a Unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn listen(folder: &Path, text: &str) -> Option<Listen> {
    if text.is_empty() {
        return Some(Listen::Off);
    }
    let Some(path) = text.strip_prefix("unix:") else {
        return tcp_address(text).map(Listen::Tcp);
    };
    let path = raw::path(folder, path)?;
    (path.as_os_str().len() <= MAX_SOCKET_PATH).then_some(Listen::Unix(path))
}

/// `IP:PORT` or `localhost:PORT`. The name is not looked up: who could say where that leads?
pub(crate) fn tcp_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(([127, 0, 0, 1], port.parse().ok()?).into()),
        None => text.parse().ok(),
    }
}

/// With exactly one `/` at the end of its path, and without the `/v1` that SDKs want there:
/// asked for below `/v1/v1`, every job would be refused.
pub(super) fn as_folder(mut url: Url) -> Url {
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    let path = format!("{}/", path.trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// Whether what is sent there can be read on the way.
pub(super) fn is_exposed(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// Whether a URL names this machine itself.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
