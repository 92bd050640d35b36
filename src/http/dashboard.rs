//! `GET /`: the dashboard, one page that loads nothing from anywhere.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("dashboard.html");

/// The page's own script and style run, by their hashes, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (hash("<script>", "</script>"), hash("<style>", "</style>"));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

fn hash(open: &str, close: &str) -> String {
    let text = PAGE
        .split_once(open)
        .and_then(|(_, rest)| rest.split_once(close))
        .map_or("", |(text, _)| text);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

pub(super) async fn get() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_script_and_one_style_and_loads_nothing() {
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
        for absent in [
            "http://",
            "https://",
            "src=",
            "href=",
            "style=",
            "onclick",
            "innerHTML",
            "eval(",
            "insertAdjacentHTML",
            "document.write",
        ] {
            assert!(!PAGE.contains(absent), "{absent}");
        }
        assert_ne!(hash("<script>", "</script>"), hash("<none>", "</none>"));
    }
}
