//! A clock that jumps.

use reelq::engine::{Act, Engine, Report, Surroundings};
use reelq::gate::{Cause, Fault};
use reelq::job::{Evidence, Millis, State};
use reelq::places::Places;
use reelq::sink::Sink;
use reelq::verdict::{Fetched, PollVerdict, PostVerdict};

use super::*;

const SECOND: Millis = 1_000;
const DAY: Millis = 86_400 * SECOND;

async fn engine(settings: &Settings, store: &Arc<Store>, now: Millis) -> Engine {
    let places = Places {
        sink: Sink::new(settings.download.dir.clone()).unwrap(),
        template: settings.download.name.clone(),
        timezone: settings.budget.timezone.clone(),
    };
    let (store, limits) = (Arc::clone(store), service::limits(settings));
    let endpoint = "here".to_owned();
    Engine::open(store, places, endpoint, limits, Arc::default(), now)
        .await
        .unwrap()
}

/// A queue in the middle of everything, without a network: one task runs, one
/// download waits out a back-off, one POST was refused and its gate is closed.
struct Middle {
    engine: Engine,
    store: Arc<Store>,
    now: Millis,
    _dir: tempfile::TempDir,
}

impl Middle {
    async fn new() -> Middle {
        let dir = folder();
        // So that a deadline lies within the jump.
        let settings = settings(dir.path(), &[("REELQ_POLL__DEADLINE", "1h")]);
        let now = 1_767_225_600_000;
        let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
        let specs: Vec<JobSpec> = (0..4)
            .map(|n| JobSpec {
                not_before: (n == 3).then_some(now + DAY / 2),
                ..JobSpec::new(format!("job{n}"), "https://example.com/a.jpg")
            })
            .collect();
        store.insert(&specs).await.unwrap();
        let engine = engine(&settings, &store, now).await;
        let mut middle = Middle {
            engine,
            store,
            now,
            _dir: dir,
        };
        middle.come_about().await;
        middle
    }

    async fn come_about(&mut self) {
        for act in self.claim().await {
            let Act::Post { job, .. } = act else {
                panic!("{act:?}")
            };
            let evidence = Evidence::default();
            let verdict = match job.id {
                3 => PostVerdict::NotAccepted {
                    evidence,
                    fault: Fault {
                        cause: Cause::KeyRefused,
                        symptom: "401".to_owned(),
                        message: "who are you?".to_owned(),
                        retry_after: Some(600 * SECOND),
                    },
                    crowded: false,
                },
                id => PostVerdict::Accepted {
                    task_id: format!("task{id}"),
                    evidence,
                },
            };
            self.settle(Report::Posted(job, verdict)).await;
        }
        self.now += 30 * SECOND;
        for act in self.claim().await {
            let Act::Poll(job) = act else {
                panic!("{act:?}")
            };
            let verdict = match job.id {
                1 => PollVerdict::Running { progress: None },
                _ => PollVerdict::Completed {
                    urls: vec!["http://127.0.0.1:1/v".to_owned()],
                },
            };
            self.settle(Report::Polled(job, verdict)).await;
        }
        for act in self.claim().await {
            let Act::Fetch(job) = act else {
                panic!("{act:?}")
            };
            let fetched = Fetched::Interrupted {
                reason: "no route".to_owned(),
                advanced: false,
            };
            self.settle(Report::Fetched(job, fetched)).await;
        }
    }

    async fn claim(&mut self) -> Vec<Act> {
        let around = Surroundings {
            now: self.now,
            day_start: 0,
            free_space: None,
            submit: true,
        };
        self.engine.claim(&around).await.unwrap()
    }

    async fn settle(&mut self, report: Report) {
        self.engine.settle(vec![report], self.now).await.unwrap();
    }

