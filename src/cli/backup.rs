//! `reelq backup`: a copy of the queue while it runs.

use std::io::ErrorKind;
use std::path::PathBuf;

use serde_json::json;

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::files::Staged;
use crate::store::Open;

const AFTER_HELP: &str = "\
    The copy is of one instant, complete and on disk when the command ends. It is a queue like the \
    first: never run a daemon on both, or both may pay for the same jobs. Copying the database \
    file by other means while a daemon runs gives a damaged copy.\n\
    \n\
    Examples:\n\
    \x20 reelq backup queue-2026-01-31.db\n\
    \x20 reelq backup /backup/queue.db && reelq list --database /backup/queue.db";

/// Where the copy goes.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The copy; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs `reelq backup`.
///
/// # Errors
/// The file is there, cannot be written, or the store's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let store = context.store(Open::Existing).await?;
    let shown = args.file.display();
    let fault = |error: std::io::Error| {
        if error.kind() == ErrorKind::AlreadyExists {
            Failure::failed(format_args!(
                "{shown}: the file exists already; name a new one"
            ))
        } else {
            Failure::file(shown.to_string(), &error)
        }
    };
    let staged = Staged::new(&args.file).map_err(fault)?;
    store
        .backup(&staged.path())
        .await
        .map_err(|error| Failure::failed(format_args!("{shown}: the copy failed: {error}")))?;
    let bytes = staged.finish().map_err(fault)?;
    if context.json() {
        context
            .out
            .json(&json!({ "path": shown.to_string(), "bytes": bytes }))?;
    } else {
        context.out.line(format_args!(
            "copied the queue to {shown} ({})",
            bytesize::ByteSize(bytes)
        ))?;
    }
    Ok(ExitStatus::Done)
}
