//! `reelq list`: jobs, one a line.

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::format;
use super::select::{self, JobRef, Outcome};
use crate::job::{Job, State};
use crate::store::{Filter, Open, Store};
use crate::view::JobView;

const AFTER_HELP: &str = "\
    On a terminal it is a table of the newest jobs. Elsewhere it is all of them, a line each, with \
    tabs between: id, state, progress, batch, key, duration, size, created (RFC 3339), remark (the \
    file, the error, or why it waits). With --json it is one array, a job a line, with the columns \
    of the table `jobs`; times are Unix milliseconds.\n\
    \n\
    Examples:\n\
    \x20 reelq list --state failed\n\
    \x20 reelq list --batch spring --limit 10\n\
    \x20 reelq list key:shot-1 17\n\
    \x20 reelq list --json --batch spring | jq -r '.[].path'";

/// Jobs in a table on a terminal when no limit is given.
const ON_TERMINAL: u32 = 50;

/// Jobs that are read at once.
const PAGE: u32 = 1_000;

/// Which jobs to list.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Only these jobs, by number or as key:NAME
    #[arg(value_name = "ID", conflicts_with_all = ["state", "batch", "limit", "oldest_first"])]
    ids: Vec<JobRef>,
    /// Only jobs in this state
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    /// Only jobs of this batch
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
    /// At most so many; 0: all [default: 50 on a terminal, else all]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,
    /// Begin with the oldest
    #[arg(long)]
    oldest_first: bool,
}

/// Runs `reelq list`.
///
/// # Errors
/// Status 1 where an id names no job.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let store = context.store(Open::Existing).await?;
    let is_table = context.out.is_terminal() && !context.json();
    let limit = match args.limit {
        Some(0) => None,
        None if is_table => Some(ON_TERMINAL),
        limit => limit,
    };
    let mut printer = Printer {
        context,
        table: is_table.then(Vec::new),
        printed: 0,
    };
    let mut status = ExitStatus::Done;
    let mut total = None;
    if args.ids.is_empty() {
        if let Some(batch) = &args.batch {
            select::known_batch(&store, batch).await?;
        }
        if is_table {
            let counts = store.counts(args.batch.as_deref()).await?;
            total = Some(match args.state {
                Some(state) => counts.of(state),
                None => counts.total(),
            });
        }
        pages(&store, &args, limit, &mut printer).await?;
    } else {
        let found = select::find(&store, &args.ids).await?;
        let mut outcome = Outcome {
            missing: found.missing,
            ..Outcome::default()
        };
        for id in found.ids {
            match store.job(id).await? {
                Some(job) => printer.print(&job)?,
                None => outcome.missing.push(JobRef::Id(id)),
            }
        }
        outcome.complain();
        status = outcome.status();
    }
    let printed = printer.end()?;
    if let Some(total) = total.filter(|total| *total > printed) {
        context
            .out
            .line(format_args!("{printed} of {total}; --limit 0 lists all"))?;
    }
    Ok(status)
}

async fn pages(
    store: &Store,
    args: &Args,
    limit: Option<u32>,
    printer: &mut Printer<'_>,
) -> Result<(), Failure> {
    let mut filter = Filter {
        state: args.state,
        batch: args.batch.clone(),
        newest_first: !args.oldest_first,
        ..Filter::default()
    };
    let mut left = limit;
    while left != Some(0) && !printer.context.out.is_closed() {
        filter.limit = Some(left.unwrap_or(PAGE).min(PAGE));
        let jobs = store.list(&filter).await?;
        let Some(last) = jobs.last() else { break };
        if args.oldest_first {
            filter.after = Some(last.id);
        } else {
            filter.before = Some(last.id);
        }
        left = left.map(|left| left.saturating_sub(jobs.len() as u32));
        for job in &jobs {
            printer.print(job)?;
        }
    }
    Ok(())
}

/// Prints jobs in one of three forms.
struct Printer<'a> {
    context: &'a Context,
    table: Option<Vec<Job>>,
    printed: u64,
}

impl Printer<'_> {
    fn print(&mut self, job: &Job) -> Result<(), Failure> {
        let out = &self.context.out;
        self.printed += 1;
        if self.context.json() {
            // Opened with the first job: what fails before it leaves no half of an array.
            out.text(if self.printed == 1 { "[\n" } else { ",\n" })?;
            return out.json_item(&JobView::from(job));
        }
        if let Some(table) = &mut self.table {
            table.push(job.clone());
            return Ok(());
        }
        let text = |text: &str| format::one_line(text, usize::MAX);
        out.line(format_args!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            job.id,
            job.state,
            job.progress,
            text(&job.spec.batch),
            text(job.spec.key.as_deref().unwrap_or("")),
            job.spec.duration,
            job.spec.size,
            format::rfc3339(job.created_at),
            text(&format::remark(job)),
        ))
    }

    fn end(self) -> Result<u64, Failure> {
        let out = &self.context.out;
        if self.context.json() {
            out.line(if self.printed == 0 { "[]" } else { "\n]" })?;
        }
        match self.table.as_deref() {
            None => {}
            Some([]) => out.line("no jobs")?,
            Some(jobs) => out.text(table(jobs, format::terminal_width()))?,
        }
        Ok(self.printed)
    }
}

fn table(jobs: &[Job], width: usize) -> String {
    let mut table = format::table(&["ID", "STATE", "BATCH", "KEY", "VIDEO", "CREATED", ""]);
    let mut others = 0;
    let rows: Vec<[String; 6]> = jobs
        .iter()
        .map(|job| {
            [
                job.id.to_string(),
                format::state(job),
                format::one_line(&job.spec.batch, 20),
                format::one_line(job.spec.key.as_deref().unwrap_or(""), 24),
                format!("{} {} s", job.spec.size, job.spec.duration),
                format::time(job.created_at),
            ]
        })
        .collect();
    for column in 0..6 {
        let widest = rows.iter().map(|row| row[column].chars().count()).max();
        others += widest.unwrap_or(0).max(5) + 2;
    }
    for (job, row) in jobs.iter().zip(rows) {
        let rest = width.saturating_sub(others).max(24);
        let remark = format::one_line(&format::remark(job), rest);
        table.add_row(row.into_iter().chain([remark]));
    }
    format::table_text(&table)
}
