//! A stop at a bad moment, and the start after it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::net::UnixDatagram;
use tokio::time::{interval, timeout};

use super::*;
use crate::provider::{End, film_answer};

/// A stop lets a POST on the wire be answered and keeps the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_post() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let mut daemon = rig.start();
    until_post(&rig).await;
    daemon.signal(Signal::TERM);
    rig.until_said("waiting for the requests on the wire").await;
    assert!(daemon.is_running());
    rig.provider.release("one");
    assert_eq!(daemon.ended().await.code(), Some(0));
    let row = rig.rows().await.remove(0);
    assert_eq!(
        (row.state.as_str(), row.task.as_deref()),
        ("generating", Some("task_one"))
    );
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}

/// What a poll brought costs nothing to ask again: no other program's lock is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_lock_where_nothing_paid_is_owed() {
    let mut rig = Rig::new();
    let job = Script::kind(film(Layout::MoovFirst, "one", 6, 3_000));
    rig.add(vec![("one".to_owned(), job)]).await;
    let daemon = rig.start();
    rig.until_jobs("generating", 1).await;
    let mut other = connect(&rig.database()).await;
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    rig.until("a poll", async || {
        rig.provider.count(Kind::Poll, Some("one")) > 0
    })
    .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    sqlx::Connection::close(other).await.unwrap();
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}

/// A stop begins nothing new, whatever is ready with it.
#[tokio::test]
async fn a_stop_goes_before_new_work() {
    for _ in 0..20 {
        let dir = folder();
        let settings = settings(dir.path(), &[]);
        let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
        let job = JobSpec::new("one", "https://example.com/a.jpg");
        store.insert(&[job]).await.unwrap();
        let service = service::assemble(&settings, Arc::clone(&store), false);
        let service = service.await.unwrap();
        let mut run = pin!(service.daemon.run(Signals::listen().unwrap()));
        let begun = poll_fn(|context| Poll::Ready(run.as_mut().poll(context)));
        assert!(begun.await.is_pending());
        // A later timer: the daemon's first look is due with the stop.
        interval(Duration::from_secs(1)).tick().await;
        service.stop.notify_one();
        assert_eq!(run.await.unwrap(), Ending::Stopped);
        assert!(store.ledger(None, None, None).await.unwrap().is_empty());
    }
}

/// The service manager hears that a daemon is alive that waits for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_waits_feeds_the_watchdog() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let path = rig.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    rig.set_system("NOTIFY_SOCKET", path.to_str().unwrap());
    rig.set_system("WATCHDOG_USEC", "300000");
    let daemon = rig.start();
    until_post(&rig).await;
    daemon.signal(Signal::TERM);
    let mut stopping = false;
    let mut fed = 0;
    let mut words = [0; 256];
    while fed < 3 {
        let heard = timeout(LIMIT, socket.recv(&mut words)).await;
        let length = heard.expect("no word to the service manager").unwrap();
        let words = str::from_utf8(&words[..length]).unwrap();
        stopping |= words.contains("STOPPING=1");
        fed += u32::from(stopping && words.contains("WATCHDOG=1"));
    }
    rig.provider.release("one");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// A second signal does not wait: the POST's end is then unknown, and stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let daemon = rig.start();
    until_post(&rig).await;
    daemon.signal(Signal::TERM);
    rig.until_said("waiting for the requests on the wire").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(rig.rows().await[0].state, "submitting");
    rig.provider.release("one");
    rig.run_until_idle().await;
    assert_eq!(rig.rows().await[0].state, "unconfirmed");
    assert_eq!(rig.provider.count(Kind::Post, None), 1);
    assert_eq!(rig.violations().await, Vec::<String>::new());
}

/// A stop does not wait for a download, and the next start goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_half_a_film() {
    let mut rig = Rig::new();
    let (job, mut slow) = script("one", 300_000);
    let whole = film_answer().ranges("\"v1\"");
    let answers = vec![whole.clone().ends(End::Stall(50)), whole];
    slow.files.insert("v".to_owned(), answers);
    rig.add(vec![(job, slow)]).await;
    let daemon = rig.start();
    let part = rig.videos().join("default/1.mp4.part");
    rig.until("half a film", async || {
        std::fs::metadata(&part).is_ok_and(|meta| meta.len() >= 150_000)
    })
    .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    rig.run_until_idle().await;
    check_all_done(&rig).await;
    let seen = rig.provider.seen();
    assert!(seen.iter().any(|seen| seen.headers.contains_key("range")));
}

/// Where no video is to be had the task is asked anew; the daemon that is
/// started after a kill does not know when that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_asks_no_sooner_for_another_link() {
    let mut rig = Rig::new();
    let (job, mut late) = script("one", 3_000);
    late.poll = vec![json(200, r#"{"status":"completed"}"#)];
    late.content = vec![status(404), film_answer().held(), film_answer()];
    rig.add(vec![(job, late)]).await;
    let daemon = rig.start();
    rig.provider
        .until("a second try", LIMIT, |provider| {
            provider.count(Kind::Content, None) == 2
        })
        .await;
    assert_eq!(rig.provider.count(Kind::Poll, None), 2);
    daemon.kill().await;
    rig.run_until_idle().await;
    check_all_done(&rig).await;
    assert_eq!(rig.provider.count(Kind::Poll, None), 3);
}
