//! `reelq status`: how the queue stands.

use serde_json::{Value, json};

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::format::{self, counted};
use super::pause::PAUSED;
use crate::job::{JobId, Millis, Outcome, State};
use crate::lock::{self, Holder};
use crate::money::Money;
use crate::places;
use crate::store::{Batch, Cap, Counts, Filter, GateRow, Open, Store};
use crate::view;

const AFTER_HELP: &str = "\
    `held` says what keeps jobs waiting and what can be done about it; the daemon writes it down \
    when it changes. With --json: database, daemon, paused, jobs, batches, held, unconfirmed, \
    foreign and spend.\n\
    \n\
    Examples:\n\
    \x20 reelq status\n\
    \x20 reelq status --json | jq .jobs\n\
    \x20 watch reelq status";

/// Batches in the table for people.
const BATCHES: usize = 20;

/// Unconfirmed jobs that are named.
const UNCONFIRMED: u32 = 100;

/// Takes no arguments of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {}

/// Everything that is told.
struct Report {
    now: Millis,
    /// `None`: it could not be found out.
    daemon: Option<Option<Holder>>,
    paused: Option<(String, Millis)>,
    counts: Counts,
    batches: Vec<Batch>,
    caps: Vec<Cap>,
    held: Vec<Held>,
    unconfirmed: Vec<JobId>,
    /// Running tasks of another base URL or key than the configured one.
    foreign: Vec<(String, u64)>,
    today: Vec<(Outcome, u64, Money)>,
    ever: Vec<(Outcome, u64, Money)>,
    has_prices: bool,
}

/// What holds a stage back, as the daemon put it.
pub struct Held {
    name: String,
    since: Millis,
    until: Option<Millis>,
    cause: String,
    message: String,
    advice: String,
}

impl From<GateRow> for Held {
    fn from(row: GateRow) -> Held {
        let detail: Value = serde_json::from_str(&row.detail).unwrap_or_default();
        let text = |name: &str| detail[name].as_str().unwrap_or_default().to_owned();
        Held {
            cause: text("cause"),
            message: text("message"),
            advice: text("advice"),
            name: row.name,
            since: row.since,
            until: row.until,
        }
    }
}

impl Held {
    /// In one line: what waits, and why.
    pub fn words(&self) -> String {
        let message = format::one_line(&self.message, 300);
        match self.name.as_str() {
            "submit" => format!("submitting waits: {message}"),
            "poll" => format!("polling waits: {message}"),
            _ => message,
        }
    }
}

/// Runs `reelq status`.
///
/// # Errors
/// The store's.
pub async fn run(_: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let store = context.store(Open::Existing).await?;
    let report = gather(&store, context).await?;
    if context.json() {
        context.out.json(&report.json(&store))?;
    } else {
        report.print(&store, context)?;
    }
    Ok(ExitStatus::Done)
}

async fn gather(store: &Store, context: &Context) -> Result<Report, Failure> {
    let settings = context.settings()?;
    let now = context.clock.now();
    let day_start = places::day_start(now, &settings.budget.timezone);
    // Without a readable key nobody can tell whose the tasks are.
    let own = settings.api_key().ok().map(|key| settings.endpoint(&key));
    let unconfirmed = Filter {
        state: Some(State::Unconfirmed),
        limit: Some(UNCONFIRMED),
        ..Filter::default()
    };
    Ok(Report {
        now,
        daemon: lock::holder(store.path()).ok(),
        paused: store.fact(PAUSED).await?,
        counts: store.counts(None).await?,
        batches: store.batches().await?,
        caps: store.caps().await?,
        held: store.gates().await?.into_iter().map(Held::from).collect(),
        unconfirmed: store.list_ids(&unconfirmed).await?,
        foreign: match own {
            None => Vec::new(),
            Some(own) => {
                let mut endpoints = store.endpoints().await?;
                endpoints.retain(|(endpoint, _)| *endpoint != own);
                endpoints
            }
        },
        today: store.spend(day_start).await?,
        ever: store.spend(0).await?,
        has_prices: !settings.budget.price_per_second.is_empty(),
    })
}

