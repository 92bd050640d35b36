//! Garbage, floods and slow clients.

use reelq::job::JobSpec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Every operation of the description, with an example in each path.
async fn operations(server: &Server) -> Vec<(Method, String)> {
    let api = server.get("/openapi.json").await.body;
    let mut all = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for method in ["get", "post", "delete"] {
            if item.get(method).is_some() {
                let method = method.to_uppercase().parse().unwrap();
                let path = path.replace("{video_id}", "video_1").replace("{id}", "1");
                all.push((method, path.replace("{name}", "default")));
            }
        }
    }
    assert!(all.len() >= 19, "{all:?}");
    all
}

#[tokio::test]
async fn garbage_in_is_an_error_out() {
    let server = Server::start().await;
    server.new_job().await;
    // Bytes of every value, 10 MB of them.
    let garbage: Vec<u8> = (0..10_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let kinds = [
        "application/json",
        "application/x-ndjson",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/csv",
        "garbage",
        "",
    ];
    for (method, path) in operations(&server).await {
        for kind in kinds {
            let request = server
                .request(method.clone(), &path)
                .header("content-type", kind);
            let got = answer(request.body(garbage.clone())).await;
            let status = got.status.as_u16();
            assert!(status < 500, "{method} {path} {kind}: {got:?}");
            let changes = method == Method::POST && path != "/api/jobs/1/retry";
            assert!(!changes || status >= 400, "{method} {path} {kind}: {got:?}");
        }
        let query = format!("{path}?limit=%FF%00&after=[]&order=;&state='&batch=%&variant=..");
        let got = answer(server.request(method.clone(), &query)).await;
        assert!(got.status.as_u16() < 500, "{query}: {got:?}");
    }
    let job = server.store.job(1).await.unwrap().unwrap();
    assert!(
        matches!(job.state, State::Pending | State::Cancelled),
        "{job:?}"
    );
    assert_eq!(server.store.counts(None).await.unwrap().total(), 1);
}

#[tokio::test]
async fn wrong_paths_and_methods_are_errors_of_the_same_shape() {
    let server = Server::start().await;
    for path in [
        "/nothing",
        "/v1",
        "/v1/videos/",
        "/v1/videos/1/",
        "/api",
        "//",
        "/v1/videos/a/b/c",
    ] {
        check_error(&server.get(path).await, 404, "unknown_url");
    }
    for (method, path, allowed) in [
        (Method::PUT, "/v1/videos", "GET,HEAD,POST"),
        (Method::PATCH, "/v1/videos/1", "GET,HEAD,DELETE"),
        (Method::DELETE, "/api/jobs", "GET,HEAD,POST"),
        (Method::GET, "/api/pause", "POST"),
        (Method::OPTIONS, "/v1/videos", "GET,HEAD,POST"),
        (Method::POST, "/", "GET,HEAD"),
        (Method::TRACE, "/healthz", "GET,HEAD"),
    ] {
        let refused = answer(server.request(method.clone(), path)).await;
        check_error(&refused, 405, "method_not_allowed");
        assert_eq!(refused.header("allow"), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_has_an_end() {
    let server = Server::start().await;
    let prompt = "x".repeat(1 << 20);
    let refused = server.create(json!({"prompt": prompt})).await;
    check_error(&refused, 413, "body_too_large");
    // The longest good one: every letter of the prompt takes six bytes.
    let body = format!(
        "{{\"prompt\":\"{}\",\"image_url\":\"https://example.com/1.png\"}}",
        "\\u0078".repeat(100_000)
    );
    let request = server.request(Method::POST, "/v1/videos");
    let request = request.header("content-type", "application/json");
    let made = answer(request.body(body)).await;
    assert_eq!(made.status, 200, "{:?}", made.body["error"]);

    for (length, status) in [
        (50_000, "HTTP/1.1 200 OK\r\n"),
        (100_000, "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
    ] {
        let mut stream = connect(&server).await;
        let end = format!("X: {}\r\n\r\n", "a".repeat(length));
        let head = head(&stream, "/healthz").replace("\r\n\r\n", "\r\n") + &end;
        // The server may close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(status), "{length}: {answer}");
    }
}

/// A client that goes away in the middle leaves nothing behind and blocks nobody.
#[tokio::test]
async fn clients_that_break_off_change_nothing() {
    let server = Server::start().await;
    let address = server.url.strip_prefix("http://").unwrap();
    for path in ["/v1/videos", "/api/jobs"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let line = wanted(json!({})).to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: 1000\r\n\r\n{line}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // While it has not ended, others are served: it holds no lock.
        server.new_job().await;
        drop(stream);
    }
    server.new_job().await;
    assert_eq!(server.store.counts(None).await.unwrap().total(), 3);
}

/// The server's places for connections.
const CONNECTIONS: usize = 512;

/// Less than a request's head may take.
const SOON: Duration = Duration::from_secs(20);

/// Both ends of many connections are this process's.
fn allow_many_files() {
    let allowed = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: allowed.maximum,
        ..allowed
    };
    setrlimit(Resource::Nofile, all).unwrap();
}

/// A connection on which nothing has been sent yet.
async fn connect(server: &Server) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// A request for something.
fn head(stream: &TcpStream, path: &str) -> String {
    let address = stream.peer_addr().unwrap();
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
}

/// Those who wait for a request make room; events and downloads go on.
#[tokio::test]
async fn idle_and_slow_clients_shut_nobody_out() {
    allow_many_files();
    let server = Server::start().await;
    let content = vec![7; 16_000_000];
    let id = server.done(&content).await;
    let path = format!("/v1/videos/{id}/content");
    let download = server.request(Method::GET, &path).send().await.unwrap();
    let events = server.request(Method::GET, "/api/events?after=0");
    let mut events = events.send().await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(&server).await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nX")
            .await
            .unwrap();
        idle.push(stream);
    }
    for _ in 0..20 {
        let mut newcomer = connect(&server).await;
        let asked = head(&newcomer, "/healthz").replace("Connection: close\r\n", "");
        newcomer.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = [0; 4_096];
        let read = tokio::time::timeout(SOON, newcomer.read(&mut answer));
        assert_ne!(read.await.unwrap().unwrap(), 0);
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        idle.push(newcomer);
    }
    assert_eq!(download.bytes().await.unwrap(), content);
    let spec = JobSpec::new("p", "https://example.com/1.png");
    let next = server.store.insert(&[spec]).await.unwrap().inserted[0];
    server.happen(next, vec![Event::Cancelled]).await;
    let mut text = String::new();
    while !text.contains("cancelled") {
        let chunk = events.chunk().await.unwrap().expect("the stream ended");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test]
async fn a_stop_lets_answers_out_and_ends() {
    let mut server = Server::start().await;
    let id = server.done(&vec![7; 3_000_000]).await;
    let path = format!("/v1/videos/{id}/content");
    let sending = server.request(Method::GET, &path).send().await.unwrap();
    let listening = server
        .request(Method::GET, "/api/events")
        .send()
        .await
        .unwrap();
    let stopping = tokio::spawn(async move {
        server.stop().await;
        server
    });
    assert_eq!(sending.bytes().await.unwrap().len(), 3_000_000);
    // Its end, not an error.
    listening.bytes().await.unwrap();
    let server = stopping.await.unwrap();
    let refused = server
        .client
        .get(format!("{}/healthz", server.url))
        .send()
        .await;
    assert!(refused.is_err());
}
