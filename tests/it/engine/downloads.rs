//! Downloads: their turn, their place, and what is left of them.

use super::*;
use reelq::job::{Failure, SavedFile};

use crate::world::{job_in, saved_file};

#[tokio::test]
async fn downloads_go_before_submissions() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.downloads = 1;
    desk.crash().await;
    for _ in 0..2 {
        desk.generate().await;
    }
    desk.now += 20 * SECOND;
    let polls: Vec<Job> = desk.claim().await.into_iter().filter_map(polled).collect();
    assert_eq!(polls.len(), 2);
    desk.settle(polls.into_iter().map(completed).collect())
        .await;
    desk.add(1).await;
    let acts = desk.claim().await;
    let [Act::Fetch(job)] = &acts[..] else {
        panic!("one download, and nothing new while another waits: {acts:?}");
    };
    let saved = Fetched::Saved {
        file: saved_file(),
        note: None,
    };
    desk.settle(vec![Report::Fetched(job.clone(), saved)]).await;
    assert_eq!(desk.job(job.id).await.state, State::Done);
    let acts = desk.claim().await;
    assert!(
        matches!(acts[..], [Act::Fetch(_), Act::Post { .. }]),
        "{acts:?}"
    );
}

#[tokio::test]
async fn what_a_failed_job_has_of_its_video_is_there_for_the_retry() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    let target = desk.job(id).await.target.unwrap();
    let part = format!("{target}.part");
    std::fs::create_dir_all(desk.folder.path().join("videos")).unwrap();
    std::fs::write(&part, b"ftyp").unwrap();

    let mut fetching = desk.job(id).await;
    desk.now = fetching.give_up_at.unwrap();
    fetching.faults = step::UNUSABLE_LIMIT;
    let unusable = Fetched::Unusable {
        reason: "404".to_owned(),
    };
    desk.settle(vec![Report::Fetched(Box::new(fetching), unusable)])
        .await;
    assert_eq!(desk.job(id).await.state, State::Failed);
    desk.engine.refresh(desk.now).await.unwrap();
    assert!(std::fs::exists(&part).unwrap());

    desk.order(id, Event::Retried).await;
    desk.engine.refresh(desk.now).await.unwrap();
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    assert_eq!(desk.job(id).await.target, Some(target));

    desk.order(id, Event::Cancelled).await;
    desk.engine.refresh(desk.now).await.unwrap();
    assert!(!std::fs::exists(&part).unwrap());
    assert_eq!(desk.job(id).await.target, None);
}

#[tokio::test]
async fn a_finished_task_without_a_place_outlives_its_deadline() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    put(&desk.videos(), b"where a folder should be");
    desk.now = desk.job(id).await.give_up_at.unwrap();
    let polled = desk.next_poll().await;
    desk.settle(vec![completed(polled)]).await;
    for _ in 0..20 {
        assert!(desk.claim().await.is_empty(), "neither asked nor fetched");
        let job = desk.job(id).await;
        assert_eq!(job.state, State::Downloading);
        assert!(job.note.unwrap().contains("no place"));
        desk.now = job.due_at.unwrap();
    }
    std::fs::remove_file(desk.videos()).unwrap();
    let job = fetches(&mut desk).await.remove(0);
    let target = job.target.unwrap();
    assert!(std::path::Path::new(&target).starts_with(desk.videos()));
}

/// What cannot be stored is not bought without end, and what was bought is stored later.
#[tokio::test]
async fn videos_without_a_place_count_as_tasks() {
    const JOBS: usize = 200;
    let mut desk = Desk::new(Limits {
        rate_per_minute: 10_000,
        ..limits()
    })
    .await;
    desk.add(JOBS).await;
    put(&desk.videos(), b"where a folder should be");
    let count = async |desk: &mut Desk, which: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM jobs WHERE {which}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut desk.raw)
            .await
            .unwrap()
    };
    let mut healed = false;
    for _ in 0..600 {
        for act in desk.claim().await {
            let report = match act {
                Act::Post { job, .. } => accepted(*job),
                Act::Poll(job) => completed(*job),
                Act::Fetch(job) => {
                    assert!(healed, "fetched into nowhere");
                    let file = SavedFile {
                        path: job.target.clone().unwrap(),
                        ..saved_file()
                    };
                    Report::Fetched(job, Fetched::Saved { file, note: None })
                }
                Act::Probe => Report::Probed(Ok(())),
            };
            desk.settle(vec![report]).await;
        }
        desk.now += SECOND;
        let bought = count(&mut desk, "state <> 'pending'").await;
        if !healed && count(&mut desk, "state = 'downloading'").await == bought && bought > 0 {
            assert_eq!(bought, i64::from(desk.limits.max_in_flight));
            let gates = desk.store.gates().await.unwrap();
            assert!(gates.iter().any(|gate| gate.name == "folder"), "{gates:?}");
            std::fs::remove_file(desk.videos()).unwrap();
            healed = true;
        }
    }
    assert_eq!(count(&mut desk, "state = 'done'").await, JOBS as i64);
    assert!(desk.store.gates().await.unwrap().is_empty());
}

