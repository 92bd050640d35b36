//! `reelq resolve`: a person's word on submissions that may have been charged.

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::select::{self, Selection};
use crate::job::{Event, State, is_task_id};
use crate::service;
use crate::step;
use crate::store::Open;

const AFTER_HELP: &str = "\
    A job is unconfirmed when its request may have been accepted and charged, but no readable \
    answer came back. Look it up in the provider's list of tasks (`reelq show ID` tells when it \
    was sent and what came back), then say which it was.\n\
    \n\
    Examples:\n\
    \x20 reelq list --state unconfirmed\n\
    \x20 reelq resolve 17 --adopt task_abc123      the task exists: watch it and fetch its video\n\
    \x20 reelq resolve 17 --resubmit               it was not charged: send it again\n\
    \x20 reelq resolve --batch spring --write-off  take the loss";

/// Which jobs to settle, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    jobs: Selection,
    #[command(flatten)]
    word: Word,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Word {
    /// The task exists, under this id; takes exactly one job
    #[arg(long, value_name = "TASK_ID", value_parser = task_id)]
    adopt: Option<String>,
    /// It was not charged: send it again
    #[arg(long)]
    resubmit: bool,
    /// It may have been charged: take the loss and mark the job as failed
    #[arg(long)]
    write_off: bool,
}

fn task_id(text: &str) -> Result<String, String> {
    let id = text.trim();
    match is_task_id(id) {
        true => Ok(id.to_owned()),
        false => Err("a task id is the provider's name for the task, without blanks".to_owned()),
    }
}

/// Runs `reelq resolve`.
///
/// # Errors
/// The task id is another job's, or the store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let policy = service::policy(context.settings()?);
    let store = context.store(Open::Existing).await?;
    let found = args.jobs.find(&store, &[State::Unconfirmed]).await?;
    if found.ids.is_empty() && found.missing.is_empty() {
        context.hint("there is no unconfirmed job");
    }
    if let Some(task_id) = &args.word.adopt
        && found.ids.len() > 1
    {
        return Err(Failure::usage(format_args!(
            "--adopt takes exactly one job, but {} match: name the one that task {task_id} belongs to",
            found.ids.len()
        )));
    }
    let now = context.clock.now();
    let event = match &args.word.adopt {
        Some(task_id) => Event::Adopted {
            task_id: task_id.clone(),
        },
        None if args.word.resubmit => Event::Resubmitted,
        None => Event::WrittenOff,
    };
    let outcome = select::edit(&store, found, |job| {
        step::step(job, event.clone(), now, &policy)
    })
    .await?;
    let done = match &args.word.adopt {
        Some(task_id) => format!("watches task {task_id}"),
        None if args.word.resubmit => "is pending: it is sent again".to_owned(),
        None => "is written off; `reelq retry` would be a new submission".to_owned(),
    };
    let status = outcome.print(
        context,
        |changed| format!("job {} {done}", changed.after.id),
        |count| format!("{count} jobs: each {done}"),
    )?;
    if !outcome.changed.is_empty() && context.out.is_terminal() && !args.word.write_off {
        context.hint_at_daemon(&store);
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_is_a_word() {
        assert_eq!(task_id(" task_1 "), Ok("task_1".to_owned()));
        for bad in ["", "  ", ".", "..", "a b", "a\nb"] {
            assert!(task_id(bad).is_err(), "{bad:?}");
        }
    }
}
