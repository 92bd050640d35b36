//! The command line: one file a command, and what they share.

pub mod failure;
pub mod files;
pub mod format;
pub mod images;
pub mod logging;
pub mod output;
pub mod progress;
pub mod select;

pub mod add;
pub mod backup;
pub mod cancel;
pub mod check;
pub mod completions;
pub mod demo;
pub mod ledger;
pub mod list;
pub mod man;
pub mod pause;
pub mod prune;
pub mod resolve;
pub mod resume;
pub mod retry;
pub mod run;
pub mod sandbox;
pub mod show;
pub mod status;
pub mod wait;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use clap::{ArgAction, Parser, Subcommand};

pub use failure::{ExitStatus, Failure};
pub use output::Out;

use crate::clock::Clock;
use crate::config::{self, LogFormat, Settings, Sources};
use crate::store::{Open, Store};

const AFTER_HELP: &str = "\
    Start here:\n\
    \x20 reelq demo       the whole thing, with no account and at no cost\n\
    \x20 reelq add --prompt 'The gulls take off' --image-url https://example.com/1.jpg\n\
    \x20 reelq run        the daemon: submits, watches and saves\n\
    \n\
    Exit status: 0 done; 1 failed; 2 usage; 3 ended, but some jobs are failed, cancelled or \
    unconfirmed; 65 bad input data; 69 a service is unavailable; 75 another daemon holds this \
    queue; 78 bad configuration, or no usable queue where `database` says; 124 `wait` timed out.\n\
    \n\
    Settings come from --config FILE, else $REELQ_CONFIG, ./config.toml, /etc/reelq/config.toml; \
    each also has a variable, such as REELQ_PROVIDER__BASE_URL or REELQ_DATABASE.";

