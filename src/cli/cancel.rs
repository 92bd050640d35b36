//! `reelq cancel`: withdraws jobs, and says what that does not get back.

use super::failure::{ExitStatus, Failure};
use super::format::counted;
use super::select::{self, NAMED, Selection};
use super::{Context, output};
use crate::job::{Event, Job, State};
use crate::money::Money;
use crate::service;
use crate::step;
use crate::store::Open;

const AFTER_HELP: &str = "\
    The provider has no way to stop a task: one that runs is paid for. With --keep such jobs go \
    on, and their videos are still fetched. Without it they are withdrawn too; `reelq retry` \
    fetches their videos later at no cost, as long as the provider keeps them.\n\
    \n\
    With --batch alone all jobs of the batch that have not ended are meant.\n\
    \n\
    Examples:\n\
    \x20 reelq cancel 17 key:shot-1\n\
    \x20 reelq cancel --batch spring --keep\n\
    \x20 reelq cancel --batch spring --state pending";

/// Which jobs to withdraw.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    jobs: Selection,
    /// Leave jobs alone that are already paid for: their videos are still fetched
    #[arg(long)]
    keep: bool,
}

/// What has not ended. Those that cannot be withdrawn are named, not passed over.
const UNENDED: [State; 5] = [
    State::Pending,
    State::Submitting,
    State::Unconfirmed,
    State::Generating,
    State::Downloading,
];

/// Runs `reelq cancel`.
///
/// # Errors
/// The store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let policy = service::policy(context.settings()?);
    let store = context.store(Open::Existing).await?;
    let found = args.jobs.find(&store, &UNENDED).await?;
    if found.ids.is_empty() && found.missing.is_empty() {
        context.hint("there is nothing to cancel");
    }
    let now = context.clock.now();
    let outcome = select::edit(&store, found, |job| {
        let kept = args.keep && job.state.has_open_task();
        (!kept)
            .then(|| step::step(job, Event::Cancelled, now, &policy))
            .transpose()
    })
    .await?;

    let paid: Vec<&Job> = outcome
        .changed
        .iter()
        .map(|changed| &changed.before)
        .filter(|job| job.state.has_open_task())
        .collect();
    let cost: Money = paid.iter().map(|job| job.cost).sum();
    if context.json() {
        let mut value = outcome.json();
        value["kept"] = outcome.kept.into();
        value["paid_withdrawn"] = paid.len().into();
        value["paid_cost"] = crate::view::money(cost).into();
        context.out.json(&value)?;
    } else {
        let count = outcome.changed.len();
        if count > NAMED {
            context.out.line(format_args!("cancelled {count}"))?;
        } else {
            for changed in &outcome.changed {
                context
                    .out
                    .line(format_args!("job {} is cancelled", changed.after.id))?;
            }
        }
        if outcome.kept > 0 {
            context.out.line(format_args!(
                "{} kept: already paid for, so the video is still fetched",
                counted(outcome.kept, "job")
            ))?;
        }
    }
    context.out.flush()?;
    if !paid.is_empty() {
        let price = if cost > Money::ZERO {
            format!(" ({cost})")
        } else {
            String::new()
        };
        output::complain(format_args!(
            "{} withdrawn after the task was paid for{price}: that money is spent; \
             `reelq retry` fetches the videos at no cost, `cancel --keep` would have left them",
            counted(paid.len() as u64, "job"),
        ));
    }
    outcome.complain();
    Ok(outcome.status())
}
