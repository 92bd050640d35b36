//! `reelq ledger`: what was paid for.

use clap::ValueEnum;
use serde_json::json;

use super::failure::{ExitStatus, Failure};
use super::format::{self, Since};
use super::{Context, output, select};
use crate::job::{Millis, Outcome};
use crate::money::Money;
use crate::store::{LedgerRow, Open, Store};
use crate::view::{self, SubmissionView};

const AFTER_HELP: &str = "\
    One row for every paid request that was begun. Outcomes: accepted (charged), unknown (may have \
    been charged), written_off (a person took it as a loss), rejected and not_accepted (not \
    charged), in_flight. Costs are by the configured prices; the provider's bill counts. CSV has \
    one header row and no totals (those go to standard error); JSON is {\"submissions\": [...], \
    \"totals\": {...}}.\n\
    \n\
    Examples:\n\
    \x20 reelq ledger --since 2026-01-01\n\
    \x20 reelq ledger --batch spring --format csv > spring.csv\n\
    \x20 reelq ledger --since 24h --json | jq .totals";

/// Rows that are read at once.
const PAGE: u32 = 1_000;

/// Which part of the ledger, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Only this batch
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
    /// Only from this time on: a date, a time, or 24h or 30d ago
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// How to write it [default: table]
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    format: Option<Form>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    #[default]
    Table,
    Csv,
    Json,
}

/// The kinds that are summed up, in the order they are told.
const KINDS: [&str; 6] = [
    "accepted",
    "unknown",
    "written_off",
    "rejected",
    "not_accepted",
    "in_flight",
];

/// The outcome, but for a loss that a person took.
fn kind(row: &LedgerRow) -> &'static str {
    match (row.outcome, row.resolution.as_deref()) {
        (Outcome::Unknown, Some("written_off")) => "written_off",
        (outcome, _) => outcome.as_str(),
    }
}

/// What it cost or may have cost: what was surely not accepted cost nothing.
fn cost(row: &LedgerRow) -> Money {
    match row.outcome {
        Outcome::Rejected | Outcome::NotAccepted => Money::ZERO,
        Outcome::InFlight | Outcome::Accepted | Outcome::Unknown => row.cost,
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals([(u64, Money); KINDS.len()]);

impl Totals {
    fn count(&mut self, row: &LedgerRow) {
        if let Some(place) = KINDS.iter().position(|name| *name == kind(row)) {
            let (count, sum) = &mut self.0[place];
            *count += 1;
            *sum += cost(row);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, u64, Money)> + '_ {
        KINDS
            .into_iter()
            .zip(self.0)
            .map(|(name, (count, sum))| (name, count, sum))
    }

    fn words(&self) -> Vec<String> {
        self.iter()
            .filter(|(name, count, _)| *count > 0 || *name == "accepted")
            .map(|(name, count, sum)| {
                format!("{:<12}  {count:>6}  {sum:>12}", name.replace('_', " "))
            })
            .collect()
    }
}

/// Runs `reelq ledger`.
///
/// # Errors
/// There is no such batch, or the store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let timezone = &context.settings()?.budget.timezone;
    let store = context.store(Open::Existing).await?;
    if let Some(batch) = &args.batch {
        select::known_batch(&store, batch).await?;
    }
    let since = match &args.since {
        None => None,
        Some(since) => Some(
            since
                .resolve(context.clock.now(), timezone)
                .map_err(Failure::usage)?,
        ),
    };
    let form = match args.format {
        _ if context.json() => Form::Json,
        form => form.unwrap_or_default(),
    };
    match form {
        Form::Table => table(&store, &args, since, context).await?,
        Form::Csv => csv(&store, &args, since, context).await?,
        Form::Json => json(&store, &args, since, context).await?,
    }
    Ok(ExitStatus::Done)
}

/// Calls `each` for every row, in portions.
async fn rows(
    store: &Store,
    args: &Args,
    since: Option<Millis>,
    context: &Context,
    mut each: impl FnMut(&LedgerRow) -> Result<(), Failure>,
) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut after = None;
    while !context.out.is_closed() {
        let page = store
            .ledger_page(args.batch.as_deref(), since, after, PAGE)
            .await?;
        let Some(last) = page.last() else { break };
        after = Some(last.place());
        for row in &page {
            totals.count(row);
            each(row)?;
        }
    }
    Ok(totals)
}