/// A persistent queue for paid image-to-video jobs: never pays twice, never loses a video.
#[derive(Debug, Parser)]
#[command(name = "reelq", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration file [default: $REELQ_CONFIG, ./config.toml, /etc/reelq/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The queue, an SQLite file [default: the setting `database`]
    #[arg(long, global = true, value_name = "FILE")]
    pub database: Option<PathBuf>,
    /// Print data as JSON; messages still go to standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say less: no hints, no progress; twice for no warnings
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try the whole thing with no account and at no cost
    Demo(demo::Args),
    /// Run the daemon: submit, watch and save until stopped
    Run(run::Args),
    #[allow(missing_docs)] // its help is told by its arguments
    Sandbox(sandbox::Args),
    /// Put jobs into the queue, from files or from the command line
    Add(Box<add::Args>),
    /// Show how the queue stands: jobs, what holds it back, what was spent
    Status(status::Args),
    /// List jobs
    List(list::Args),
    /// Show all about one job: what was asked, the ledger, the history
    Show(show::Args),
    /// Wait until all jobs of a batch, or of the queue, are settled
    Wait(wait::Args),
    /// Give failed or cancelled jobs another try
    Retry(retry::Args),
    /// Withdraw jobs
    Cancel(cancel::Args),
    /// Settle unconfirmed jobs, which may have been charged
    Resolve(resolve::Args),
    /// Stop submitting; running tasks are still watched and saved
    Pause(pause::Args),
    /// Submit again after `pause`
    Resume(resume::Args),
    /// Show what was paid for
    Ledger(ledger::Args),
    /// Forget jobs that ended long ago; never a file
    Prune(prune::Args),
    /// Copy the queue while it runs
    Backup(backup::Args),
    /// Check configuration, database, disk, key and provider
    Check(check::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

impl Command {
    /// It works on its own for long.
    fn is_daemon(&self) -> bool {
        matches!(self, Command::Run(_) | Command::Sandbox(_))
    }

    /// The settings must be right before it begins.
    fn needs_settings(&self) -> bool {
        !matches!(
            self,
            // `check` tells of wrong settings in its own way; the others use none.
            Command::Demo(_)
                | Command::Sandbox(_)
                | Command::Check(_)
                | Command::Completions(_)
                | Command::Man(_)
        )
    }

    async fn run(self, context: &Context) -> Result<ExitStatus, Failure> {
        match self {
            Command::Demo(args) => demo::run(args, context).await,
            Command::Run(args) => run::run(args, context).await,
            Command::Sandbox(args) => sandbox::run(args, context.json()).await,
            Command::Add(args) => add::run(*args, context).await,
            Command::Status(args) => status::run(args, context).await,
            Command::List(args) => list::run(args, context).await,
            Command::Show(args) => show::run(args, context).await,
            Command::Wait(args) => wait::run(args, context).await,
            Command::Retry(args) => retry::run(args, context).await,
            Command::Cancel(args) => cancel::run(args, context).await,
            Command::Resolve(args) => resolve::run(args, context).await,
            Command::Pause(args) => pause::run(args, context).await,
            Command::Resume(args) => resume::run(args, context).await,
            Command::Ledger(args) => ledger::run(args, context).await,
            Command::Prune(args) => prune::run(args, context).await,
            Command::Backup(args) => backup::run(args, context).await,
            Command::Check(args) => check::run(args, context).await,
            Command::Completions(args) => completions::run(args, context).await,
            Command::Man(args) => man::run(args, context).await,
        }
    }
}

/// What every command has at hand.
#[derive(Debug)]
pub struct Context {
    /// The flags that hold for every command.
    pub global: Global,
    /// The time.
    pub clock: Arc<Clock>,
    /// Standard output.
    pub out: Arc<Out>,
    settings: OnceLock<Settings>,
    /// Standard error is a log in JSON: nothing else may stand there.
    logs_json: OnceLock<()>,
}

impl Context {
    /// A context with these flags and nothing read yet.
    pub fn new(global: Global) -> Context {
        Context {
            global,
            clock: Arc::new(Clock::system()),
            out: Arc::new(Out::new()),
            settings: OnceLock::new(),
            logs_json: OnceLock::new(),
        }
    }

    /// The settings, read once.
    ///
    /// # Errors
    /// Every fault in them; status 78.
    pub fn settings(&self) -> Result<&Settings, Failure> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let sources =
            Sources::of_process(self.global.config.clone(), self.global.database.clone())?;
        let settings = config::load(sources)?;
        Ok(self.settings.get_or_init(|| settings))
    }

    /// Opens the queue of the settings.
    ///
    /// # Errors
    /// The store's.
    pub async fn store(&self, open: Open) -> Result<Store, Failure> {
        Ok(Store::open(&self.settings()?.database, open).await?)
    }

    /// Data is printed as JSON.
    pub fn json(&self) -> bool {
        self.global.json
    }

    /// Says something useful that is no part of the data.
    pub fn hint(&self, text: impl std::fmt::Display) {
        if self.global.quiet > 0 {
            return;
        }
        match self.logs_json.get() {
            Some(()) => tracing::info!("{text}"),
            None => output::complain(text),
        }
    }

    /// Says what is not as it should be.
    pub fn warn(&self, text: impl std::fmt::Display) {
        if self.global.quiet > 1 {
            return;
        }
        match self.logs_json.get() {
            Some(()) => tracing::warn!("{text}"),
            None => output::complain(format_args!("warning: {text}")),
        }
    }

    /// Says why the command failed.
    fn fail(&self, failure: &Failure) {
        // A filter that leaves errors out must not hide why the process ended.
        if self.logs_json.get().is_some() && tracing::enabled!(tracing::Level::ERROR) {
            for line in failure.message.lines() {
                tracing::error!("{line}");
            }
        } else {
            output::complain(&failure.message);
        }
    }

    /// Says that nothing will happen for now, where jobs wait and no daemon runs.
    pub fn hint_at_daemon(&self, store: &Store) {
        if matches!(crate::lock::holder(store.path()), Ok(None)) {
            self.hint("no daemon works on this queue: `reelq run` starts one");
        }
    }
}

/// The program: reads the arguments, runs the command, tells how it ended.
pub fn main() -> ExitStatus {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and standard output may be closed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitStatus::Usage
            } else {
                ExitStatus::Done
            };
        }
    };
    let context = Context::new(cli.global);
    let ended = start(cli.command, &context);
    let flushed = context.out.flush();
    match ended.and_then(|status| flushed.map(|()| status)) {
        Ok(status) => status,
        Err(failure) => {
            context.fail(&failure);
            failure.status
        }
    }
}

fn start(command: Command, context: &Context) -> Result<ExitStatus, Failure> {
    let format = if command.needs_settings() {
        context.settings()?.log.format
    } else {
        LogFormat::Auto
    };
    logging::init(
        format,
        logging::Level {
            is_daemon: command.is_daemon(),
            verbose: context.global.verbose,
            quiet: context.global.quiet,
        },
    )?;
    if command.is_daemon() && format == LogFormat::Json {
        let _ = context.logs_json.set(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format_args!("no threads to run on: {error}")))?;
    let ended = runtime.block_on(command.run(context));
    // A read of standard input or a look-up of a name may hang: nobody waits for it.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command().get_subcommands() {
            let examples = command
                .get_after_help()
                .or_else(|| command.get_after_long_help())
                .map(ToString::to_string)
                .unwrap_or_default();
            let calls = examples
                .lines()
                .filter(|line| line.contains("reelq "))
                .count();
            assert!(calls >= 2, "{} has {calls} examples", command.get_name());
        }
    }
}
