//! Server-sent events: from now on, from an event on, of one batch.

use super::*;
use crate::rig::LIMIT;

/// One client of `/api/events`.
struct Listening {
    response: Response,
    text: String,
}

impl Listening {
    async fn open(server: &Server, query: &str, last: Option<i64>) -> Listening {
        let mut request = server.request(Method::GET, &format!("/api/events{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(kind, "text/event-stream");
        let mut listening = Listening {
            response,
            text: String::new(),
        };
        // The greeting says where it begins and how soon to come back.
        let greeting = listening.block().await;
        assert!(
            greeting.contains("retry: 2000") && greeting.contains("id: "),
            "{greeting}"
        );
        listening
    }

    /// The next lines up to an empty one.
    async fn block(&mut self) -> String {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return block;
            }
            let chunk = self
                .response
                .chunk()
                .await
                .unwrap()
                .expect("the stream ended");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event.
    async fn next(&mut self) -> Value {
        loop {
            let block = self.block().await;
            let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            if let Some(data) = line("data: ") {
                let data: Value = serde_json::from_str(data).unwrap();
                assert_eq!(data["id"].to_string(), line("id: ").unwrap());
                return data;
            }
        }
    }

    async fn words(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        for _ in 0..count {
            let event = self.next().await;
            words.push(format!(
                "{} {}",
                event["job_id"],
                event["event"].as_str().unwrap()
            ));
        }
        words
    }
}

#[tokio::test]
async fn events_come_as_they_happen() {
    let server = Server::start().await;
    let id = server.new_job().await;
    server.happen(id, vec![claimed()]).await;
    let mut listening = Listening::open(&server, "", None).await;
    let evidence = Evidence::default();
    let task_id = "task_1".to_owned();
    server
        .happen(id, vec![Event::Accepted { task_id, evidence }])
        .await;
    let event = listening.next().await;
    assert_eq!(
        (&event["event"], &event["state"]),
        (&json!("accepted"), &json!("generating"))
    );
    assert_eq!(
        (&event["job_id"], &event["batch"]),
        (&json!(id), &json!("default"))
    );
}

#[tokio::test]
async fn a_client_goes_on_where_it_was() {
    let server = Server::start().await;
    let first = server.done(b"video").await;
    let second = server.done(b"video").await;
    let all: Vec<String> = [first, second]
        .iter()
        .flat_map(|id| {
            ["claimed", "accepted", "completed", "saved"].map(|word| format!("{id} {word}"))
        })
        .collect();
    let mut listening = Listening::open(&server, "", Some(0)).await;
    assert_eq!(listening.words(8).await, all);
    for last in 1..8 {
        let mut listening = Listening::open(&server, "", Some(last)).await;
        let rest = 8 - last as usize;
        assert_eq!(
            listening.words(rest).await,
            all[last as usize..],
            "after {last}"
        );
    }
    // A cut in the middle and a second connection miss nothing and repeat nothing.
    let mut listening = Listening::open(&server, "?after=2", None).await;
    let mut seen = listening.words(3).await;
    drop(listening);
    let third = server.new_job().await;
    server.happen(third, vec![Event::Cancelled]).await;
    let mut listening = Listening::open(&server, "?after=2", Some(5)).await;
    seen.extend(listening.words(4).await);
    assert_eq!(seen[..6], all[2..]);
    assert_eq!(seen[6], format!("{third} cancelled"));
    for bad in ["x", "-1", "1.5", "01"] {
        let request = server
            .request(Method::GET, "/api/events")
            .header("last-event-id", bad);
        check_error(&answer(request).await, 400, "invalid_value");
    }
}

#[tokio::test]
async fn events_of_one_batch_are_found_behind_thousands_of_others() {
    let server = Server::start().await;
    for batch in ["noise", "mine"] {
        server.create(json!({"batch": batch})).await;
    }
    let running = Event::Running { progress: Some(1) };
    server.happen(1, accepted(1)).await;
    for _ in 0..3 {
        server.happen(1, vec![running.clone(); 400]).await;
    }
    server.happen(2, vec![Event::Cancelled]).await;
    let mut listening = Listening::open(&server, "?batch=mine", Some(0)).await;
    assert_eq!(listening.words(1).await, ["2 cancelled"]);
}

#[tokio::test]
async fn only_so_many_listen() {
    let server = Server::start().await;
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(Listening::open(&server, "", None).await);
    }
    let refused = server.get("/api/events").await;
    check_error(&refused, 503, "too_many_listeners");
    all.pop();
    // The place is free as soon as the server sees that the client has gone.
    let wait = async {
        while server
            .request(Method::GET, "/api/events")
            .send()
            .await
            .unwrap()
            .status()
            != 200
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}
