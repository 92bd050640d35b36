//! Every state meets every event. `CASES` says what must come of it, one line a
//! transition; what it does not list must be refused. The table in
//! ARCHITECTURE.md is made from `step` itself and compared here:
//! `REELQ_BLESS=1 cargo test state_table` writes it anew.

use std::collections::BTreeSet;
use std::path::Path;

use reelq::job::State::{
    Cancelled, Done, Downloading, Failed, Generating, Pending, Submitting, Unconfirmed,
};
use reelq::job::{Event, Evidence, Failure, FailureCode, Job, Millis, State};
use reelq::money::Money;
use reelq::step::{
    LedgerLine, NOT_FOUND_GRACE, NOT_FOUND_LIMIT, Policy, Transition, UNREACHABLE_GRACE,
    UNUSABLE_GRACE, UNUSABLE_LIMIT, step,
};

use crate::world::{DAY, ENDPOINT, HOUR, NEW_YEAR, SECOND, job_in, lawful, saved_file};

/// A job that something happens to.
struct Setting {
    job: Job,
    now: Millis,
    policy: Policy,
}

impl Setting {
    fn of(state: State) -> Setting {
        let policy = Policy::default();
        let mut job = job_in(state);
        if state == Generating {
            job.give_up_at = Some(NEW_YEAR + policy.deadline);
        }
        if state == Downloading {
            job.give_up_at = Some(NEW_YEAR + UNUSABLE_GRACE);
        }
        Setting {
            job,
            now: NEW_YEAR + SECOND,
            policy,
        }
    }

    fn step(&self, event: Event) -> Result<Transition, String> {
        step(&self.job, event, self.now, &self.policy).map_err(|illegal| illegal.reason)
    }
}

/// A row of the table: an event, and under which circumstances it comes.
struct Row {
    words: &'static str,
    event: fn() -> Event,
    setting: fn(&mut Setting),
}

fn row(words: &'static str, event: fn() -> Event, setting: fn(&mut Setting)) -> Row {
    Row {
        words,
        event,
        setting,
    }
}

fn as_it_is(_: &mut Setting) {}

/// With an accepted task, whose job ended for this reason.
fn with_task(setting: &mut Setting, code: FailureCode) {
    let job = &mut setting.job;
    if matches!(job.state, Failed | Cancelled) {
        job.attempt = 1;
        job.task_id = Some("task-1".to_owned());
        job.endpoint = Some(ENDPOINT.to_owned());
        job.submitted_at = Some(NEW_YEAR);
    }
    if job.state == Failed {
        job.failure = Some(Failure {
            code,
            message: "a reason".to_owned(),
        });
    }
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    vec![
        row("`claimed`", || Event::Claimed { cost: Money::ZERO, endpoint: ENDPOINT.to_owned() }, as_it_is),
        row("`accepted`", || Event::Accepted { task_id: "task-1".to_owned(), evidence: Evidence::default() }, as_it_is),
        row("`refused`", || Event::Refused { evidence: Evidence::default() }, as_it_is),
        row("`not_accepted`", || Event::NotAccepted { evidence: Evidence::default(), closed_until: None }, as_it_is),
        row("`unknown`", || Event::Unknown { evidence: Evidence::default() }, as_it_is),
        row("`unknown`, with `on_unconfirmed = \"resubmit\"`", || Event::Unknown { evidence: Evidence::default() }, |s| s.policy.resubmit_unknown = true),
        row("`unknown`, with `on_unconfirmed = \"resubmit\"`, again", || Event::Unknown { evidence: Evidence::default() }, |s| { s.policy.resubmit_unknown = true; s.job.resent = true; }),
        row("`running`", || Event::Running { progress: Some(40) }, as_it_is),
        row("`running`, past its deadline", || Event::Running { progress: Some(40) }, |s| s.now = NEW_YEAR + s.policy.deadline),
        row("`task_not_found`, just after the POST", || Event::TaskNotFound { message: "no".to_owned() }, |s| s.job.faults = 9),
        row("`task_not_found`, later", || Event::TaskNotFound { message: "no".to_owned() }, |s| s.now = NEW_YEAR + DAY),
        row("`task_not_found`, later, for a minute", || Event::TaskNotFound { message: "no".to_owned() }, |s| { s.now = NEW_YEAR + DAY; s.job.faults = 2; }),
        row("`completed`", || Event::Completed { urls: vec!["/v.mp4".to_owned()], target: Some("/videos/1.mp4".to_owned()) }, as_it_is),
        row("`task_failed`", || Event::TaskFailed { message: "no".to_owned() }, as_it_is),
        row("`task_expired`", || Event::TaskExpired { message: "no".to_owned() }, as_it_is),
        row("`saved`", || Event::Saved { file: saved_file(), note: None }, as_it_is),
        row("`fetch_interrupted`", || Event::FetchInterrupted { reason: "reset".to_owned(), advanced: false }, |s| { s.now = NEW_YEAR + DAY; s.job.faults = 99; }),
        row("`placed`", || Event::Placed { reason: "taken".to_owned(), target: "/videos/2.mp4".to_owned() }, as_it_is),
        row("`video_unusable`", || Event::VideoUnusable { reason: "404".to_owned() }, as_it_is),
        row("`video_unusable`, for ten minutes", || Event::VideoUnusable { reason: "404".to_owned() }, |s| { s.now = NEW_YEAR + DAY; s.job.faults = 4; }),
        row("`video_unreachable`", || Event::VideoUnreachable { reason: "refused".to_owned() }, |s| s.now = NEW_YEAR + UNREACHABLE_GRACE),
        row("`video_unreachable`, for an hour", || Event::VideoUnreachable { reason: "refused".to_owned() }, |s| { s.now = NEW_YEAR + UNREACHABLE_GRACE; s.job.faults = 4; }),
        row("`retried`, where nothing was bought", || Event::Retried, as_it_is),
        row("`retried`, while its task may hold a video", || Event::Retried, |s| with_task(s, FailureCode::Deadline)),
        row("`cancelled`", || Event::Cancelled, as_it_is),
        row("`adopted`", || Event::Adopted { task_id: "task-1".to_owned() }, as_it_is),
        row("`resubmitted`", || Event::Resubmitted, as_it_is),
        row("`written_off`", || Event::WrittenOff, as_it_is),
    ]
}

