//! One key, one job, one payment.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::*;
use crate::rig;

#[tokio::test]
async fn one_key_is_one_job() {
    let server = Server::start().await;
    let keyed = |key: &str, body: Value| {
        let request = server.request(Method::POST, "/v1/videos");
        let request = request.header("content-type", "application/json");
        answer(
            request
                .header("idempotency-key", key)
                .body(body.to_string()),
        )
    };
    let body = wanted(json!({"seconds": "4", "metadata": {"a": 1, "b": 2}}));
    let first = keyed("k-1", body.clone()).await;
    let second = keyed("k-1", body.clone()).await;
    assert_eq!(
        (first.status, second.status),
        (StatusCode::OK, StatusCode::OK)
    );
    assert_eq!(first.body["id"], second.body["id"]);
    assert_eq!(first.body["reelq"]["key"], "k-1");
    assert_eq!(first.header("idempotent-replayed"), "none");
    assert_eq!(second.header("idempotent-replayed"), "true");
    // Said otherwise, it is the same: the other name of a parameter, another order.
    let same = wanted(json!({"duration": 4, "metadata": {"b": 2, "a": 1}, "key": "k-1"}));
    assert_eq!(
        server.post("/v1/videos", &same).await.body["id"],
        first.body["id"]
    );
    assert_eq!(keyed("k-1", same).await.body["id"], first.body["id"]);

    for other in [
        json!({"prompt": "another"}),
        json!({"seconds": "5"}),
        json!({"size": "480p"}),
        json!({"batch": "other"}),
        json!({"metadata": {"a": 1}}),
        json!({"priority": 1}),
    ] {
        let mut body = body.clone();
        for (name, value) in other.as_object().unwrap() {
            body[name] = value.clone();
        }
        let refused = keyed("k-1", body).await;
        check_error(&refused, 409, "idempotency_key_reused");
        assert_eq!(
            refused.header("x-should-retry"),
            "false",
            "an SDK would try again"
        );
    }
    let two = keyed("k-1", wanted(json!({"key": "k-2"}))).await;
    check_error(&two, 409, "two_keys");
    let words = keyed("k 1, of  2", wanted(json!({}))).await;
    assert_eq!(words.body["reelq"]["key"], "k 1, of  2");
    // What a header's other bytes mean is not agreed upon.
    for bad in [" ".repeat(3), "k".repeat(201), "k\t1".into(), "é".into()] {
        let refused = keyed(&bad, body.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.error("param")),
            (400, "Idempotency-Key")
        );
    }
    assert_eq!(server.store.counts(None).await.unwrap().total(), 2);

    // Many at once are one as well.
    let many = (0..20).map(|_| keyed("k-3", wanted(json!({}))));
    let ids: std::collections::HashSet<String> = futures_util::future::join_all(many)
        .await
        .iter()
        .map(|made| made.body["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 1);

    // A deleted video does not come back by its key.
    let id = server.store.id_of_key("k-3").await.unwrap().unwrap();
    assert_eq!(server.delete(&format!("/v1/videos/{id}")).await.status, 200);
    check_error(
        &keyed("k-3", wanted(json!({}))).await,
        409,
        "key_of_deleted_video",
    );
}

/// OpenAI's SDKs give a repeat no key, only a count.
#[tokio::test]
async fn a_repeat_of_an_sdk_is_the_job_whose_answer_was_lost() {
    let server = Server::start().await;
    let sent = |count: &'static str, more: Value| {
        let request = server.request(Method::POST, "/v1/videos");
        let request = request.header("content-type", "application/json");
        let request = request.header("x-stainless-retry-count", count);
        answer(request.body(wanted(more).to_string()))
    };
    let first = sent("0", json!({})).await;
    assert_ne!(
        sent("0", json!({})).await.body["id"],
        first.body["id"],
        "two are two"
    );
    let newest = sent("0", json!({})).await;
    assert_eq!(sent("1", json!({})).await.body["id"], newest.body["id"]);
    assert_ne!(
        sent("1", json!({"seconds": "4"})).await.body["id"],
        newest.body["id"]
    );
    assert_ne!(
        sent("1", json!({"batch": "b"})).await.body["id"],
        newest.body["id"]
    );
    assert_eq!(server.store.counts(None).await.unwrap().total(), 5);
}

/// The first waits for the lock, the client gives it up and asks again: the
/// repeat must not look before the first is in.
#[tokio::test]
async fn a_repeat_that_waits_behind_its_first_is_the_same_job() {
    let server = Server::start().await;
    let mut other = rig::connect(server.store.path()).await;
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let (first, again) = (sent(&server, 0).await, sent(&server, 1).await);
    sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(id_of(again).await, id_of(first).await);
    assert_eq!(server.store.counts(None).await.unwrap().total(), 1);
}

/// A request of an SDK, as soon as it waits for the database.
async fn sent(server: &Server, count: u32) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let body = wanted(json!({})).to_string();
    let head = format!(
        "POST /v1/videos HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         X-Stainless-Retry-Count: {count}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A task for the connection, and one for the change.
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    while tasks() < before + 2 {
        tokio::task::yield_now().await;
    }
    stream
}

async fn id_of(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    body["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{text}"))
        .to_owned()
}
