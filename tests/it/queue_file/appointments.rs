//! When a job is due, as producers and the clock change it.

use super::*;

#[tokio::test]
async fn a_start_delay_is_the_producer_s_to_change() {
    let (_folder, store, mut conn) = blank().await;
    let insert = format!(
        "{} RETURNING id",
        INSERT
            .replace("prompt,", "not_before, prompt,")
            .replace("('a", "(5000, 'a")
    );
    sql(&mut conn, &insert).await.unwrap();
    assert_eq!(store.next_due(0).await.unwrap(), Some(5_000));
    sql(&mut conn, "UPDATE jobs SET not_before = 9000")
        .await
        .unwrap();
    assert_eq!(store.next_due(0).await.unwrap(), Some(9_000));
    sql(&mut conn, "UPDATE jobs SET not_before = NULL")
        .await
        .unwrap();
    assert_eq!(store.next_due(0).await.unwrap(), None, "at once");
}

/// A back-off, a cap's look, a producer's time, and a producer's time where a cap held.
#[tokio::test]
async fn what_waits_moves_along_when_the_clock_is_set() {
    let (_folder, store, mut conn) = blank().await;
    for (nth, waits) in [
        "faults = 1, due_at = 5000",
        "note = 'the cap', due_at = 5000",
        "not_before = 5000",
        "note = 'the cap', not_before = 5000",
    ]
    .iter()
    .enumerate()
    {
        sql(&mut conn, INSERT).await.unwrap();
        let update = format!("UPDATE jobs SET {waits} WHERE id = {}", nth + 1);
        sql(&mut conn, &update).await.unwrap();
    }
    let due = async || {
        let jobs = store.list(&Filter::default()).await.unwrap();
        jobs.iter()
            .map(|job| job.due_at.unwrap())
            .collect::<Vec<_>>()
    };
    store.shift_appointments(-1_000).await.unwrap();
    assert_eq!(due().await, [4_000, 4_000, 5_000, 5_000]);
    // After a start.
    let bounds = Bounds {
        ask: 0,
        backoff: 3_000,
        deadline: 3_000,
        grace: 3_000,
    };
    store.clamp_appointments(&bounds).await.unwrap();
    assert_eq!(due().await, [3_000, 3_000, 5_000, 5_000]);
}
