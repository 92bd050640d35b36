//! Caps: of a day, of a batch.

use reelq::money::Money;

use super::*;

fn cents(n: i64) -> Money {
    Money::from_micros(n * 10_000)
}

#[tokio::test]
async fn a_cap_of_three_at_sixty_cents_lets_exactly_five_through() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget = Budget {
        max_cost_per_day: Some(cents(300)),
        price_per_second: [None, Some(cents(10)), None],
        ..Budget::default()
    };
    desk.crash().await;
    desk.add(9).await;
    let mut sent = 0;
    for _ in 0..9 {
        for job in desk.posts().await {
            sent += 1;
            // Whether it is known or unknown: it is spent.
            desk.settle(vec![match sent {
                2 => after_post(job, lost("timeout")),
                _ => accepted(job),
            }])
            .await;
        }
        desk.now += MINUTE;
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
    }
    assert_eq!(sent, 5);
    assert!(!desk.engine.is_idle().await.unwrap(), "tasks are running");
    let ledger = desk.store.ledger(None, None, None).await.unwrap();
    assert_eq!(ledger.iter().map(|row| row.cost).sum::<Money>(), cents(300));
}

#[tokio::test]
async fn a_cap_that_has_room_again_is_no_end() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.max_jobs_per_day = Some(1);
    desk.crash().await;
    desk.add(2).await;
    let job = desk.posts().await.remove(0);
    assert!(desk.posts().await.is_empty());
    let refused = after_post(job, answer(400, &json!({"error": "bad prompt"})));
    desk.settle(vec![refused]).await;
    assert!(!desk.engine.is_idle().await.unwrap());
    let job = desk.posts().await.remove(0);
    assert_eq!(job.id, 2);
    desk.settle(vec![after_post(job, lost("timeout"))]).await;
    desk.add(1).await;
    desk.now += MINUTE;
    let acts = desk.claim().await;
    assert!(matches!(acts[..], [Act::Probe]), "{acts:?}");
    desk.settle(vec![Report::Probed(Ok(()))]).await;
    assert!(desk.posts().await.is_empty());
    assert!(desk.engine.is_idle().await.unwrap(), "it goes on tomorrow");
}

#[tokio::test]
async fn a_cap_that_still_holds_is_said_once() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.max_jobs_per_day = Some(1);
    desk.crash().await;
    desk.add(2).await;
    let job = desk.posts().await.remove(0);
    desk.settle(vec![accepted(job)]).await;
    let since = desk.now;
    let (seen, gates) = (desk.commits().await, desk.store.gates().await.unwrap());
    assert_eq!((gates[0].name.as_str(), gates[0].since), ("budget", since));
    for _ in 0..20 {
        // Another process has committed.
        desk.now += LOOK;
        desk.engine.refresh(desk.now).await.unwrap();
        assert!(desk.posts().await.is_empty());
    }
    assert_eq!(desk.commits().await, seen, "written again");
    // By the new clock it is as long ago as it was.
    desk.now += HOUR;
    desk.engine.clock_jumped(HOUR).await.unwrap();
    assert!(desk.posts().await.is_empty());
    let gates = desk.store.gates().await.unwrap();
    assert_eq!(gates[0].since, since + HOUR);
    desk.now += DAY;
    assert_eq!(desk.posts().await.len(), 1, "a new day");
}

#[tokio::test]
async fn a_batch_s_cap_holds_back_its_own_jobs_and_no_others() {
    for price in [Some(cents(10)), None] {
        let mut desk = Desk::new(limits()).await;
        desk.limits.budget.price_per_second = [None, price, None];
        desk.crash().await;
        desk.store
            .set_batch_cap("small", Some(cents(59)))
            .await
            .unwrap();
        let mut first = JobSpec::new("a boat", "https://example.com/boat.jpg");
        first.batch = "small".to_owned();
        first.priority = 9;
        desk.store.insert(&[first]).await.unwrap();
        desk.add(1).await;
        let posts = desk.posts().await;
        assert_eq!(posts.len(), 1, "{price:?}");
        assert_eq!(posts[0].id, 2, "{price:?}");
        assert!(desk.job(1).await.note.unwrap().contains("batch"));
        let refused = after_post(posts[0].clone(), answer(400, &json!({})));
        desk.settle(vec![refused]).await;
        assert!(
            desk.engine.is_idle().await.unwrap(),
            "it waits for a person"
        );
        // The person raises the cap.
        desk.store.set_batch_cap("small", None).await.unwrap();
        desk.engine.refresh(desk.now).await.unwrap();
        assert!(!desk.engine.is_idle().await.unwrap());
        assert_eq!(desk.posts().await[0].id, 1);
    }
}