async fn table(
    store: &Store,
    args: &Args,
    since: Option<Millis>,
    context: &Context,
) -> Result<(), Failure> {
    // Columns of fixed width: a long ledger is not held in memory.
    let print = |cells: [&str; 7]| {
        let [at, job, batch, outcome, cost, task, error] = cells;
        let line = format!(
            "{at:<19}  {job:>9}  {batch:<16}  {outcome:<12}  {cost:>9}  {task:<28}  {error}"
        );
        context.out.line(line.trim_end())
    };
    print(["BEGUN", "JOB", "BATCH", "OUTCOME", "COST", "TASK", "ERROR"])?;
    let totals = rows(store, args, since, context, |row| {
        print([
            &format::time(row.started_at),
            &row.job_id.to_string(),
            &format::one_line(&row.batch, 16),
            &kind(row).replace('_', " "),
            &cost(row).to_string(),
            &format::one_line(row.task_id.as_deref().unwrap_or(""), 28),
            &format::one_line(row.error.as_deref().unwrap_or(""), 60),
        ])
    })
    .await?;
    context.out.line("")?;
    for line in totals.words() {
        context.out.line(line)?;
    }
    Ok(())
}

async fn csv(
    store: &Store,
    args: &Args,
    since: Option<Millis>,
    context: &Context,
) -> Result<(), Failure> {
    let write = |cells: &[String]| -> Result<(), Failure> {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(cells).map_err(Failure::failed)?;
        context
            .out
            .bytes(&writer.into_inner().map_err(Failure::failed)?)
    };
    let header = [
        "job_id",
        "key",
        "batch",
        "attempt",
        "started_at",
        "finished_at",
        "outcome",
        "cost",
        "http_status",
        "task_id",
        "error",
        "request_id",
        "endpoint",
        "state",
    ];
    write(&header.map(str::to_owned))?;
    let totals = rows(store, args, since, context, |row| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        write(&[
            row.job_id.to_string(),
            text(&row.key),
            row.batch.clone(),
            row.attempt.to_string(),
            format::rfc3339(row.started_at),
            row.finished_at.map(format::rfc3339).unwrap_or_default(),
            kind(row).to_owned(),
            cost(row).to_string(),
            row.http_status
                .map(|status| status.to_string())
                .unwrap_or_default(),
            text(&row.task_id),
            text(&row.error),
            text(&row.request_id),
            row.endpoint.clone(),
            row.state.clone(),
        ])
    })
    .await?;
    context.out.flush()?;
    if context.global.quiet == 0 {
        for line in totals.words() {
            output::aside(line);
        }
    }
    Ok(())
}

async fn json(
    store: &Store,
    args: &Args,
    since: Option<Millis>,
    context: &Context,
) -> Result<(), Failure> {
    let out = &context.out;
    out.text("{\"submissions\":[")?;
    let mut first = true;
    let totals = rows(store, args, since, context, |row| {
        out.text(if std::mem::take(&mut first) {
            "\n"
        } else {
            ",\n"
        })?;
        out.json_item(&SubmissionView::from(row))
    })
    .await?;
    let totals: serde_json::Map<_, _> = totals
        .iter()
        .map(|(name, count, sum)| {
            let entry = json!({ "submissions": count, "cost": view::money(sum) });
            (name.to_owned(), entry)
        })
        .collect();
    out.text("\n],\"totals\":")?;
    out.json_item(&totals)?;
    out.line("}")
}
