//! What holds for every sequence of events: of `step`, and of the gates.

use std::collections::BTreeSet;

use proptest::prelude::*;
use reelq::gate::{Cause, Fault, Gate, Pass};
use reelq::job::{Event, Evidence, Failure, FailureCode, Job, Millis, Outcome, SavedFile, State};
use reelq::money::Money;
use reelq::step::{LedgerLine, MAX_BACKOFF, Policy, step};

use crate::world::{DAY, ENDPOINT, HOUR, MINUTE, NEW_YEAR, SECOND, job_in, lawful};

// ---- step ----

fn evidence() -> impl Strategy<Value = Evidence> {
    proptest::option::of("[a-z ]{0,9}").prop_map(|error| Evidence {
        error,
        ..Evidence::default()
    })
}

fn events() -> impl Strategy<Value = Event> {
    let words = "[a-z]{0,8}";
    let task = "task-[0-9]";
    prop_oneof![
        4 => (0..5_000_000i64).prop_map(|cost| Event::Claimed {
            cost: Money::from_micros(cost),
            endpoint: ENDPOINT.to_owned(),
        }),
        2 => (task, evidence()).prop_map(|(task_id, evidence)| Event::Accepted { task_id, evidence }),
        1 => evidence().prop_map(|evidence| Event::Refused { evidence }),
        1 => (evidence(), proptest::option::of(0..HOUR)).prop_map(|(evidence, pause)| Event::NotAccepted {
            evidence,
            closed_until: pause.map(|pause| NEW_YEAR + pause),
        }),
        2 => evidence().prop_map(|evidence| Event::Unknown { evidence }),
        2 => any::<Option<u8>>().prop_map(|progress| Event::Running { progress }),
        2 => words.prop_map(|message| Event::TaskNotFound { message }),
        2 => words.prop_map(|name| Event::Completed {
            urls: vec![format!("/{name}")],
            target: Some(format!("/videos/{name}")),
        }),
        1 => words.prop_map(|message| Event::TaskFailed { message }),
        1 => words.prop_map(|message| Event::TaskExpired { message }),
        1 => any::<u32>().prop_map(|bytes| Event::Saved {
            file: SavedFile {
                path: "/videos/1.mp4".to_owned(),
                bytes: u64::from(bytes),
                sha256: "ab".repeat(32),
            },
            note: None,
        }),
        1 => (words, any::<bool>()).prop_map(|(reason, advanced)| Event::FetchInterrupted { reason, advanced }),
        1 => words.prop_map(|reason| Event::Placed {
            target: format!("/videos/other-{reason}"),
            reason,
        }),
        3 => words.prop_map(|reason| Event::VideoUnusable {
            reason,
        }),
        1 => words.prop_map(|reason| Event::VideoUnreachable { reason }),
        3 => Just(Event::Retried),
        1 => Just(Event::Cancelled),
        1 => task.prop_map(|task_id| Event::Adopted { task_id }),
        1 => Just(Event::Resubmitted),
        1 => Just(Event::WrittenOff),
    ]
}

/// Mostly a little time, at times hours, at times a jump back.
fn pauses() -> impl Strategy<Value = Millis> {
    prop_oneof![6 => 0..10 * MINUTE, 2 => 0..30 * HOUR, 1 => -DAY..DAY]
}

fn is_a_person_s(event: &Event) -> bool {
    matches!(
        event,
        Event::Retried
            | Event::Cancelled
            | Event::Adopted { .. }
            | Event::Resubmitted
            | Event::WrittenOff
    )
}

/// What is known of the last POST, kept without looking at the row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bought {
    /// Nothing, or surely nothing.
    Nothing,
    /// On the wire.
    OnTheWire,
    /// Nobody can tell.
    Unknown,
    /// A task that may have a video.
    Task,
    /// A task that failed, or a loss that a person took.
    Lost,
}