/// State, row, the state it leads to, and what the ledger learns.
#[rustfmt::skip]
const CASES: &[(State, &str, State, &str)] = &[
    (Pending,     "`claimed`", Submitting, "begin"),
    (Submitting,  "`accepted`", Generating, "end accepted"),
    (Submitting,  "`refused`", Failed, "end rejected"),
    (Submitting,  "`not_accepted`", Pending, "end not_accepted"),
    (Submitting,  "`unknown`", Unconfirmed, "end unknown"),
    (Submitting,  "`unknown`, with `on_unconfirmed = \"resubmit\"`", Pending, "end unknown"),
    (Submitting,  "`unknown`, with `on_unconfirmed = \"resubmit\"`, again", Unconfirmed, "end unknown"),
    (Generating,  "`running`", Generating, ""),
    (Generating,  "`running`, past its deadline", Failed, ""),
    (Generating,  "`task_not_found`, just after the POST", Generating, ""),
    (Generating,  "`task_not_found`, later", Generating, ""),
    (Generating,  "`task_not_found`, later, for a minute", Failed, ""),
    (Generating,  "`completed`", Downloading, ""),
    (Generating,  "`task_failed`", Failed, ""),
    (Generating,  "`task_expired`", Failed, ""),
    (Downloading, "`saved`", Done, ""),
    (Downloading, "`fetch_interrupted`", Downloading, ""),
    (Downloading, "`placed`", Downloading, ""),
    (Downloading, "`video_unusable`", Downloading, ""),
    (Downloading, "`video_unusable`, for ten minutes", Failed, ""),
    (Downloading, "`video_unreachable`", Downloading, ""),
    (Downloading, "`video_unreachable`, for an hour", Failed, ""),
    (Failed,      "`retried`, where nothing was bought", Pending, ""),
    (Failed,      "`retried`, while its task may hold a video", Generating, ""),
    (Cancelled,   "`retried`, where nothing was bought", Pending, ""),
    (Cancelled,   "`retried`, while its task may hold a video", Generating, ""),
    (Pending,     "`cancelled`", Cancelled, ""),
    (Generating,  "`cancelled`", Cancelled, ""),
    (Downloading, "`cancelled`", Cancelled, ""),
    (Unconfirmed, "`adopted`", Generating, "resolve accepted, adopted"),
    (Unconfirmed, "`resubmitted`", Pending, "resolve not_accepted, resubmitted"),
    (Unconfirmed, "`written_off`", Failed, "resolve unknown, written_off"),
];

fn ledger_words(transition: &Transition) -> String {
    match &transition.ledger {
        None => String::new(),
        Some(LedgerLine::Begin { .. }) => "begin".to_owned(),
        Some(LedgerLine::End { outcome, .. }) => format!("end {}", outcome.as_str()),
        Some(LedgerLine::Resolve {
            outcome,
            resolution,
            ..
        }) => format!("resolve {}, {resolution}", outcome.as_str()),
    }
}

