//! `reelq man`: the manual pages.

use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use super::failure::{ExitStatus, Failure};
use super::{Cli, Context, files};

const AFTER_HELP: &str = "\
    Examples:\n\
    \x20 reelq man | man -l -\n\
    \x20 reelq man --dir /usr/local/share/man/man1     a page for every command";

/// Where the pages go.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Write a page for every command into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `reelq man`.
///
/// # Errors
/// The folder cannot be written, or standard output.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let mut root = Cli::command();
    root.build();
    let fault = |error: io::Error| Failure::failed(format_args!("the manual page: {error}"));
    let Some(dir) = args.dir else {
        context.out.bytes(&page(&root).map_err(fault)?)?;
        return Ok(ExitStatus::Done);
    };
    let fault = |error: io::Error| Failure::file(dir.display().to_string(), &error);
    files::make_folder(&dir).map_err(fault)?;
    let mut pages = vec![("reelq.1".to_owned(), page(&root).map_err(fault)?)];
    for command in root
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let name = format!("reelq-{}", command.get_name());
        let page = page(&command.clone().display_name(&name)).map_err(fault)?;
        pages.push((format!("{name}.1"), page));
    }
    for (name, page) in &pages {
        files::write(&dir.join(name), page).map_err(fault)?;
    }
    context.out.line(format_args!(
        "wrote {} pages to {}",
        pages.len(),
        dir.display()
    ))?;
    Ok(ExitStatus::Done)
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