/// What an accepted event makes of it, and whether it may be.
fn buys(bought: Bought, event: &Event, to: State, policy: &Policy) -> Result<Bought, String> {
    let fault = |words: &str| Err(format!("{words}: {bought:?} and {}", event.name()));
    Ok(match event {
        Event::Claimed { .. } if bought == Bought::Nothing => Bought::OnTheWire,
        Event::Claimed { .. } => return fault("paid twice"),
        Event::Accepted { .. } | Event::Adopted { .. } => Bought::Task,
        Event::Refused { .. } | Event::NotAccepted { .. } | Event::Resubmitted => Bought::Nothing,
        Event::Unknown { .. } if policy.resubmit_unknown && to == State::Pending => Bought::Nothing,
        Event::Unknown { .. } => Bought::Unknown,
        Event::TaskFailed { .. } | Event::WrittenOff => Bought::Lost,
        Event::Retried if to == State::Pending => match bought {
            Bought::Nothing | Bought::Lost => Bought::Nothing,
            _ => return fault("a retry that pays again"),
        },
        // A failed task may have left a video at the path that the job keeps.
        Event::Retried if matches!(bought, Bought::Task | Bought::Lost) => Bought::Task,
        Event::Retried => return fault("a retry that asks nobody"),
        _ => bought,
    })
}

proptest! {
    #[test]
    fn a_task_is_polled_at_the_interval_of_its_age_or_a_little_later(
        id in any::<i64>(),
        now in 0..100 * 365 * DAY,
        // Below zero: the clock was set back while it ran.
        age in prop_oneof![-DAY..30 * HOUR, Just(10 * MINUTE), Just(10 * MINUTE - 1)],
        interval in 3 * SECOND..=10 * SECOND,
    ) {
        let policy = Policy { interval, ..Policy::default() };
        let mut job = job_in(State::Generating);
        job.id = id;
        job.give_up_at = Some(now - age + policy.deadline);
        let turn = if age < policy.slow_after { interval } else { policy.slow_interval };
        let pause = policy.next_poll(&job, now) - now;
        prop_assert!((turn..=turn + turn / 5).contains(&pause), "{pause} ms");
    }
}

