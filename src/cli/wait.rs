//! `reelq wait`: until all jobs of a batch are settled.

use std::time::Duration;

use serde_json::json;

use super::failure::{ExitStatus, Failure};
use super::format::{self, counted};
use super::pause::PAUSED;
use super::progress::Progress;
use super::status::Held;
use super::{Context, select};
use crate::job::{Millis, State};
use crate::lock;
use crate::store::{Counts, Open, Store};
use crate::view;

const AFTER_HELP: &str = "\
    A job is settled when it is done, failed, cancelled, or waits for a person's \
    decision (unconfirmed). The exit status is 0 if all are done, 3 if some are not, 124 after --timeout. \
    On a terminal there is a progress bar; elsewhere a line at each change, at most one a second; \
    with --json the counts at the end. Without --batch every job of the queue counts, including those \
    of earlier days.\n\
    \n\
    Examples:\n\
    \x20 reelq wait --batch spring\n\
    \x20 reelq wait --batch spring --timeout 2h || reelq list --batch spring --state failed\n\
    \x20 reelq add shots.csv --batch spring && reelq wait --batch spring --json";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// A count that takes long is made less often: it may take this part of the time.
const SHARE: u32 = 10;

/// What to wait for.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Only the jobs of this batch
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
    /// Give up after this long, such as 90s or 2h; a bare number counts seconds
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    timeout: Option<Duration>,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => format::parse_span(text),
    }
}

/// Runs `reelq wait`.
///
/// # Errors
/// There is no such batch, or the store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let store = context.store(Open::Existing).await?;
    if let Some(batch) = &args.batch {
        select::known_batch(&store, batch).await?;
    }
    let mut progress = Progress::new(context);
    let ended = watch(&store, &args, context, &mut progress).await;
    progress.finish();
    let (counts, timed_out) = ended?;
    let cost = store.cost_of(args.batch.as_deref()).await?;
    let left = counts.total() - counts.settled();
    if context.json() {
        context.out.json(&json!({
            "batch": args.batch,
            "jobs": view::counts(&counts),
            "settled": left == 0,
            "timed_out": timed_out,
            "cost": view::money(cost),
        }))?;
        context.out.flush()?;
    } else if context.out.is_terminal() {
        context.out.line(format_args!(
            "{} done of {}",
            counts.of(State::Done),
            counted(counts.total(), "job")
        ))?;
        context.out.flush()?;
    }
    if timed_out {
        return Err(Failure::new(
            ExitStatus::TimedOut,
            format_args!(
                "timed out after {}: {} {} not settled",
                humantime::format_duration(args.timeout.unwrap_or_default()),
                counted(left, "job"),
                if left == 1 { "is" } else { "are" }
            ),
        ));
    }
    Ok(verdict(&counts, args.batch.as_deref(), context))
}

/// The exit status of jobs that are all settled, and what to do about the rest.
pub fn verdict(counts: &Counts, batch: Option<&str>, context: &Context) -> ExitStatus {
    let of_batch = batch.map_or_else(String::new, |batch| {
        format!(" --batch {}", format::shell_word(batch))
    });
    let mut status = ExitStatus::Done;
    for (state, advice) in [
        (State::Unconfirmed, "may have been charged"),
        (State::Failed, "no video"),
        (State::Cancelled, "withdrawn"),
    ] {
        let count = counts.of(state);
        if count > 0 {
            status = ExitStatus::Unsettled;
            context.hint(format_args!(
                "{} {state} ({advice}): see `reelq list --state {state}{of_batch}`",
                counted(count, "job"),
            ));
        }
    }
    status
}

/// Looks until all are settled, or the time is up.
async fn watch(
    store: &Store,
    args: &Args,
    context: &Context,
    progress: &mut Progress<'_>,
) -> Result<(Counts, bool), Failure> {
    let batch = args.batch.as_deref();
    let start = context.clock.steady();
    let end = args
        .timeout
        .map(|timeout| start.saturating_add(format::millis(timeout)));
    let mut version = None;
    let mut counts = Counts::default();
    let mut next_count = start;
    let mut told = false;
    loop {
        let now = context.clock.steady();
        let seen = store.data_version().await?;
        if version != Some(seen) && now >= next_count {
            version = Some(seen);
            counts = store.counts(batch).await?;
            let cost = store.cost_of(batch).await?;
            let held = why_held(store).await?;
            progress.show(&counts, cost, held.as_deref())?;
            let took = context.clock.steady() - now;
            next_count = now + took * Millis::from(SHARE);
            if counts.settled() == counts.total() {
                return Ok((counts, false));
            }
            if !told && matches!(lock::holder(store.path()), Ok(None)) {
                told = true;
                progress.aside(|| {
                    context.warn("no daemon works on this queue: `reelq run` starts one");
                });
            }
        }
        let pause = match end {
            Some(end) if now >= end => return Ok((counts, true)),
            Some(end) => PAUSE.min(Duration::from_millis((end - now).unsigned_abs())),
            None => PAUSE,
        };
        tokio::time::sleep(pause).await;
    }
}

async fn why_held(store: &Store) -> Result<Option<String>, Failure> {
    if let Some((reason, _)) = store.fact(PAUSED).await? {
        return Ok(Some(format!("submitting is paused: {reason}")));
    }
    let gates = store.gates().await?;
    Ok(gates.into_iter().next().map(|row| Held::from(row).words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_counts_seconds() {
        for (text, seconds) in [
            ("90", Some(90)),
            ("2m", Some(120)),
            ("-1", None),
            ("", None),
        ] {
            let parsed = parse_timeout(text).ok();
            assert_eq!(parsed, seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
