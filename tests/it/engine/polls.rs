//! Polls: when each task is asked, and when it is asked no more.

use super::*;

#[tokio::test]
async fn a_task_is_asked_in_its_turn_and_more_slowly_when_it_is_old() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let policy = desk.limits.policy.clone();
    let (begun, mut last) = (desk.now, desk.now);
    let (mut young, mut old) = (0, 0);
    loop {
        let polled = desk.next_poll().await;
        let (gap, age) = (desk.now - last, last - begun);
        let (turn, count) = match age < policy.slow_after {
            true => (policy.interval, &mut young),
            false => (policy.slow_interval, &mut old),
        };
        assert!(
            (turn..=turn + turn / 5 + LOOK).contains(&gap),
            "{gap} ms after the last poll at {age} ms"
        );
        *count += 1;
        if old == 5 {
            break;
        }
        last = desk.now;
        desk.settle(vec![running(polled, 10)]).await;
    }
    assert!(young >= 80, "{young} polls in ten minutes");
}

#[tokio::test]
async fn a_poll_that_taught_nothing_brings_the_next_one_no_nearer() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let policy = desk.limits.policy.clone();
    let mut last = desk.now;
    for interval in [policy.interval, policy.slow_interval] {
        for _ in 0..12 {
            let polled = desk.next_poll().await;
            assert!(desk.now - last >= interval);
            last = desk.now;
            desk.settle(vec![after_poll(polled, lost("broken"))]).await;
        }
        // It has become old; an answer makes an end of the faults.
        desk.now += policy.slow_after;
        let polled = desk.next_poll().await;
        last = desk.now;
        desk.settle(vec![running(polled, 10)]).await;
    }
}

#[tokio::test]
async fn a_restart_asks_a_running_task_no_sooner_than_without_it() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let interval = desk.limits.policy.interval;
    let mut last = desk.now;
    for n in 0..40 {
        // Before the answer, at once after it, and a little later.
        let polled = desk.next_poll().await;
        assert!(
            desk.now - last >= interval,
            "{} ms after the last poll",
            desk.now - last
        );
        assert!(
            desk.now - last < 20 * SECOND,
            "a restart puts it off for long"
        );
        last = desk.now;
        if n % 3 > 0 {
            desk.settle(vec![running(polled, n)]).await;
        }
        desk.now += Millis::from(n % 5) * 900;
        desk.crash().await;
    }
}

#[tokio::test]
async fn a_task_that_has_told_its_end_is_asked_no_more() {
    type End = fn(Job) -> Report;
    let ends: [End; 3] = [completed, failed, expired];
    for end in ends {
        let mut desk = Desk::new(limits()).await;
        let id = desk.generate().await;
        let polled = desk.next_poll().await;
        desk.settle(vec![end(polled)]).await;
        let state = desk.job(id).await.state;
        assert_ne!(state, State::Generating);
        for restart in [false, true] {
            if restart {
                desk.crash().await;
            }
            for _ in 0..200 {
                let acts = desk.claim().await;
                assert!(
                    !acts.iter().any(|act| matches!(act, Act::Poll(_))),
                    "{state}"
                );
                desk.now += SECOND;
            }
        }
    }
}

#[tokio::test]
async fn a_poll_that_taught_nothing_writes_nothing() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![running(polled, 10)]).await;
    let before = desk.job(id).await.version;
    let seen = desk.commits().await;
    for _ in 0..3 {
        let polled = desk.poll().await;
        desk.settle(vec![running(polled, 10)]).await;
        let polled = desk.poll().await;
        desk.settle(vec![after_poll(polled, answer(500, &json!({})))])
            .await;
    }
    assert_eq!(desk.commits().await, seen, "something was written");
    assert_eq!(desk.job(id).await.version, before);
}

#[tokio::test]
async fn a_task_that_alone_is_never_answered_ends_at_its_deadline() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    desk.generate().await;
    let overdue = desk.now + desk.limits.policy.deadline;
    while desk.job(id).await.state == State::Generating {
        assert!(desk.now < overdue + HOUR, "it never ends");
        let polls = desk.claim().await.into_iter().filter_map(polled);
        let reports = polls.map(|job| match job.id == id {
            true => after_poll(job, answer(500, &json!({"error": "internal"}))),
            false => running(job, 1),
        });
        desk.settle(reports.collect()).await;
        let near = desk.now + HOUR >= overdue;
        desk.now += if near { 5 * SECOND } else { HOUR };
    }
    assert!(desk.now >= overdue);
    let failure = desk.job(id).await.failure.unwrap();
    assert_eq!(failure.code, FailureCode::Deadline);
}

#[tokio::test]
async fn an_outage_ends_no_task_at_its_deadline() {
    let mut desk = Desk::new(limits()).await;
    for _ in 0..2 {
        desk.generate().await;
    }
    desk.now += 2 * DAY;
    desk.crash().await;
    let mut polls = 0;
    for _ in 0..100 {
        let acts = desk.claim().await.into_iter().filter_map(polled);
        let reports: Vec<Report> = acts
            .map(|job| after_poll(job, raw_answer(502, b"<html>")))
            .collect();
        polls += reports.len();
        desk.settle(reports).await;
        desk.now += 2 * SECOND;
    }
    assert!(polls > 4, "{polls} polls");
    for id in 1..=2 {
        assert_eq!(desk.job(id).await.state, State::Generating);
    }
}
