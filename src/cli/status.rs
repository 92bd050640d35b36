//! `reelq status`: how the queue stands.

use serde_json::{Value, json};

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::format::{self, counted};
use crate::job::{Millis, Outcome, State};
use crate::lock::{self, Holder};
use crate::money::Money;
use crate::places;
use crate::store::{Counts, Open, SpendRow, Store};
pub use crate::view::Held;
use crate::view::Status;

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

/// Takes no arguments of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {}

/// Everything that is told.
struct Report {
    now: Millis,
    /// `None`: it could not be found out.
    daemon: Option<Option<Holder>>,
    status: Status,
    /// Running tasks of another base URL or key than the configured one.
    foreign: Vec<(String, u64)>,
    has_prices: bool,
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
    Ok(Report {
        now,
        daemon: lock::holder(store.path()).ok(),
        status: Status::read(store, day_start).await?,
        foreign: match own {
            None => Vec::new(),
            Some(own) => {
                let mut endpoints = store.endpoints().await?;
                endpoints.retain(|(endpoint, _)| *endpoint != own);
                endpoints
            }
        },
        has_prices: !settings.budget.price_per_second.is_empty(),
    })
}

impl Report {
    fn json(&self, store: &Store) -> Value {
        let mut value = self.status.json(usize::MAX);
        value["database"] = json!(store.path().display().to_string());
        value["daemon"] = json!(self.daemon.map(|holder| json!({
            "running": holder.is_some(),
            "pid": holder.and_then(|holder| holder.pid),
        })));
        let foreign = self.foreign.iter();
        value["foreign"] = foreign
            .map(|(endpoint, tasks)| json!({ "endpoint": endpoint, "tasks": tasks }))
            .collect();
        value
    }

    fn print(&self, store: &Store, context: &Context) -> Result<(), Failure> {
        let line = |name: &str, text: String| -> Result<(), Failure> {
            context.out.line(format_args!("{name:<9} {text}"))
        };
        line("queue", store.path().display().to_string())?;
        line("daemon", self.daemon_words())?;
        line("jobs", counts_words(&self.status.counts))?;
        if let Some((reason, since)) = &self.status.paused {
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
        for held in &self.status.held {
            self.print_held(held, context)?;
        }
        let unconfirmed = self.status.counts.of(State::Unconfirmed);
        if unconfirmed > 0 {
            line(
                "CHECK",
                format!(
                    "{} may have been charged: {}",
                    counted(unconfirmed, "unconfirmed job"),
                    format::listed(&self.status.unconfirmed, 10)
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
        line("today", self.spend_words(&self.status.today))?;
        line("in all", self.spend_words(&self.status.total))?;
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
    fn spend_words(&self, rows: &[SpendRow]) -> String {
        let words: Vec<String> = rows
            .iter()
            .map(|row| {
                let SpendRow {
                    outcome,
                    count,
                    cost,
                } = row;
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
        if self.status.batches.is_empty() {
            return Ok(());
        }
        let mut table = format::table(&[
            "BATCH", "JOBS", "DONE", "RUNNING", "WAITING", "FAILED", "OTHER", "COST CAP",
        ]);
        format::align_right(&mut table, &[1, 2, 3, 4, 5, 6]);
        for batch in self.status.batches.iter().take(BATCHES) {
            let of = |state| batch.counts.of(state);
            let cap = self.status.caps.iter().find(|cap| cap.batch == batch.name);
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
        if self.status.batches.len() > BATCHES {
            context.out.line(format_args!(
                "and {} older ones; --json has them all",
                self.status.batches.len() - BATCHES
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
