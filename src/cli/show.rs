//! `reelq show`: all about one job.

use std::fmt::Display;

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::format;
use super::select::{self, JobRef, Outcome};
use crate::job::{Job, Millis};
use crate::store::{Event, LedgerRow, Open};
use crate::view::Detail;

const AFTER_HELP: &str = "\
    With --json it is the job with the columns of the table `jobs`, and beside them `submissions` \
    (the ledger: one entry for every request that was begun, with what came back) and `events` \
    (the history).\n\
    \n\
    Examples:\n\
    \x20 reelq show 17\n\
    \x20 reelq show key:shot-1\n\
    \x20 reelq show 17 --json | jq '.submissions[].outcome'";

/// Which job to show.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The job, by number or as key:NAME
    #[arg(value_name = "ID")]
    id: JobRef,
}

/// Runs `reelq show`.
///
/// # Errors
/// Status 1 where there is no such job.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let store = context.store(Open::Existing).await?;
    let found = select::find(&store, std::slice::from_ref(&args.id)).await?;
    let job = match found.ids.first() {
        Some(id) => store.job(*id).await?,
        None => None,
    };
    let Some(job) = job else {
        let outcome = Outcome {
            missing: vec![args.id],
            ..Outcome::default()
        };
        outcome.complain();
        return Ok(outcome.status());
    };
    let ledger = store.ledger(Some(job.id), None, None).await?;
    let history = store.history(job.id).await?;
    if context.json() {
        context.out.json(&Detail::new(&job, &ledger, &history))?;
    } else {
        let now = context.clock.now();
        print_job(&job, now, context)?;
        print_ledger(&ledger, context)?;
        print_history(&history, context)?;
    }
    Ok(ExitStatus::Done)
}

fn print_job(job: &Job, now: Millis, context: &Context) -> Result<(), Failure> {
    let whole = |text: &str| format::one_line(text, usize::MAX);
    let moment = |at: Millis| format!("{} ({})", format::time(at), format::ago(at, now));
    let line = |name: &str, value: &dyn Display| -> Result<(), Failure> {
        context.out.line(format_args!("{name:<11} {value}"))
    };
    let optional = |name: &str, value: Option<String>| -> Result<(), Failure> {
        value.map_or(Ok(()), |value| line(name, &value))
    };
    let spec = &job.spec;
    line("job", &job.id)?;
    optional("key", spec.key.as_deref().map(whole))?;
    line("batch", &whole(&spec.batch))?;
    line("state", &format::state(job))?;
    if let Some(failure) = &job.failure {
        line(
            "error",
            &format_args!("{}: {}", failure.code.as_str(), whole(&failure.message)),
        )?;
    }
    optional("note", job.note.as_deref().map(whole))?;
    line("prompt", &whole(&spec.prompt))?;
    line("image", &whole(&spec.image_url))?;
    line("video", &format_args!("{}, {} s", spec.size, spec.duration))?;
    if spec.priority != 0 {
        line("priority", &spec.priority)?;
    }
    optional("not before", spec.not_before.map(format::time))?;
    optional("metadata", spec.metadata.as_deref().map(whole))?;
    if let Some(file) = &job.file {
        line("file", &whole(&file.path))?;
        line("length", &bytesize::ByteSize(file.bytes))?;
        line("sha256", &file.sha256)?;
    }
    optional("task", job.task_id.as_deref().map(whole))?;
    optional("endpoint", job.endpoint.as_deref().map(whole))?;
    if job.attempt > 0 {
        line("cost", &job.cost)?;
    }
    let next = job.due_at.filter(|at| !job.state.is_settled() && *at > now);
    optional("next", next.map(format::time))?;
    line("created", &moment(job.created_at))?;
    optional("submitted", job.submitted_at.map(moment))?;
    optional("completed", job.completed_at.map(moment))?;
    optional("finished", job.finished_at.map(moment))
}

fn print_ledger(ledger: &[LedgerRow], context: &Context) -> Result<(), Failure> {
    if ledger.is_empty() {
        return Ok(());
    }
    context.out.line("\nledger")?;
    for row in ledger {
        let mut line = format!(
            "  {}  attempt {}: {}",
            format::time(row.started_at),
            row.attempt,
            row.resolution.as_deref().unwrap_or(row.outcome.as_str()),
        );
        line.push_str(&format!(", {}", row.cost));
        if let Some(status) = row.http_status {
            line.push_str(&format!(", HTTP {status}"));
        }
        if let Some(finished_at) = row.finished_at {
            line.push_str(&format!(", after {} ms", finished_at - row.started_at));
        }
        context.out.line(line)?;
        for (name, text) in [
            ("task", &row.task_id),
            ("error", &row.error),
            ("request", &row.request_id),
            ("answer", &row.answer),
        ] {
            if let Some(text) = text {
                let text = format::one_line(text, 2_000);
                context.out.line(format_args!("    {name}: {text}"))?;
            }
        }
    }
    Ok(())
}

fn print_history(history: &[Event], context: &Context) -> Result<(), Failure> {
    if history.is_empty() {
        return Ok(());
    }
    context.out.line("\nhistory")?;
    for event in history {
        let detail = event.detail.as_deref().map_or_else(String::new, |detail| {
            format!(": {}", format::one_line(detail, 1_000))
        });
        context.out.line(format_args!(
            "  {}  {} -> {}{detail}",
            format::time(event.at),
            event.event,
            event.state
        ))?;
    }
    Ok(())
}
