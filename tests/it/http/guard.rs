//! Who may come in.

use super::*;

async fn with_headers(server: &Server, headers: &[(&str, &str)]) -> Answer {
    let mut request = server.request(Method::POST, "/v1/videos");
    request = request.header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.body(wanted(json!({})).to_string())).await
}

#[tokio::test]
async fn no_web_page_spends_the_user_s_money() {
    let server = Server::start().await;
    let host = server.url.strip_prefix("http://").unwrap().to_owned();
    let port = host.rsplit(':').next().unwrap();
    let local = format!("localhost:{port}");
    let origin = format!("http://{host}");
    for good in [
        vec![],
        vec![("host", local.as_str())],
        vec![("origin", origin.as_str())],
        vec![
            ("origin", origin.as_str()),
            ("sec-fetch-site", "same-origin"),
        ],
        vec![("sec-fetch-site", "none")],
    ] {
        let made = with_headers(&server, &good).await;
        assert_eq!(made.status, 200, "{good:?}: {made:?}");
    }
    let https = format!("https://{host}");
    let other_port = format!("http://127.0.0.1:{}", 1 + port.parse::<u32>().unwrap());
    let rebound = format!("evil.example:{port}");
    let lookalike = format!("127.0.0.1.evil.example:{port}");
    for (bad, code) in [
        // DNS rebinding: the page's own name leads here.
        (vec![("host", rebound.as_str())], "host_not_allowed"),
        (vec![("host", lookalike.as_str())], "host_not_allowed"),
        (vec![("host", "localhost")], "host_not_allowed"),
        (vec![("host", "127.0.0.1:1")], "host_not_allowed"),
        // Cross-site requests.
        (
            vec![("origin", "https://evil.example")],
            "origin_not_allowed",
        ),
        (vec![("origin", "null")], "origin_not_allowed"),
        (vec![("origin", https.as_str())], "origin_not_allowed"),
        (vec![("origin", other_port.as_str())], "origin_not_allowed"),
        (vec![("sec-fetch-site", "cross-site")], "origin_not_allowed"),
        (vec![("sec-fetch-site", "same-site")], "origin_not_allowed"),
        (
            vec![("host", rebound.as_str()), ("origin", origin.as_str())],
            "host_not_allowed",
        ),
    ] {
        check_error(&with_headers(&server, &bad).await, 403, code);
    }
    // What a form of another site can send, were it to send no Origin.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "TEXT/PLAIN; charset=utf-8",
    ] {
        for path in ["/v1/videos", "/api/jobs", "/api/pause", "/api/jobs/1/retry"] {
            let request = server
                .request(Method::POST, path)
                .header("content-type", kind);
            let refused = answer(request.body(wanted(json!({})).to_string())).await;
            check_error(&refused, 415, "unsupported_media_type");
        }
    }
    // Without a body there is nothing to be read, and still nothing is done.
    for path in ["/api/resume", "/api/jobs/1/cancel", "/api/jobs/1/retry"] {
        let request = server.request(Method::POST, path);
        let request = request.header("content-type", "text/plain;charset=UTF-8");
        check_error(&answer(request).await, 415, "unsupported_media_type");
    }
    let request = server.request(Method::POST, "/v1/videos");
    check_error(
        &answer(request.body("{}")).await,
        415,
        "unsupported_media_type",
    );
    assert_eq!(server.store.counts(None).await.unwrap().total(), 5);
    assert!(server.store.fact("paused").await.unwrap().is_none());
    // No other site may read an answer either.
    assert_eq!(
        server
            .get("/v1/videos")
            .await
            .header("access-control-allow-origin"),
        "none"
    );
}