#[test]
fn every_state_takes_the_listed_events_and_refuses_every_other() {
    let mut used = BTreeSet::new();
    for row in rows() {
        for state in State::ALL {
            let mut setting = Setting::of(state);
            (row.setting)(&mut setting);
            lawful(&setting.job).unwrap();
            let came = setting
                .step((row.event)())
                .map(|next| (next.job.state, ledger_words(&next)));
            let listed = CASES
                .iter()
                .find(|(from, words, ..)| (*from, *words) == (state, row.words));
            match (listed, came) {
                (Some((_, words, to, ledger)), Ok(came)) => {
                    assert_eq!(came, (*to, (*ledger).to_owned()), "{state} {words}");
                    used.insert((state, *words));
                }
                (None, Err(reason)) => assert!(!reason.is_empty(), "{state} {}", row.words),
                (_, came) => panic!("{state} {}: {came:?}", row.words),
            }
        }
    }
    assert_eq!(used.len(), CASES.len(), "a case that no row meets");
}

/// Grows with [`Event`]: a new event does not compile until it has a row.
fn place(event: &Event) -> usize {
    match event {
        Event::Claimed { .. } => 0,
        Event::Accepted { .. } => 1,
        Event::Refused { .. } => 2,
        Event::NotAccepted { .. } => 3,
        Event::Unknown { .. } => 4,
        Event::Running { .. } => 5,
        Event::TaskNotFound { .. } => 6,
        Event::Completed { .. } => 7,
        Event::TaskFailed { .. } => 8,
        Event::TaskExpired { .. } => 9,
        Event::Saved { .. } => 10,
        Event::FetchInterrupted { .. } => 11,
        Event::Placed { .. } => 12,
        Event::VideoUnusable { .. } => 13,
        Event::VideoUnreachable { .. } => 14,
        Event::Retried => 15,
        Event::Cancelled => 16,
        Event::Adopted { .. } => 17,
        Event::Resubmitted => 18,
        Event::WrittenOff => 19,
    }
}

#[test]
fn every_event_has_a_row() {
    let places: BTreeSet<usize> = rows().iter().map(|row| place(&(row.event)())).collect();
    assert_eq!(places, (0..20).collect());
    for row in rows() {
        let name = format!("`{}`", (row.event)().name());
        assert!(row.words.starts_with(&name), "{} is {name}", row.words);
    }
}

/// Where a limit lies exactly: the setting, the event, the state it leads to.
#[test]
fn limits_lie_where_they_are_said_to_lie() {
    let running = || Event::Running { progress: None };
    let not_found = || Event::TaskNotFound {
        message: "no".to_owned(),
    };
    let unusable = || Event::VideoUnusable {
        reason: "404".to_owned(),
    };
    let unreachable = || Event::VideoUnreachable {
        reason: "refused".to_owned(),
    };
    let deadline = Policy::default().deadline;
    #[rustfmt::skip]
    let cases: [(State, Millis, u32, Event, State); 16] = [
        // state, milliseconds after its start, faults before, event, next state
        (Generating, deadline - 1, 0, running(), Generating),
        (Generating, deadline, 0, running(), Failed),
        (Generating, NOT_FOUND_GRACE - 1, 99, not_found(), Generating),
        // Polled every five seconds: thirteen answers span a minute.
        (Generating, NOT_FOUND_GRACE, NOT_FOUND_LIMIT, not_found(), Generating),
        (Generating, NOT_FOUND_GRACE, 11, not_found(), Generating),
        (Generating, NOT_FOUND_GRACE, 12, not_found(), Failed),
        // Polled every minute.
        (Generating, HOUR, NOT_FOUND_LIMIT - 2, not_found(), Generating),
        (Generating, HOUR, NOT_FOUND_LIMIT - 1, not_found(), Failed),
        // Not the deadline's word: a task that is lost for now is given up by its own limit.
        (Generating, deadline, 0, not_found(), Generating),
        (Downloading, UNUSABLE_GRACE - 1, UNUSABLE_LIMIT + 9, unusable(), Downloading),
        (Downloading, UNUSABLE_GRACE, UNUSABLE_LIMIT - 2, unusable(), Downloading),
        (Downloading, UNUSABLE_GRACE, UNUSABLE_LIMIT - 1, unusable(), Failed),
        (Downloading, UNUSABLE_GRACE + DAY, UNUSABLE_LIMIT - 1, unusable(), Failed),
        (Downloading, UNREACHABLE_GRACE - 1, UNUSABLE_LIMIT + 9, unreachable(), Downloading),
        (Downloading, UNREACHABLE_GRACE, UNUSABLE_LIMIT - 2, unreachable(), Downloading),
        (Downloading, UNREACHABLE_GRACE, UNUSABLE_LIMIT - 1, unreachable(), Failed),
    ];
    for (state, after, faults, event, to) in cases {
        let mut setting = Setting::of(state);
        setting.now = NEW_YEAR + after;
        setting.job.faults = faults;
        let name = event.name();
        let next = setting.step(event).unwrap().job;
        assert_eq!(next.state, to, "{state} {name} after {after} ms");
    }
}

