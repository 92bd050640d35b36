//! The clock is set while tasks run, and while the daemon is down.

use super::*;

#[tokio::test]
async fn a_jump_ahead_ends_no_wait_early() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    desk.now += 2 * HOUR;
    let in_hand = desk.poll().await;
    desk.now += DAY;
    desk.engine.clock_jumped(DAY).await.unwrap();
    desk.settle(vec![running(in_hand, 40)]).await;
    assert_eq!(
        desk.job(id).await.state,
        State::Generating,
        "26 hours by the clock"
    );
    let polled = desk.poll().await;
    desk.settle(vec![running(polled, 41)]).await;
    assert_eq!(desk.job(id).await.state, State::Generating);
    assert_eq!(desk.job(id).await.progress, 41);
}

#[tokio::test]
async fn a_jump_ahead_makes_no_young_task_old() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    desk.now += DAY;
    desk.engine.clock_jumped(DAY).await.unwrap();
    for _ in 0..5 {
        let before = desk.now;
        let polled = desk.poll().await;
        assert!(
            desk.now - before <= 10 * SECOND,
            "asked as slowly as an old one"
        );
        desk.settle(vec![not_found(polled)]).await;
    }
    assert_eq!(
        desk.job(id).await.state,
        State::Generating,
        "it is only early"
    );
}

#[tokio::test]
async fn a_clock_set_back_during_a_stop_delays_nothing_by_a_day() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.rate_per_minute = 3;
    desk.crash().await;
    desk.add(4).await;
    let posts = desk.posts().await;
    assert_eq!(posts.len(), 3);
    let mut reports: Vec<Report> = posts.into_iter().map(accepted).collect();
    let refused = reports.remove(0);
    let Report::Posted(job, _) = refused else {
        unreachable!()
    };
    reports.push(after_post(
        *job,
        answer(503, &json!({"error": {"type": "new_api_error"}})),
    ));
    desk.settle(reports).await;
    desk.now -= DAY;
    desk.crash().await;
    desk.now += 3 * MINUTE;
    let mut sent = 0;
    for _ in 0..20 {
        for act in desk.claim().await {
            match act {
                Act::Probe => desk.settle(vec![Report::Probed(Ok(()))]).await,
                Act::Post { job, .. } => {
                    sent += 1;
                    desk.settle(vec![accepted(*job)]).await;
                }
                _ => {}
            }
        }
        desk.now += 10 * SECOND;
    }
    assert_eq!(sent, 2);
    let give_up = desk.job(2).await.give_up_at.unwrap();
    assert!(give_up <= desk.now + desk.limits.policy.deadline);
}

#[tokio::test]
async fn a_closed_poll_gate_stays_short_when_the_clock_was_set_back() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![after_poll(polled, answer(401, &json!({})))])
        .await;
    assert_eq!(desk.store.gates().await.unwrap()[0].name, "poll");
    desk.now -= DAY;
    desk.crash().await;
    desk.poll().await;
}