#[tokio::test]
async fn the_token_is_asked_for_everywhere_but_where_nothing_is_told() {
    let token = "sk-0123456789";
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let server = Server::with(listen, Some(token)).await;
    let paths = [
        "/v1/videos",
        "/v1/videos/1",
        "/v1/videos/1/content",
        "/api/jobs",
        "/api/jobs/1",
        "/api/status",
        "/api/batches/default",
        "/api/events",
        "/openapi.json",
        "/readyz",
        "/metrics",
        "/nothing",
    ];
    for path in paths {
        let refused = server.get(path).await;
        check_error(&refused, 401, "missing_token");
        assert_eq!(refused.error("type"), "authentication_error");
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
    }
    for bad in [
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic sk-0123456789",
        "sk-0123456789",
        "Bearer sk-012345678",
        "Bearer sk-01234567890",
        "bearer SK-0123456789",
    ] {
        let request = server
            .request(Method::GET, "/v1/videos")
            .header("authorization", bad);
        let refused = answer(request).await;
        assert_eq!(refused.status, 401, "{bad}");
        assert!(!refused.text.contains("0123456789"), "{}", refused.text);
    }
    for public in ["/healthz", "/"] {
        assert_eq!(server.get(public).await.status, 200);
    }
    for good in ["Bearer sk-0123456789", "bearer  sk-0123456789"] {
        let request = server
            .request(Method::GET, "/v1/videos")
            .header("authorization", good);
        assert_eq!(answer(request).await.status, 200, "{good}");
    }
    // A page that knows no token still gets no further by its name.
    let request = server.request(Method::GET, "/v1/videos");
    let request = request.header("authorization", format!("Bearer {token}"));
    check_error(
        &answer(request.header("host", "evil.example")).await,
        403,
        "host_not_allowed",
    );
}

#[tokio::test]
async fn nothing_listens_openly_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = Store::open(&path, Open::Create);
    let bound = http::bind(&Listen::Tcp(([0, 0, 0, 0], 0).into()))
        .await
        .unwrap();
    let http = Http {
        store: Arc::new(store.await.unwrap()),
        stats: Arc::new(Stats::default()),
        clock: Arc::new(Clock::system()),
        policy: Policy::default(),
        timezone: TimeZone::UTC,
        model: MODEL.to_owned(),
        downloads: folder.path().to_owned(),
        token: None,
    };
    let refused = http::serve(http, bound, std::future::pending()).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("http.token_file"), "{message}");

    let listen = Listen::Tcp(([0, 0, 0, 0], 0).into());
    let server = Server::with(listen, Some("t")).await;
    let url = server.url.replace("0.0.0.0", "127.0.0.1");
    let asked = |host: &str| {
        let request = server.client.get(format!("{url}/v1/videos"));
        answer(
            request
                .header("host", host.to_owned())
                .header("authorization", "Bearer t"),
        )
    };
    assert_eq!(asked("queue.example.com").await.status, 200);
}

#[tokio::test]
async fn a_taken_address_is_told_clearly() {
    let server = Server::start().await;
    let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let error = http::bind(&Listen::Tcp(address)).await.err().unwrap();
    assert!(matches!(error, HttpError::InUse { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(&address.to_string()), "{message}");
    let elsewhere = Listen::Tcp(([192, 0, 2, 1], 80).into());
    let error = http::bind(&elsewhere).await.err().unwrap();
    assert!(matches!(error, HttpError::Bind { .. }), "{error:?}");
    assert!(matches!(
        http::bind(&Listen::Off).await.err().unwrap(),
        HttpError::Off
    ));
}

#[tokio::test]
async fn a_socket_is_taken_over_from_the_dead_only_and_removed_at_the_end() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reelq.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = Listen::Unix(path.clone());
    let mut server = Server::with(listen.clone(), None).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    let client = Client::builder().unix_socket(path.clone()).build().unwrap();
    let body = wanted(json!({})).to_string();
    let request = client.post("http://localhost/v1/videos").body(body);
    let made = answer(request.header("content-type", "application/json")).await;
    assert_eq!(made.status, 200, "{made:?}");

    let error = http::bind(&listen).await.err().unwrap();
    assert!(matches!(error, HttpError::InUse { .. }), "{error:?}");
    server.stop().await;
    assert!(!path.exists());

    // Never a file that is not a socket.
    std::fs::write(&path, "precious").unwrap();
    assert!(http::bind(&listen).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn the_dashboard_runs_only_its_own_script() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy").to_owned();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    for absent in ["unsafe", "http", "*", "data:"] {
        assert!(!policy.contains(absent), "{policy}");
    }
    let script = page.text.split_once("<script>").unwrap().1;
    let script = script.split_once("</script>").unwrap().0;
    let hash = <sha2::Sha256 as sha2::Digest>::digest(script);
    let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
    assert!(policy.contains(&hash), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    // A link to it may be followed from anywhere; its data may be asked for from nowhere else.
    let linked = server
        .request(Method::GET, "/")
        .header("sec-fetch-site", "cross-site");
    assert_eq!(
        answer(linked.header("sec-fetch-mode", "navigate"))
            .await
            .status,
        200
    );
}
