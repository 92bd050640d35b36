//! A full disk.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::*;
use crate::rig::Row;

/// No file of a process may grow beyond this; a write that would is refused as
/// on a full disk.
fn limit_files(process: Pid, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(process), Resource::Fsize, limit).unwrap();
}

/// A film that does not fit waits with what there is of it, and goes on from
/// there when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_interrupts_a_download() {
    let mut rig = Rig::new();
    rig.add(vec![script("large", 600_000), script("small", 3_000)])
        .await;
    let daemon = rig.start();
    limit_files(daemon.id(), Some(400_000));
    rig.until("the disk is full", async || {
        let full = |row: &Row| {
            row.note
                .as_ref()
                .is_some_and(|note| note.contains("no space left"))
        };
        rig.rows().await.iter().any(full)
    })
    .await;
    rig.until_jobs("done", 1).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", rig.words());

    rig.run_until_idle().await;
    check_all_done(&rig).await;
    let seen = rig.provider.seen();
    assert!(seen.iter().any(|seen| seen.headers.contains_key("range")));
}

/// A task id that the disk does not take is kept, said aloud, and written when
/// there is room again; nobody has to start anything anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_a_commit() {
    let mut rig = Rig::new();
    rig.add(vec![held("one"), script("two", 3_000)]).await;
    let mut daemon = rig.start_behind(&[], true);
    until_post(&rig).await;
    rig.until_jobs("generating", 1).await;
    // The log of the database may not grow; the daemon's own may.
    let length = std::fs::metadata(rig.dir.path().join("q.db-wal"))
        .unwrap()
        .len();
    limit_files(daemon.id(), Some(length));
    rig.provider.release("one");
    rig.until_said(WAITS).await;
    rig.until_said("an accepted task is not on disk yet").await;
    rig.until_said("task=\"task_one\"").await;
    assert!(daemon.is_running());
    limit_files(daemon.id(), None);
    daemon.ended().await;
    check_all_done(&rig).await;
}

/// With less free space than configured nothing is submitted, and it says why.
#[tokio::test(flavor = "multi_thread")]
async fn little_free_space_holds_submissions() {
    let mut rig = Rig::new();
    rig.add(vec![script("one", 3_000)]).await;
    rig.set("DOWNLOAD__MIN_FREE_SPACE", "4000PiB");
    let daemon = rig.start();
    rig.until("the disk holds", async || {
        let mut conn = connect(&rig.database()).await;
        let held: i64 = sqlx::query_scalar("SELECT count(*) FROM gates WHERE name = 'disk'")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        held == 1
    })
    .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(rig.provider.count(Kind::Post, None), 0);
    rig.set("DOWNLOAD__MIN_FREE_SPACE", "0");
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}
