//! What the queries cost: which index each keeps to.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::{Instrument, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::*;
use crate::world::HOUR;

/// The other tests of this binary are not to pay for it.
static LISTENING: AtomicBool = AtomicBool::new(false);

/// Listens to the statements that sqlx logs inside a span `overheard`.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ear {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut spans = context.event_scope(event).into_iter().flatten();
        if spans.any(|span| span.name() == "overheard") {
            let mut statement = Statement::default();
            event.record(&mut statement);
            self.0.lock().unwrap().push(statement.text());
        }
    }
}

#[derive(Default)]
struct Statement {
    summary: String,
    whole: String,
}

impl Statement {
    fn text(self) -> String {
        let whole = self.whole.trim().to_owned();
        if whole.is_empty() {
            self.summary
        } else {
            whole
        }
    }
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.summary = value.to_owned(),
            "db.statement" => self.whole = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

fn ear() -> &'static Ear {
    static EAR: OnceLock<Ear> = OnceLock::new();
    EAR.get_or_init(|| {
        let ear = Ear::default();
        let wanted = dynamic_filter_fn(|about, _| {
            LISTENING.load(Ordering::Relaxed)
                && (about.target() == "sqlx::query" || about.name() == "overheard")
        });
        let listener = tracing_subscriber::registry().with(ear.clone().with_filter(wanted));
        tracing::subscriber::set_global_default(listener).unwrap();
        ear
    })
}

/// What was said while `work` was done.
async fn overhear<T>(work: impl Future<Output = T>) -> Vec<String> {
    let ear = ear();
    ear.0.lock().unwrap().clear();
    LISTENING.store(true, Ordering::Relaxed);
    work.instrument(tracing::info_span!("overheard")).await;
    LISTENING.store(false, Ordering::Relaxed);
    std::mem::take(&mut *ear.0.lock().unwrap())
}

async fn plan(conn: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(explain))
        .fetch_all(conn)
        .await
        .unwrap();
    rows.into_iter().map(|(.., detail)| detail).collect()
}

/// The index that each query of the daemon's loop must keep to. Nothing walks
/// over the table, nothing sorts what waits: a look at the queue costs the same
/// with ten rows and with ten million.
#[tokio::test]
async fn no_query_of_the_loop_walks_over_the_queue() {
    let (_folder, store, mut conn) = blank().await;
    let statements = overhear(work(&store)).await;
    let mut used = BTreeSet::new();
    for statement in statements {
        let word = statement.split(' ').next().unwrap_or_default();
        if !["SELECT", "UPDATE", "INSERT", "DELETE"].contains(&word) {
            continue;
        }
        for step in plan(&mut conn, &statement).await {
            let walk = ["jobs", "submissions", "events"]
                .iter()
                .any(|table| step == format!("SCAN {table}"));
            assert!(!walk, "{step}: {statement}");
            let sorts = step.contains("TEMP B-TREE");
            assert!(
                !sorts || !statement.contains("'pending'"),
                "{step}: {statement}"
            );
            if let Some((_, index)) = step.split_once("INDEX ") {
                used.insert(index.split(' ').next().unwrap_or_default().to_owned());
            }
            // A walk along an index is along one of the states that hold few, or
            // ends with the first row.
            if step.starts_with("SCAN jobs") {
                let few = ["submitting", "generating", "unconfirmed", "downloading"]
                    .iter()
                    .any(|state| step.ends_with(&format!("INDEX jobs_{state}")));
                let first = step.ends_with("INDEX jobs_ready")
                    && (statement.contains("LIMIT 1") || statement.starts_with("SELECT EXISTS"));
                assert!(few || first, "{step}: {statement}");
            }
        }
    }
    for index in [
        "jobs_ready",
        "jobs_waiting",
        "jobs_submitting",
        "jobs_unconfirmed",
        "jobs_generating",
        "jobs_downloading",
        "jobs_target",
        "submissions_day",
        "submissions_batch",
        "events_job",
    ] {
        assert!(used.contains(index), "{index} is not used: {used:?}");
    }
}

/// Everything that the loop asks the store for.
async fn work(store: &Store) {
    let spec = JobSpec::new("a boat", "https://example.com/a.jpg");
    store.insert(&vec![spec; 3]).await.unwrap();
    store
        .set_batch_cap("default", Some(Money::ZERO))
        .await
        .unwrap();
    let claim = Claim {
        limit: 2,
        max_tasks: 9,
        endpoint: ENDPOINT.to_owned(),
        now: NEW_YEAR,
        day_start: NEW_YEAR,
        trial: None,
    };
    let policy = Policy::default();
    let admit = |job: &Job, _: &Spent| {
        let event = Event::Claimed {
            cost: Money::ZERO,
            endpoint: ENDPOINT.to_owned(),
        };
        Admission::Take(Box::new(step::step(job, event, NEW_YEAR, &policy).unwrap()))
    };
    let claimed = store.claim(&claim, admit).await.unwrap();
    assert_eq!(claimed.jobs.len(), 2);
    let spec = JobSpec::new("a boat", "https://example.com/a.jpg");
    store.insert(&vec![spec; 3]).await.unwrap();
    for trial in [Trial::First, Trial::Any(4), Trial::Any(5)] {
        let trial = Claim {
            limit: 1,
            trial: Some(trial),
            ..claim.clone()
        };
        let claimed = store.claim(&trial, admit).await.unwrap();
        assert_eq!(claimed.jobs.len(), 1);
    }
    store
        .due_downloads(NEW_YEAR, 4, &[], ENDPOINT)
        .await
        .unwrap();
    store.next_due(NEW_YEAR).await.unwrap();
    store.moving(ENDPOINT).await.unwrap();
    for state in [
        State::Submitting,
        State::Generating,
        State::Unconfirmed,
        State::Downloading,
    ] {
        store.ids_in(state).await.unwrap();
    }
    store.load(&[1, 2], State::Submitting).await.unwrap();
    store.is_target_taken("/v/1").await.unwrap();
    store
        .recent_starts(NEW_YEAR - HOUR, NEW_YEAR)
        .await
        .unwrap();
    store.shift_appointments(1).await.unwrap();
    let latest = Bounds {
        ask: 0,
        backoff: NEW_YEAR,
        deadline: NEW_YEAR,
        grace: NEW_YEAR,
    };
    store.clamp_appointments(&latest).await.unwrap();
    store.id_of_key("k").await.unwrap();
    store.history(1).await.unwrap();
    store.ledger(Some(1), None, None).await.unwrap();
    let event = Event::Unknown {
        evidence: Evidence::default(),
    };
    let transitions: Vec<_> = claimed
        .jobs
        .iter()
        .map(|job| step::step(job, event.clone(), NEW_YEAR, &policy).unwrap())
        .collect();
    store.commit(&transitions).await.unwrap();
    store
        .edit(&[1], |job| {
            step::step(job, Event::WrittenOff, NEW_YEAR, &policy)
        })
        .await
        .unwrap();
}
