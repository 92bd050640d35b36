//! The log: to standard error, in the form that suits what is behind it.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tracing_subscriber::filter::{Directive, EnvFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::failure::{ExitStatus, Failure};
use super::format;
use crate::clock::Clock;
use crate::config::{LOG_VARIABLE, LogFormat};

/// The variable by which systemd says that a stream goes to the journal.
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// Libraries that flood the log or repeat what reelq says itself. They speak
/// only when they are asked for by name.
const QUIET: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "sqlx",
    "tower",
    "mio",
];

/// How much is logged when `REELQ_LOG` says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The command works on its own for long: its log is its voice.
    pub is_daemon: bool,
    /// `-v`, as often as given.
    pub verbose: u8,
    /// `-q`, as often as given.
    pub quiet: u8,
}

impl Level {
    fn as_str(self) -> &'static str {
        // Where "info" is for a daemon; other commands say what they do themselves.
        let usual = if self.is_daemon { 2 } else { 1 };
        let step = usual + i32::from(self.verbose) - i32::from(self.quiet);
        match step {
            ..=0 => "error",
            1 => "warn",
            2 => "info",
            3 => "debug",
            _ => "trace",
        }
    }
}

/// Starts the log of this process.
///
/// # Errors
/// `REELQ_LOG` cannot be read, or the journal is asked for and not there.
pub fn init(format: LogFormat, level: Level) -> Result<(), Failure> {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let filter = filter(&wanted, level)?;
    let layer = layer(format)?;
    // Fails only where a log was started before, which then stays.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    Ok(())
}

fn filter(wanted: &str, level: Level) -> Result<EnvFilter, Failure> {
    let bad = |error: &dyn fmt::Display| {
        Failure::new(
            ExitStatus::BadConfig,
            format_args!(
                "{LOG_VARIABLE}: found {wanted:?}, allowed are \"info\", \"reelq=debug\" and the like: {error}"
            ),
        )
    };
    if wanted.trim().is_empty() {
        return EnvFilter::try_new(format!("reelq={}", level.as_str())).map_err(|e| bad(&e));
    }
    let mut filter = EnvFilter::try_new(wanted).map_err(|e| bad(&e))?;
    for library in QUIET.iter().filter(|name| !wanted.contains(**name)) {
        let quiet: Directive = format!("{library}=off").parse().map_err(|e| bad(&e))?;
        filter = filter.add_directive(quiet);
    }
    Ok(filter)
}

fn layer(format: LogFormat) -> Result<Box<dyn Layer<Registry> + Send + Sync>, Failure> {
    let lines = |ansi: bool| -> Box<dyn Layer<Registry> + Send + Sync> {
        let layer = tracing_subscriber::fmt::layer()
            .compact()
            .with_target(false)
            .with_ansi(ansi)
            .with_writer(io::stderr);
        if ansi {
            Box::new(layer.with_timer(TimeOfDay))
        } else {
            Box::new(layer)
        }
    };
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let on_terminal = io::stderr().is_terminal();
    let journal = || tracing_journald::layer().map(|layer| layer.with_field_prefix(None));
    Ok(match format {
        LogFormat::Json => Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(io::stderr),
        ),
        LogFormat::Journald => journal().map(Layer::boxed).map_err(|error| {
            Failure::new(
                ExitStatus::BadConfig,
                format_args!(
                    "log.format: \"journald\" is set, but the journal is not there: {error}"
                ),
            )
        })?,
        LogFormat::Auto if is_journal(std::env::var(JOURNAL_VARIABLE).ok().as_deref()) => {
            // Without its socket the journal still takes lines.
            journal().map_or_else(|_| lines(false), Layer::boxed)
        }
        LogFormat::Auto | LogFormat::Pretty => lines(on_terminal && colours),
    })
}

/// Whether standard error is the stream that `$JOURNAL_STREAM` names by its
/// device and inode; a child that was given another one inherits the variable.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    rustix::fs::fstat(io::stderr().as_fd())
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// The time of day, for a person at a terminal.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let time = format::time(Clock::system().now());
        writer.write_str(time.split(' ').next_back().unwrap_or(&time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: Level = Level {
        is_daemon: true,
        verbose: 0,
        quiet: 0,
    };

    #[test]
    fn flags_raise_and_lower_the_level() {
        for (is_daemon, verbose, quiet, level) in [
            (true, 0, 0, "info"),
            (true, 1, 0, "debug"),
            (true, 9, 0, "trace"),
            (true, 0, 1, "warn"),
            (true, 0, 9, "error"),
            (false, 0, 0, "warn"),
            (false, 1, 0, "info"),
            (false, 0, 1, "error"),
        ] {
            let given = Level {
                is_daemon,
                verbose,
                quiet,
            };
            assert_eq!(given.as_str(), level);
        }
    }

    #[test]
    fn libraries_speak_only_when_named() {
        let shown = |wanted| filter(wanted, DAEMON).unwrap().to_string();
        assert_eq!(shown(""), "reelq=info");
        assert!(shown("debug").contains("hyper=off"));
        let named = shown("info,hyper=debug");
        assert!(named.contains("hyper=debug") && !named.contains("hyper=off"));
        let failure = filter("reelq=loud", DAEMON).unwrap_err();
        assert_eq!(failure.status, ExitStatus::BadConfig);
        assert!(failure.message.starts_with("REELQ_LOG: found"));
    }

    #[test]
    fn only_the_named_stream_is_the_journal() {
        let stat = rustix::fs::fstat(io::stderr().as_fd()).unwrap();
        let own = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(&own)));
        for other in [None, Some(""), Some("8:1:2"), Some("0:0")] {
            assert!(!is_journal(other));
        }
    }
}
