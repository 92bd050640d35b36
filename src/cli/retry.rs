//! `reelq retry`: another try for jobs that ended without a video.

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::format::counted;
use super::select::{self, Changed, Selection};
use crate::job::{Event, State};
use crate::service;
use crate::step;
use crate::store::Open;

const AFTER_HELP: &str = "\
    A job whose task was accepted and may still hold a video asks for that task again, at no cost. \
    Any other job becomes a new submission, which is paid for.\n\
    \n\
    With --batch alone the failed jobs are meant; --state cancelled means those that were \
    withdrawn.\n\
    \n\
    Examples:\n\
    \x20 reelq retry 17 key:shot-1\n\
    \x20 reelq retry --batch spring\n\
    \x20 reelq retry --batch spring --state cancelled";

/// Which jobs to try again.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    jobs: Selection,
}

/// Runs `reelq retry`.
///
/// # Errors
/// The store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let policy = service::policy(context.settings()?);
    let store = context.store(Open::Existing).await?;
    let found = args.jobs.find(&store, &[State::Failed]).await?;
    if found.ids.is_empty() && found.missing.is_empty() {
        let cancelled = store
            .counts(args.jobs.batch.as_deref())
            .await?
            .of(State::Cancelled);
        if cancelled > 0 && args.jobs.state.is_none() {
            context.hint(format_args!(
                "no failed jobs; {} cancelled, which --state cancelled retries",
                counted(cancelled, "job")
            ));
        } else {
            context.hint("there is nothing to retry");
        }
    }
    let now = context.clock.now();
    let outcome = select::edit(&store, found, |job| {
        step::step(job, Event::Retried, now, &policy)
    })
    .await?;
    let is_free = |changed: &Changed| changed.after.state == State::Generating;
    let free = outcome.changed.iter().filter(|job| is_free(job)).count();
    let status = outcome.print(
        context,
        |changed| {
            let id = changed.after.id;
            if is_free(changed) {
                format!("job {id} looks for its paid video again, at no cost")
            } else {
                format!("job {id} is pending: a new submission, which is paid for")
            }
        },
        |count| {
            format!(
                "retried {count}: {free} look for their paid video again at no cost, {} are new submissions, which are paid for",
                count - free
            )
        },
    )?;
    if !outcome.changed.is_empty() && context.out.is_terminal() {
        context.hint_at_daemon(&store);
    }
    Ok(status)
}