impl Report {
    fn json(&self, store: &Store) -> Value {
        let spend = |rows: &[(Outcome, u64, Money)]| -> Value {
            Outcome::ALL
                .into_iter()
                .map(|outcome| {
                    let row = rows.iter().find(|row| row.0 == outcome);
                    let (count, cost) = row.map_or((0, Money::ZERO), |row| (row.1, row.2));
                    let entry = json!({ "submissions": count, "cost": view::money(cost) });
                    (outcome.as_str().to_owned(), entry)
                })
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let cap = |name: &str| self.caps.iter().find(|cap| cap.batch == name);
        json!({
            "database": store.path().display().to_string(),
            "daemon": self.daemon.map(|holder| json!({
                "running": holder.is_some(),
                "pid": holder.and_then(|holder| holder.pid),
            })),
            "paused": self.paused.as_ref().map(|(reason, since)| json!({
                "reason": reason,
                "since": since,
            })),
            "jobs": view::counts(&self.counts),
            "batches": self.batches.iter().map(|batch| json!({
                "name": batch.name,
                "jobs": view::counts(&batch.counts),
                "max_cost": cap(&batch.name).map(|cap| view::money(cap.max_cost)),
                "spent": cap(&batch.name).map(|cap| view::money(cap.spent)),
            })).collect::<Vec<_>>(),
            "held": self.held.iter().map(|held| json!({
                "name": held.name,
                "cause": held.cause,
                "message": held.message,
                "advice": held.advice,
                "since": held.since,
                "until": held.until,
            })).collect::<Vec<_>>(),
            "unconfirmed": self.unconfirmed,
            "foreign": self.foreign.iter().map(|(endpoint, tasks)| json!({
                "endpoint": endpoint,
                "tasks": tasks,
            })).collect::<Vec<_>>(),
            "spend": { "today": spend(&self.today), "total": spend(&self.ever) },
        })
    }

    fn print(&self, store: &Store, context: &Context) -> Result<(), Failure> {
        let line = |name: &str, text: String| -> Result<(), Failure> {
            context.out.line(format_args!("{name:<9} {text}"))
        };
        line("queue", store.path().display().to_string())?;
        line("daemon", self.daemon_words())?;
        line("jobs", counts_words(&self.counts))?;
        if let Some((reason, since)) = &self.paused {
            line(
                "paused",
                format!(
                    "since {} ({}): {}; `reelq resume` ends it",
                    format::time(*since),
                    format::ago(*since, self.now),
                    format::one_line(reason, 200)
                ),
            )?;
        }
        for held in &self.held {
            self.print_held(held, context)?;
        }
        let unconfirmed = self.counts.of(State::Unconfirmed);
        if unconfirmed > 0 {
            line(
                "CHECK",
                format!(
                    "{} may have been charged: {}",
                    counted(unconfirmed, "unconfirmed job"),
                    format::listed(&self.unconfirmed, 10)
                ),
            )?;
            line(
                "",
                "look them up at the provider, then `reelq resolve ID --adopt TASK_ID`, --resubmit or --write-off"
                    .to_owned(),
            )?;
        }
        for (endpoint, tasks) in &self.foreign {
            line(
                "foreign",
                format!(
                    "{} of {}: asked for only by a daemon with that base URL and key",
                    counted(*tasks, "task"),
                    format::one_line(endpoint, 200)
                ),
            )?;
        }
        line("today", self.spend_words(&self.today))?;
        line("in all", self.spend_words(&self.ever))?;
        self.print_batches(context)
    }

    fn daemon_words(&self) -> String {
        match &self.daemon {
            None => "not known: its lock cannot be read".to_owned(),
            Some(Some(Holder { pid: Some(pid) })) => format!("runs (process {pid})"),
            Some(Some(Holder { pid: None })) => "runs".to_owned(),
            Some(None) => "does not run; `reelq run` starts it".to_owned(),
        }
    }

    fn print_held(&self, held: &Held, context: &Context) -> Result<(), Failure> {
        let mut text = format!("{} (since {}", held.words(), format::time(held.since));
        if let Some(until) = held.until.filter(|until| *until > self.now) {
            text.push_str(&format!(
                ", tried again in {}",
                format::span(until - self.now)
            ));
        }
        text.push(')');
        context.out.line(format_args!("{:<9} {text}", "held"))?;
        if !held.advice.is_empty() {
            context
                .out
                .line(format_args!("{:<9} what to do: {}", "", held.advice))?;
        }
        Ok(())
    }

    /// `12 accepted 7.20, 1 unknown 0.60`
    fn spend_words(&self, rows: &[(Outcome, u64, Money)]) -> String {
        let words: Vec<String> = rows
            .iter()
            .map(|(outcome, count, cost)| {
                let name = outcome.as_str().replace('_', " ");
                // What was not accepted costs nothing.
                let is_paid = matches!(
                    outcome,
                    Outcome::InFlight | Outcome::Accepted | Outcome::Unknown
                );
                if is_paid && (self.has_prices || *cost > Money::ZERO) {
                    format!("{count} {name} {cost}")
                } else {
                    format!("{count} {name}")
                }
            })
            .collect();
        if words.is_empty() {
            "nothing submitted".to_owned()
        } else {
            words.join(", ")
        }
    }

    fn print_batches(&self, context: &Context) -> Result<(), Failure> {
        if self.batches.is_empty() {
            return Ok(());
        }
        let mut table = format::table(&[
            "BATCH", "JOBS", "DONE", "RUNNING", "WAITING", "FAILED", "OTHER", "COST CAP",
        ]);
        format::align_right(&mut table, &[1, 2, 3, 4, 5, 6]);
        for batch in self.batches.iter().take(BATCHES) {
            let of = |state| batch.counts.of(state);
            let cap = self.caps.iter().find(|cap| cap.batch == batch.name);
            let numbers = [
                batch.counts.total(),
                of(State::Done),
                of(State::Submitting) + of(State::Generating) + of(State::Downloading),
                of(State::Pending),
                of(State::Failed),
                of(State::Cancelled) + of(State::Unconfirmed),
            ];
            let mut row = vec![format::one_line(&batch.name, 40)];
            row.extend(numbers.iter().map(u64::to_string));
            row.push(cap.map_or_else(String::new, |cap| {
                format!("{} of {}", cap.spent, cap.max_cost)
            }));
            table.add_row(row);
        }
        context.out.line("")?;
        context.out.text(format::table_text(&table))?;
        if self.batches.len() > BATCHES {
            context.out.line(format_args!(
                "and {} older ones; --json has them all",
                self.batches.len() - BATCHES
            ))?;
        }
        Ok(())
    }
}

/// `40 in all: 12 done, 8 generating, 20 pending`
fn counts_words(counts: &Counts) -> String {
    let words: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        format!("{} in all: {}", counts.total(), words.join(", "))
    }
}
