//! Tasks of another account.

use super::*;

#[tokio::test]
async fn tasks_of_another_account_take_no_room_and_are_never_asked_for() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.max_in_flight = 1;
    desk.crash().await;
    let old = desk.generate().await;
    desk.endpoint = "https://provider.test key-2";
    desk.crash().await;
    desk.add(1).await;
    let job = desk.posts().await.remove(0);
    let new = job.id;
    desk.settle(vec![accepted(job)]).await;
    for _ in 0..20 {
        for job in desk.claim().await.into_iter().filter_map(polled) {
            assert_eq!(job.id, new, "asked elsewhere");
            desk.settle(vec![running(job, 1)]).await;
        }
        desk.now += 10 * SECOND;
    }
    let gates = desk.store.gates().await.unwrap();
    assert_eq!(gates[0].name, "endpoint", "and it is said: {gates:?}");
    desk.endpoint = ENDPOINT;
    desk.crash().await;
    assert_eq!(desk.poll().await.id, old);
}

/// A desk with one task of its own, due behind many of another account; and its job.
async fn behind_strangers(strangers: usize) -> (Desk, JobId) {
    let mut desk = Desk::new(limits()).await;
    desk.add(strangers).await;
    desk.sql(
        "UPDATE jobs SET state = 'generating', version = version + 1, task_id = 't' || id, \
         endpoint = 'elsewhere', submitted_at = 0",
    )
    .await;
    let own = desk.generate().await;
    (desk, own)
}

#[tokio::test]
async fn tasks_of_another_account_keep_none_of_ours_waiting() {
    // The second gives a claim more to look at than it does at once.
    for strangers in [200, 2_000] {
        for closed in [false, true] {
            let (mut desk, own) = behind_strangers(strangers).await;
            if closed {
                let polled = desk.poll().await;
                let refused = after_poll(polled, answer(401, &json!({})));
                desk.settle(vec![refused]).await;
            }
            // All are due together, the strangers first.
            desk.crash().await;
            desk.now += MINUTE;
            let due = desk.now;
            let polled = loop {
                if let Some(job) = desk.claim().await.into_iter().find_map(polled) {
                    break job;
                }
                desk.now = desk.engine.next_wake(desk.now).await.unwrap().unwrap();
                assert!(desk.now < due + SECOND, "closed: {closed}");
            };
            assert_eq!(polled.id, own);
        }
    }
}
