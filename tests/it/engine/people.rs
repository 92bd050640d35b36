//! People in between: a late answer overwrites nothing that they did.

use super::*;

#[tokio::test]
async fn a_task_is_asked_again_after_a_person_was_faster() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.order(id, Event::Cancelled).await;
    desk.order(id, Event::Retried).await;
    desk.engine.refresh(desk.now).await.unwrap();
    desk.settle(vec![running(polled, 40)]).await;
    assert_eq!(desk.job(id).await.progress, 0, "a late answer was written");
    assert_eq!(desk.poll().await.id, id);
}

#[tokio::test]
async fn what_a_person_withdrew_is_not_overwritten() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.order(id, Event::Cancelled).await;
    desk.settle(vec![completed(polled)]).await;
    assert_eq!(desk.job(id).await.state, State::Cancelled);
    desk.now += HOUR;
    assert!(desk.claim().await.is_empty());
}
