//! `reelq completions`: what a shell has to know.

use clap::CommandFactory;
use clap_complete::Shell;

use super::failure::{ExitStatus, Failure};
use super::{Cli, Context};

const AFTER_HELP: &str = "\
    Examples:\n\
    \x20 reelq completions bash > ~/.local/share/bash-completion/completions/reelq\n\
    \x20 reelq completions zsh > ~/.zfunc/_reelq\n\
    \x20 reelq completions fish > ~/.config/fish/completions/reelq.fish";

/// Which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs `reelq completions`.
///
/// # Errors
/// Standard output's.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reelq", &mut script);
    context.out.bytes(&script)?;
    Ok(ExitStatus::Done)
}