    /// What it does in the next quarter of an hour, each with its time from now.
    /// Tasks still run, downloads are still interrupted, POSTs are accepted.
    async fn goes_on(&mut self) -> Vec<(Millis, String)> {
        let start = self.now;
        let mut done = Vec::new();
        while self.now < start + 900 * SECOND {
            for act in self.claim().await {
                let (what, report) = match act {
                    Act::Post { job, .. } => {
                        let verdict = PostVerdict::Accepted {
                            task_id: format!("late{}", job.id),
                            evidence: Evidence::default(),
                        };
                        (format!("post {}", job.id), Report::Posted(job, verdict))
                    }
                    Act::Poll(job) => {
                        let verdict = PollVerdict::Running { progress: None };
                        (format!("poll {}", job.id), Report::Polled(job, verdict))
                    }
                    Act::Fetch(job) => {
                        let reason = "no route".to_owned();
                        let fetched = Fetched::Interrupted {
                            reason,
                            advanced: false,
                        };
                        (format!("fetch {}", job.id), Report::Fetched(job, fetched))
                    }
                    Act::Probe => ("probe".to_owned(), Report::Probed(Ok(()))),
                };
                done.push(((self.now - start) / (60 * SECOND), what));
                self.settle(report).await;
            }
            self.now += SECOND;
        }
        done.sort();
        done.dedup();
        done
    }
}

/// The wall clock is set by a day, either way: nothing comes early, nothing
/// waits for a day, no deadline passes, and only a producer's own date stays.
#[tokio::test]
async fn a_clock_that_jumps_moves_every_appointment() {
    let mut calm = Middle::new().await;
    let expected = calm.goes_on().await;
    assert!(
        expected.iter().any(|(_, what)| what == "post 3"),
        "{expected:?}"
    );
    assert!(expected.iter().any(|(_, what)| what == "poll 1"));
    assert!(expected.iter().any(|(_, what)| what == "fetch 2"));
    for delta in [DAY, -DAY] {
        let mut middle = Middle::new().await;
        middle.now += delta;
        middle.engine.clock_jumped(delta).await.unwrap();
        let done = middle.goes_on().await;
        // A task's age, which makes its polls rarer, counts by the wall clock; the
        // fourth job's date has come now, if the clock went forward.
        let comparable = |done: &[(Millis, String)]| -> Vec<(Millis, String)> {
            let (polls, rest): (Vec<_>, Vec<_>) = done
                .iter()
                .cloned()
                .partition(|(_, what)| what.starts_with("poll"));
            assert!(polls.iter().filter(|(_, what)| what == "poll 1").count() >= 12);
            rest.into_iter()
                .filter(|(_, what)| what != "post 4")
                .collect()
        };
        assert_eq!(
            comparable(&done),
            comparable(&expected),
            "after a jump by {delta} ms"
        );
        for id in 1..=3 {
            let job = middle.store.job(id).await.unwrap().unwrap();
            assert!(!job.state.is_settled(), "{job:?}");
        }
        let dated = middle.store.job(4).await.unwrap().unwrap();
        assert_eq!(dated.state == State::Pending, delta < 0, "{dated:?}");
    }
}

/// The clock is set back while reelq is stopped: the POSTs of the last day, which
/// now lie in the future, are no reason to wait for a day.
#[tokio::test]
async fn a_clock_that_was_set_back_does_not_stop_submissions() {
    let dir = folder();
    let settings = settings(dir.path(), &[("REELQ_SUBMIT__RATE_PER_MINUTE", "1")]);
    let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
    let spec = JobSpec::new("job", "https://example.com/a.jpg");
    store.insert(&[spec.clone(), spec]).await.unwrap();
    let mut now = 1_767_225_600_000;
    for delta in [0, -DAY] {
        now += delta;
        let around = Surroundings {
            now,
            day_start: 0,
            free_space: None,
            submit: true,
        };
        let acts = engine(&settings, &store, now)
            .await
            .claim(&around)
            .await
            .unwrap();
        let posts = acts
            .iter()
            .filter(|act| matches!(act, Act::Post { .. }))
            .count();
        assert_eq!(posts, 1, "after a jump by {delta} ms: {acts:?}");
    }
}