#[test]
fn the_polls_of_one_batch_are_spread() {
    let policy = Policy::default();
    let mut job = job_in(State::Generating);
    let mut times = BTreeSet::new();
    for id in 1..=100 {
        job.id = id;
        times.insert(policy.next_poll(&job, NEW_YEAR));
    }
    assert!(times.len() > 80, "100 polls at {} moments", times.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_sequence_of_events_breaks_a_promise(
        events in proptest::collection::vec((pauses(), events()), 1..60),
        resubmit_unknown in any::<bool>(),
        not_before in proptest::option::of(0..2 * DAY),
    ) {
        let policy = Policy { resubmit_unknown, ..Policy::default() };
        let mut job = job_in(State::Pending);
        job.attempt = 0;
        job.spec.not_before = not_before.map(|at| NEW_YEAR + at);
        let mut now = NEW_YEAR;
        let mut bought = Bought::Nothing;
        let mut open = false;
        for (pause, event) in events {
            now += pause;
            let before = job.clone();
            let next = match step(&before, event.clone(), now, &policy) {
                Err(illegal) => {
                    prop_assert!(!illegal.reason.is_empty());
                    prop_assert_eq!((illegal.id, illegal.state), (before.id, before.state));
                    continue;
                }
                Ok(next) => next,
            };
            prop_assert_eq!(next.from, before.state);
            prop_assert_eq!(next.job.version, before.version + 1);
            prop_assert_eq!(&next.job.spec, &before.spec);
            prop_assert_eq!((next.job.id, next.job.created_at), (before.id, before.created_at));
            lawful(&next.job).map_err(TestCaseError::fail)?;
            if before.state.is_settled() {
                prop_assert!(is_a_person_s(&event), "{} took {}", before.state, event.name());
            }
            bought = buys(bought, &event, next.job.state, &policy).map_err(TestCaseError::fail)?;

            // The ledger has one line for each POST, begun and ended once.
            match &next.ledger {
                Some(LedgerLine::Begin { .. }) => {
                    prop_assert_eq!(next.job.attempt, before.attempt + 1);
                    prop_assert!(!open);
                    open = true;
                }
                Some(LedgerLine::End { outcome, task_id, .. }) => {
                    prop_assert!(open && before.state == State::Submitting);
                    prop_assert_eq!(*outcome == Outcome::Accepted, task_id.is_some());
                    prop_assert_eq!(task_id.as_ref(), next.job.task_id.as_ref());
                    open = false;
                }
                Some(LedgerLine::Resolve { .. }) => {
                    prop_assert_eq!(before.state, State::Unconfirmed);
                    prop_assert!(!open);
                }
                None => prop_assert_eq!(open, next.job.state == State::Submitting),
            }
            if !next.changed {
                let same = Job { version: before.version, ..next.job.clone() };
                prop_assert_eq!(&same, &before, "a change that is not written");
                continue;
            }
            // No pause of reelq's own making is longer than it says.
            if let (State::Downloading, Some(due)) = (next.job.state, next.job.due_at) {
                prop_assert!(due <= now + MAX_BACKOFF || Some(due) == before.due_at);
            }
            if let (State::Pending, Some(due)) = (next.job.state, next.job.due_at) {
                let asked = next.job.spec.not_before.unwrap_or(0);
                let closed = match event {
                    Event::NotAccepted { closed_until: Some(at), .. } => at + SECOND,
                    _ => 0,
                };
                prop_assert!(due <= (now + MAX_BACKOFF).max(asked).max(closed));
            }
            if let (Some(give_up), true) = (next.job.give_up_at, next.job.give_up_at != before.give_up_at) {
                prop_assert!(give_up > now && give_up <= now + policy.deadline);
            }
            job = next.job;
        }
    }

    /// Whatever a row holds: `step` neither panics nor breaks what it promises.
    #[test]
    fn an_odd_row_makes_no_lawless_one(
        state in proptest::sample::select(&State::ALL[..]),
        event in events(),
        faults in prop_oneof![0..9u32, Just(u32::MAX - 1)],
        code in proptest::option::of(proptest::sample::select(&FailureCode::ALL[..])),
        give_up_at in proptest::option::of(0..2 * NEW_YEAR),
        due_at in proptest::option::of(0..2 * NEW_YEAR),
        now in 0..2 * NEW_YEAR,
    ) {
        let mut job = job_in(state);
        job.faults = faults;
        job.due_at = due_at;
        if let (Some(code), State::Failed) = (code, state) {
            job.failure = Some(Failure { code, message: "a reason".to_owned() });
        }
        if state == State::Downloading {
            job.give_up_at = give_up_at;
        }
        prop_assert!(lawful(&job).is_ok());
        if let Ok(next) = step(&job, event, now, &Policy::default()) {
            lawful(&next.job).map_err(TestCaseError::fail)?;
            prop_assert_eq!(next.job.version, job.version + 1);
        }
    }
}

// ---- Gates ----

const CAUSES: [Cause; 6] = [
    Cause::KeyRefused,
    Cause::AccountRefused,
    Cause::RateLimited,
    Cause::Busy,
    Cause::Unreachable,
    Cause::Unclear,
];

fn fault(cause: Cause, symptom: u8) -> Fault {
    Fault {
        cause,
        symptom: symptom.to_string(),
        message: "no".to_owned(),
        retry_after: None,
    }
}

/// The most trials that an endless outage of one kind may take: pauses that
/// double from the first to the longest, and then one of the longest each.
fn most_trials(cause: Cause, span: Millis) -> i64 {
    let (first, longest) = match cause {
        Cause::KeyRefused | Cause::AccountRefused | Cause::Busy => (2 * SECOND, 300 * SECOND),
        Cause::RateLimited => (2 * SECOND, 60 * SECOND),
        Cause::Unreachable => (SECOND, 60 * SECOND),
        Cause::Unclear => (5 * SECOND, HOUR),
    };
    let (mut pause, mut at, mut trials) = (first, 0, 0);
    loop {
        at += pause;
        if at > span {
            return trials;
        }
        trials += 1;
        pause = (2 * pause).min(longest);
    }
}

/// Runs an outage: each trial fails. Late answers from before come in between.
fn outage(
    gate: &mut Gate,
    span: Millis,
    mut next: impl FnMut(u32) -> Fault,
    late: &[Millis],
) -> i64 {
    let (mut now, mut trials) = (0, 0);
    gate.close(next(0), now, false);
    let mut late = late.iter();
    loop {
        match gate.pass(now) {
            Pass::Open => panic!("an outage opened it"),
            Pass::Wait(until) => {
                assert!(until > now);
                // An answer to what was sent before: it changes no pause.
                if let Some(at) = late.next() {
                    let at = (now + at).min(until - 1);
                    gate.close(next(trials as u32), at, false);
                    assert_eq!(gate.pass(at), Pass::Wait(until));
                }
                now = until;
            }
            Pass::Probe => {
                gate.probe_answered();
                assert_eq!(gate.pass(now), Pass::Trial, "a good probe allows one trial");
            }
            Pass::Trial => {
                trials += 1;
                gate.close(next(trials as u32), now, true);
                assert!(
                    matches!(gate.pass(now), Pass::Wait(_)),
                    "a second trial in one pause"
                );
            }
        }
        if now > span {
            return trials;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_outage_takes_a_bounded_number_of_trials(
        cause in proptest::sample::select(&CAUSES[..]),
        hours in 0..72i64,
        late in proptest::collection::vec(0..HOUR, 0..20),
    ) {
        let span = hours * HOUR + 59;
        let trials = outage(&mut Gate::default(), span, |_| fault(cause, 0), &late);
        let most = most_trials(cause, span);
        prop_assert!(trials <= most, "{trials} trials in {hours} h, at most {most}");
        // Nor does it forget to look.
        prop_assert!(trials >= most - 1, "{trials} trials in {hours} h, {most} were due");
    }

    #[test]
    fn an_outage_with_many_faces_takes_no_more_than_each_of_them(
        faces in 1..6u8,
        hours in 0..24i64,
        order in proptest::collection::vec(any::<u8>(), 1..50),
    ) {
        let span = hours * HOUR;
        let face = |n: u32| fault(Cause::Unclear, order[n as usize % order.len()] % faces);
        let trials = outage(&mut Gate::default(), span, face, &[]);
        let most = i64::from(faces) * (most_trials(Cause::Unclear, span) + 1);
        prop_assert!(trials <= most, "{trials} trials in {hours} h, at most {most}");
    }

    #[test]
    fn a_gate_opens_after_a_success_and_its_memory_fades(
        cause in proptest::sample::select(&CAUSES[..]),
        tries in 1..30u32,
        accepted in any::<bool>(),
    ) {
        let mut gate = Gate::default();
        let mut now = 0;
        gate.close(fault(cause, 0), now, false);
        for _ in 0..tries {
            now += 2 * HOUR;
            gate.close(fault(cause, 0), now, true);
        }
        prop_assert!(gate.open(accepted).is_some());
        prop_assert_eq!(gate.pass(now), Pass::Open);
        prop_assert!(gate.open(accepted).is_none());
        gate.close(fault(cause, 0), now, false);
        let Pass::Wait(until) = gate.pass(now) else { panic!("it closed") };
        // What was taken wipes the slate; what was merely refused does not
        // where the next try may cost money.
        let fresh = accepted || cause != Cause::Unclear;
        prop_assert_eq!(until - now <= 5 * SECOND, fresh, "{} ms", until - now);
    }

    #[test]
    fn the_provider_s_pause_is_kept_within_reason(
        cause in proptest::sample::select(&CAUSES[..]),
        tries in 1..15,
        asked in prop_oneof![Just(0), 0..2 * HOUR, any::<i64>()],
    ) {
        let (mut patient, mut gate) = (Gate::default(), Gate::default());
        for n in 0..tries {
            patient.close(fault(cause, 0), 0, n > 0);
            gate.close(Fault { retry_after: Some(asked), ..fault(cause, 0) }, 0, n > 0);
        }
        let Pass::Wait(growing) = patient.pass(0) else { panic!("it closed") };
        prop_assert_eq!(gate.pass(0), Pass::Wait(growing.max(asked.min(HOUR))));

        let mut short = Gate::with_longest_pause(MINUTE);
        short.close(Fault { retry_after: Some(asked), ..fault(cause, 0) }, 0, false);
        let Pass::Wait(until) = short.pass(0) else { panic!("it closed") };
        prop_assert!(until <= MINUTE, "{until} ms of a gate that pauses a minute at most");
    }

    #[test]
    fn a_gate_survives_a_restart_and_a_clock_that_was_set_back(
        cause in proptest::sample::select(&CAUSES[..]),
        tries in 0..12,
        back in 0..2 * DAY,
    ) {
        let mut gate = Gate::default();
        let mut now = 10 * DAY;
        gate.close(fault(cause, 0), now, false);
        for _ in 0..tries {
            now += HOUR;
            gate.close(fault(cause, 0), now, true);
        }
        let Pass::Wait(until) = gate.pass(now) else { panic!("it is closed") };
        let text = serde_json::to_string(&gate).unwrap();
        let saved: Gate = serde_json::from_str(&text).unwrap();
        let restored = Gate::default().restored(saved, now - back);
        let risky = matches!(cause, Cause::Unclear | Cause::RateLimited);
        let again = match restored.pass(now - back) {
            Pass::Wait(again) if risky => again,
            // It is looked at for free.
            Pass::Probe if !risky => now - back,
            pass => return Err(TestCaseError::fail(format!("{pass:?} at a start"))),
        };
        prop_assert!(again <= until && again - (now - back) <= until - now);
    }
}
