//! `reelq resume`: ends a pause.

use serde_json::json;

use super::failure::{ExitStatus, Failure};
use super::pause::PAUSED;
use super::{Context, format};
use crate::store::Open;

const AFTER_HELP: &str = "\
    A gate that the daemon closed by itself (an outage, a refused key, a cap) is not a pause: it \
    opens by itself. `reelq status` tells them apart.\n\
    \n\
    Examples:\n\
    \x20 reelq resume\n\
    \x20 reelq resume --database /var/lib/reelq/reelq.db";

/// Takes no arguments of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {}

/// Runs `reelq resume`.
///
/// # Errors
/// The store's.
pub async fn run(_: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let store = context.store(Open::Existing).await?;
    let now = context.clock.now();
    let before = store.fact(PAUSED).await?;
    store.set_fact(PAUSED, None, now).await?;
    if context.json() {
        context.out.json(&json!({
            "paused": false,
            "was_paused": before.is_some(),
        }))?;
    } else if let Some((reason, since)) = before {
        context.out.line(format_args!(
            "submitting goes on; it was paused {} ({})",
            format::ago(since, now),
            format::one_line(&reason, 200)
        ))?;
    } else {
        context.out.line("it was not paused")?;
    }
    if context.out.is_terminal() {
        context.hint_at_daemon(&store);
    }
    Ok(ExitStatus::Done)
}