/// A desk where a second of 720p costs ten cents, and a batch that may cost something.
async fn capped(cap: Money) -> Desk {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.price_per_second = [None, Some(cents(10)), None];
    desk.crash().await;
    desk.store.set_batch_cap("small", Some(cap)).await.unwrap();
    desk
}

fn of_small_batch() -> JobSpec {
    let mut spec = JobSpec::new("a boat", "https://example.com/boat.jpg");
    spec.batch = "small".to_owned();
    spec.priority = 9;
    spec
}

#[tokio::test]
async fn what_a_batch_did_not_pay_is_room_for_its_next_job() {
    let mut desk = capped(cents(60)).await;
    desk.store.insert(&vec![of_small_batch(); 3]).await.unwrap();
    let first = desk.posts().await;
    assert_eq!(first.len(), 1);
    let refused = after_post(first[0].clone(), answer(400, &json!({"error": "bad"})));
    desk.settle(vec![refused]).await;
    assert!(!desk.engine.is_idle().await.unwrap());
    let second = desk.posts().await.remove(0);
    assert_eq!(second.id, 2);
    desk.settle(vec![after_post(second, lost("timeout"))]).await;
    assert!(desk.engine.is_idle().await.unwrap());
    desk.order(2, Event::Resubmitted).await;
    desk.engine.refresh(desk.now).await.unwrap();
    assert!(!desk.engine.is_idle().await.unwrap());
}

#[tokio::test]
async fn what_was_pruned_still_counts_against_its_batch() {
    let mut desk = capped(cents(60)).await;
    desk.store.insert(&[of_small_batch()]).await.unwrap();
    let job = desk.posts().await.remove(0);
    let id = job.id;
    desk.settle(vec![accepted(job)]).await;
    desk.order(id, Event::Cancelled).await;
    let later = desk.now + DAY;
    assert_eq!(desk.store.prune(later, later).await.unwrap().jobs, 1);
    desk.store.insert(&[of_small_batch()]).await.unwrap();
    assert!(desk.posts().await.is_empty());
    assert_eq!(desk.store.caps().await.unwrap()[0].spent, cents(60));
}

#[tokio::test]
async fn a_large_batch_at_its_cap_keeps_nobody_waiting() {
    let mut desk = capped(cents(0)).await;
    desk.store
        .insert(&vec![of_small_batch(); 2_500])
        .await
        .unwrap();
    desk.add(1).await;
    for round in 0..2 {
        let mut claims = 0;
        let posts = loop {
            claims += 1;
            assert!(claims < 9, "round {round}");
            let posts = desk.posts().await;
            if !posts.is_empty() {
                break posts;
            }
            let wake = desk.engine.next_wake(desk.now).await.unwrap().unwrap();
            assert!(wake <= desk.now + SECOND, "the rest is looked at soon");
        };
        assert_eq!(posts[0].id, 2_501 + round);
        desk.settle(vec![accepted(posts[0].clone())]).await;
        // They are all due again.
        desk.now += HOUR;
        desk.add(1).await;
    }
}

#[tokio::test]
async fn a_job_that_no_day_lets_through_holds_up_no_other() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget = Budget {
        max_cost_per_day: Some(cents(100)),
        price_per_second: [None, Some(cents(10)), None],
        ..Budget::default()
    };
    desk.crash().await;
    let mut dear = JobSpec::new("a boat", "https://example.com/boat.jpg");
    dear.duration = 15;
    desk.store.insert(&[dear]).await.unwrap();
    desk.add(1).await;
    let posts = desk.posts().await;
    assert_eq!(posts.iter().map(|job| job.id).collect::<Vec<_>>(), [2]);
    let why = desk.job(1).await.note.unwrap();
    assert!(why.contains("more than budget.max_cost_per_day"), "{why}");
}
