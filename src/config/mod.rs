//! Configuration: raw settings in, checked settings out.
//!
//! Four layers, the later over the earlier: the defaults (they are read from
//! `config.toml.example`, which so cannot lie), a TOML file, the environment,
//! the command line. [`load`] either returns settings that can be used as they
//! are, or every fault that it found, each with its place and what is allowed.

#![allow(clippy::disallowed_methods)] // this room reads the configuration and the secrets

mod address;
mod check;
mod raw;
mod secret;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use address::{is_loopback, tcp_address};
use check::check;
use raw::Raw;
pub use secret::{ApiKey, MAX_SECRET, SecretSource};
pub use settings::*;

/// The documented configuration file. Its values are the defaults.
pub const EXAMPLE: &str = include_str!("../../config.toml.example");

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "REELQ_CONFIG";

/// The variable that says what is logged; not a setting.
pub const LOG_VARIABLE: &str = "REELQ_LOG";

/// The variable that holds the API key itself.
pub const API_KEY_VARIABLE: &str = "REELQ_PROVIDER__API_KEY";

/// The variable by which systemd tells where the credentials are.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Where a configuration file is looked for when none is named.
const USUAL_FILES: [&str; 2] = ["config.toml", "/etc/reelq/config.toml"];

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 65_536;

/// What the settings are made of.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`. A relative path starts at `folder`.
    pub file: Option<PathBuf>,
    /// `--database`. A relative path starts at `folder`.
    pub database: Option<PathBuf>,
    /// The environment; only `REELQ_*` and `CREDENTIALS_DIRECTORY` are looked at.
    pub env: BTreeMap<String, String>,
    /// The folder that relative paths start at; absolute.
    pub folder: PathBuf,
}

impl Sources {
    /// The flags given, beside the environment and the current folder of this process.
    pub fn of_process(
        file: Option<PathBuf>,
        database: Option<PathBuf>,
    ) -> Result<Sources, ConfigError> {
        let folder = std::env::current_dir()
            .map_err(|error| ConfigError::one("the current folder", error))?;
        let mut env = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if !name.starts_with("REELQ_") && name != CREDENTIALS_VARIABLE {
                continue;
            }
            match value.into_string() {
                Ok(value) => drop(env.insert(name, value)),
                Err(_) => faults.push(format!("{name}: is not UTF-8 text")),
            }
        }
        ConfigError::unless_empty(faults)?;
        Ok(Sources {
            file,
            database,
            env,
            folder,
        })
    }
}

/// Without the environment's values: one of them may be the key.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("database", &self.database)
            .field("env", &self.env.keys())
            .field("folder", &self.folder)
            .finish()
    }
}

/// Why the configuration cannot be used; exit status 78. One line a fault: its
/// place (file and key, variable or flag), what was found, what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// Every fault, one line each; at least one.
    pub fn faults(&self) -> &[String] {
        &self.0
    }

    fn one(place: &str, problem: impl fmt::Display) -> ConfigError {
        ConfigError(vec![format!("{place}: {problem}")])
    }

    fn unless_empty(faults: Vec<String>) -> Result<(), ConfigError> {
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(faults))
        }
    }
}

/// Reads every layer and checks the result. Secrets are not read here.
pub fn load(sources: Sources) -> Result<Settings, ConfigError> {
    let mut raw = Raw::defaults();
    let file = find_file(&sources).and_then(|found| match found {
        Some((path, text)) => raw.layer_file(&path, &text).map(|()| Some(path)),
        None => Ok(None),
    });
    raw.layer_env(&sources.env);
    match file {
        Ok(file) => check(raw, &sources, file),
        Err(fault) => {
            // Without the file nothing more can be said about the values.
            raw.faults.push(fault);
            Err(ConfigError(raw.faults))
        }
    }
}

/// The settings that nothing but `folder`, the start of relative paths, has a
/// say in: no file, no environment.
pub fn defaults(folder: &Path) -> Result<Settings, ConfigError> {
    let sources = Sources {
        folder: folder.to_owned(),
        ..Sources::default()
    };
    check(Raw::defaults(), &sources, None)
}

/// The configuration file and its text. A file that is named must be there; one
/// that cannot be read is never passed over.
fn find_file(sources: &Sources) -> Result<Option<(PathBuf, String)>, String> {
    let named = match (&sources.file, sources.env.get(CONFIG_VARIABLE)) {
        (Some(path), _) => Some(("--config", path.clone())),
        (None, Some(path)) => Some((CONFIG_VARIABLE, PathBuf::from(path))),
        (None, None) => None,
    };
    if let Some((place, path)) = named {
        if path.as_os_str().is_empty() {
            return Err(format!(
                "{place}: found \"\", allowed is the path of a file"
            ));
        }
        let path = sources.folder.join(path);
        return match read_file(&path)? {
            Some(text) => Ok(Some((path, text))),
            None => Err(format!("{place}: {} does not exist", path.display())),
        };
    }
    for usual in USUAL_FILES {
        let path = sources.folder.join(usual);
        if let Some(text) = read_file(&path)? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// The text of a file, or `None` when there is no such file.
fn read_file(path: &Path) -> Result<Option<String>, String> {
    let fault = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        Ok(length) if length as u64 > MAX_FILE => {
            return Err(fault(&format_args!("is longer than {MAX_FILE} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(&format_args!("cannot be read: {error}"))),
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        fault(&format_args!("line {line}: is not UTF-8 text"))
    })
}

#[cfg(test)]
mod tests;
