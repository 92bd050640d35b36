//! `reelq run`: the daemon.

use std::sync::Arc;

use super::{Context, ExitStatus, Failure};
use crate::daemon::Ending;
use crate::job::State;
use crate::store::{Open, Store};
use crate::{lock, service};

const AFTER_HELP: &str = "\
Examples:
  reelq run                                     until SIGTERM or Ctrl-C
  reelq run --until-idle && ls videos           ends when no job is left that could move
  reelq --config /etc/reelq/config.toml run     as the systemd unit starts it

A stop lets the requests on the wire be answered (at most submit.request_timeout); a second signal
does not wait, and leaves those jobs unconfirmed. Partial downloads are kept and gone on with.";

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// End when no job is left that could move by itself; status 3 if some are failed, cancelled or
    /// unconfirmed
    #[arg(long)]
    pub until_idle: bool,
}

/// Runs the daemon.
///
/// # Errors
/// Wrong settings, another daemon on this queue, or what a restart has to mend.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let settings = context.settings()?;
    let store = Arc::new(context.store(Open::Create).await?);
    // Before the table is taken up: what is submitting there may be a running daemon's.
    let _lock = lock::acquire(&settings.database)?;
    let service = service::assemble(settings, Arc::clone(&store), args.until_idle).await?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        database = %settings.database.display(),
        provider = %settings.provider.base_url,
        videos = %settings.download.dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    match service.daemon.run().await? {
        Ending::Stopped => Ok(ExitStatus::Done),
        Ending::Idle => idle(context, &store).await,
    }
}

/// The status of an idle queue, with a word on what did not end well.
async fn idle(context: &Context, store: &Store) -> Result<ExitStatus, Failure> {
    let counts = store.counts(None).await?;
    let mut unwell = Vec::new();
    for state in [State::Failed, State::Cancelled, State::Unconfirmed] {
        if counts.of(state) > 0 {
            unwell.push(format!("{} {state}", counts.of(state)));
        }
    }
    let held = counts.of(State::Pending);
    if held > 0 {
        unwell.push(format!("{held} held back (see `reelq status`)"));
    }
    if unwell.is_empty() {
        return Ok(ExitStatus::Done);
    }
    context.hint(format_args!("idle; {}", unwell.join(", ")));
    Ok(ExitStatus::Unsettled)
}