/// A path that a failed job keeps is that of a video on disk: it is paid for.
#[tokio::test]
async fn what_lies_on_disk_is_not_paid_for_again() {
    let policy = Policy::default();
    for (target, state) in [
        (Some("/videos/1.mp4".to_owned()), State::Generating),
        (None, State::Pending),
    ] {
        let mut job = job_in(State::Failed);
        job.task_id = Some("t".to_owned());
        job.failure = Some(Failure {
            code: FailureCode::TaskFailed,
            message: "no".to_owned(),
        });
        job.target = target;
        let retried = step::step(&job, Event::Retried, NEW_YEAR, &policy).unwrap();
        assert_eq!(retried.job.state, state);
    }
}

/// A job that was cancelled while its video came in: the file is there all the same.
async fn cancelled_too_late(desk: &mut Desk) -> Job {
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    let job = fetches(desk).await.remove(0);
    desk.order(id, Event::Cancelled).await;
    desk.engine.refresh(desk.now).await.unwrap();
    let target = job.target.clone().unwrap();
    desk.put_film(&target);
    let (file, note) = (saved_file(), None);
    let saved = Fetched::Saved { file, note };
    desk.settle(vec![Report::Fetched(Box::new(job), saved)])
        .await;
    let job = desk.job(id).await;
    assert_eq!(job.state, State::Cancelled);
    assert_eq!(job.target, Some(target));
    job
}

#[tokio::test]
async fn a_video_that_a_cancel_came_too_late_for_is_not_forgotten() {
    let mut desk = Desk::new(limits()).await;
    let job = cancelled_too_late(&mut desk).await;
    let target = job.target.unwrap();
    let note = job.note.unwrap();
    assert!(note.contains(&target) && note.contains("retry"), "{note}");
    let leftovers = desk.store.leftovers().await.unwrap();
    assert!(leftovers.is_empty(), "looked at for ever: {leftovers:?}");
    desk.crash().await;
    assert_eq!(desk.job(job.id).await.target.as_ref(), Some(&target));

    desk.order(job.id, Event::Retried).await;
    desk.engine.refresh(desk.now).await.unwrap();
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    let job = fetches(&mut desk).await.remove(0);
    assert_eq!(job.target.as_ref(), Some(&target));
    let sink = Sink::new(desk.videos()).unwrap();
    let there = sink.already_there(target.as_ref()).await;
    assert_eq!(there.unwrap().unwrap().0.path, target);
}

#[tokio::test]
async fn a_video_on_disk_outlives_its_task() {
    for end in [failed, expired, not_found] {
        let mut desk = Desk::new(limits()).await;
        let job = cancelled_too_late(&mut desk).await;
        desk.order(job.id, Event::Retried).await;
        desk.engine.refresh(desk.now).await.unwrap();
        let polled = desk.poll().await;
        desk.settle(vec![end(polled)]).await;
        let fetched = fetches(&mut desk).await.remove(0);
        assert_eq!(fetched.target, job.target);
    }
}

/// The downloads that begin now.
async fn fetches(desk: &mut Desk) -> Vec<Job> {
    let acts = desk.claim().await;
    acts.into_iter()
        .filter_map(|act| match act {
            Act::Fetch(job) => Some(*job),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn downloads_that_hang_leave_room_for_new_videos_and_new_jobs() {
    let mut desk = Desk::new(limits()).await;
    for _ in 0..3 {
        let id = desk.generate().await;
        let job = loop {
            let job = desk.poll().await;
            if job.id == id {
                break job;
            }
            desk.settle(vec![running(job, 1)]).await;
        };
        desk.settle(vec![completed(job)]).await;
        desk.sql("UPDATE jobs SET faults = 1 WHERE id < 3 AND state = 'downloading'")
            .await;
    }
    desk.crash().await;
    desk.now += HOUR;
    desk.add(1).await;
    // Two places: a video that was not tried yet goes first, and one retry beside it.
    let taken = fetches(&mut desk).await;
    let ids: Vec<JobId> = taken.iter().map(|job| job.id).collect();
    assert_eq!(ids, [3, 1]);
    assert_eq!(desk.job(4).await.state, State::Submitting);
    // With the retry still in hand, the place that comes free waits for a new video.
    let (file, note) = (saved_file(), None);
    let saved = Report::Fetched(Box::new(taken[0].clone()), Fetched::Saved { file, note });
    desk.settle(vec![saved]).await;
    assert!(fetches(&mut desk).await.is_empty());
}

#[tokio::test]
async fn videos_that_wait_for_ever_do_not_hold_submissions_for_ever() {
    let mut desk = Desk::new(limits()).await;
    for _ in 0..3 {
        desk.generate().await;
    }
    desk.sql(
        "UPDATE jobs SET state = 'downloading', version = version + 1, target = '/v/' || id, due_at = NULL",
    )
    .await;
    desk.engine.refresh(desk.now).await.unwrap();
    assert_eq!(fetches(&mut desk).await.len(), 2, "a third one waits");
    desk.add(1).await;
    assert!(desk.posts().await.is_empty(), "videos go first");
    desk.now += MINUTE;
    assert_eq!(desk.posts().await.len(), 1, "but nothing begins or ends");
}
