//! `reelq prune`: forgets jobs that ended long ago.

use std::time::Duration;

use serde_json::json;

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::format::{self, counted};
use crate::places;
use crate::store::Open;

const AFTER_HELP: &str = "\
    Done, failed and cancelled jobs go, with their ledger and history; files never do. Their keys \
    are free again: a file that is added once more would be submitted, and paid for, once more.\n\
    \n\
    Examples:\n\
    \x20 reelq prune --older-than 30d\n\
    \x20 reelq backup before-prune.db && reelq prune --older-than 1y";

/// The daily caps count today's ledger.
const SHORTEST: Duration = Duration::from_secs(86_400);

/// What to forget.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Jobs that ended at least this long ago; 1d or more
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Duration,
}

fn age(text: &str) -> Result<Duration, String> {
    let age = format::parse_span(text)?;
    if age < SHORTEST {
        return Err("at least 1d: the daily caps count what was submitted today".to_owned());
    }
    Ok(age)
}

/// Runs `reelq prune`.
///
/// # Errors
/// The store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let timezone = &context.settings()?.budget.timezone;
    let store = context.store(Open::Existing).await?;
    let now = context.clock.now();
    // A day may have 25 hours.
    let before = now
        .saturating_sub(format::millis(args.older_than))
        .min(places::day_start(now, timezone));
    let pruned = store.prune(before, now).await?;
    if context.json() {
        context
            .out
            .json(&json!({ "jobs": pruned.jobs, "before": before }))?;
    } else {
        context.out.line(format_args!(
            "forgot {} that ended before {}",
            counted(pruned.jobs, "job"),
            format::time(before)
        ))?;
    }
    Ok(ExitStatus::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn today_is_never_forgotten() {
        assert_eq!(age("1d"), Ok(SHORTEST));
        assert!(age("23h").is_err());
        assert!(age("0s").is_err());
    }
}