#[test]
fn what_was_refused_costs_nothing() {
    let mut setting = Setting::of(Submitting);
    setting.job.cost = Money::from_micros(600_000);
    let refused = Event::Refused {
        evidence: Evidence::default(),
    };
    assert_eq!(setting.step(refused).unwrap().job.cost, Money::ZERO);
}

#[test]
fn an_answer_in_between_starts_the_counts_anew() {
    let mut setting = Setting::of(Generating);
    setting.now = NEW_YEAR + DAY;
    setting.job.faults = NOT_FOUND_LIMIT - 1;
    let next = setting.step(Event::Running { progress: None }).unwrap().job;
    assert_eq!(next.faults, 0);

    let mut setting = Setting::of(Downloading);
    setting.now = NEW_YEAR + DAY;
    setting.job.faults = UNUSABLE_LIMIT;
    let broken = Event::FetchInterrupted {
        reason: "reset".to_owned(),
        advanced: false,
    };
    let next = setting.step(broken).unwrap().job;
    assert_eq!(next.give_up_at, Some(setting.now + UNUSABLE_GRACE));
}

/// What a person is told, by state and command: it must say what to do instead.
#[test]
fn a_refused_command_says_what_to_do() {
    let adopted = || Event::Adopted {
        task_id: "t".to_owned(),
    };
    #[rustfmt::skip]
    let cases: [(State, Event, &str); 19] = [
        (Submitting,  Event::Cancelled, "ask again when it has been answered"),
        (Unconfirmed, Event::Cancelled, "reelq resolve"),
        (Done,        Event::Cancelled, "already ended"),
        (Failed,      Event::Cancelled, "already ended"),
        (Cancelled,   Event::Cancelled, "already ended"),
        (Pending,     Event::Retried, "still moving"),
        (Submitting,  Event::Retried, "still moving"),
        (Generating,  Event::Retried, "still moving"),
        (Downloading, Event::Retried, "still moving"),
        (Unconfirmed, Event::Retried, "reelq resolve"),
        (Done,        Event::Retried, "add a new job"),
        (Pending,     adopted(), "only an unconfirmed job"),
        (Submitting,  adopted(), "only an unconfirmed job"),
        (Generating,  adopted(), "only an unconfirmed job"),
        (Done,        adopted(), "only an unconfirmed job"),
        (Failed,      Event::Resubmitted, "only an unconfirmed job"),
        (Submitting,  Event::Resubmitted, "only an unconfirmed job"),
        (Generating,  Event::WrittenOff, "only an unconfirmed job"),
        (Cancelled,   Event::WrittenOff, "only an unconfirmed job"),
    ];
    for (state, event, words) in cases {
        let name = event.name();
        let reason = Setting::of(state).step(event).unwrap_err();
        assert!(reason.contains(words), "{state} {name}: {reason}");
    }
}

/// What a retry pays, by how the job ended: only what has no video, and never
/// will, is paid for again.
#[test]
fn a_retry_pays_again_only_where_nothing_was_bought() {
    for code in FailureCode::ALL {
        let mut setting = Setting::of(Failed);
        with_task(&mut setting, code);
        let again = setting.step(Event::Retried).unwrap().job;
        let free = code != FailureCode::TaskFailed;
        assert_eq!(again.state == Generating, free, "{}", code.as_str());
        assert_eq!(again.task_id.is_some(), free, "{}", code.as_str());
    }
}

/// The table as Markdown, made by `step`.
fn table() -> String {
    let mut text = "| event |".to_owned();
    for state in State::ALL {
        text += &format!(" {state} |");
    }
    text += "\n|---|";
    text += &"---|".repeat(State::ALL.len());
    for row in rows() {
        text += &format!("\n| {} |", row.words);
        for state in State::ALL {
            let mut setting = Setting::of(state);
            (row.setting)(&mut setting);
            match setting.step((row.event)()) {
                Ok(next) => text += &format!(" {} |", next.job.state),
                Err(_) => text += " – |",
            }
        }
    }
    text + "\n"
}

#[test]
fn the_table_in_the_architecture_is_the_code_s() {
    const BEGIN: &str = "<!-- state table -->\n";
    const END: &str = "<!-- /state table -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the block's beginning");
    let (block, after) = rest.split_once(END).expect("the block's end");
    let table = table();
    if block.trim() == table.trim() {
        return;
    }
    if std::env::var_os("REELQ_BLESS").is_some() {
        #[allow(clippy::disallowed_methods)] // a source file, not a video
        std::fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{after}")).unwrap();
        return;
    }
    panic!("ARCHITECTURE.md is out of date; REELQ_BLESS=1 writes this table:\n\n{table}");
}
