//! `reelq pause`: no submission until `reelq resume`.

use serde_json::json;

use super::failure::{ExitStatus, Failure};
use super::{Context, format};
use crate::store::Open;

const AFTER_HELP: &str = "\
    Running tasks are still watched and their videos saved. It holds for every daemon on this \
    queue, and after restarts, until `reelq resume`.\n\
    \n\
    Examples:\n\
    \x20 reelq pause\n\
    \x20 reelq pause 'prices go down on Monday'";

/// The name of the fact in the database.
pub const PAUSED: &str = "paused";

/// Why to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Why, for `reelq status`
    #[arg(value_name = "REASON", default_value = "by hand")]
    reason: String,
}

/// Runs `reelq pause`.
///
/// # Errors
/// The store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    // A queue that is not there is not made: its name may be misspelt, and the
    // one that is meant would go on.
    let store = context.store(Open::Existing).await?;
    let now = context.clock.now();
    let before = store.fact(PAUSED).await?;
    store.set_fact(PAUSED, Some(&args.reason), now).await?;
    let reason = format::one_line(&args.reason, 200);
    if context.json() {
        context.out.json(&json!({
            "paused": true,
            "reason": args.reason,
            "was_paused": before.is_some(),
        }))?;
    } else if let Some((_, since)) = before {
        context.out.line(format_args!(
            "it was paused before ({}); the reason is now: {reason}",
            format::ago(since, now)
        ))?;
    } else {
        context.out.line(format_args!(
            "paused ({reason}): nothing is submitted until `reelq resume`; what runs goes on"
        ))?;
    }
    Ok(ExitStatus::Done)
}
