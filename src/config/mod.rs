//! Configuration: raw settings in, checked settings out.
//!
//! Four layers, the later over the earlier: the defaults (they are read from
//! `config.toml.example`, which so cannot lie), a TOML file, the environment,
//! the command line. [`load`] either returns settings that can be used as they
//! are, or every fault that it found, each with its place and what is allowed.

#![allow(clippy::disallowed_methods)] // this room reads the configuration and the secrets

mod raw;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::SecretString;
use url::{Host, Url};

use crate::job::Size;
use crate::money::Money;
use crate::naming::Template;
use raw::Raw;
pub use secret::{ApiKey, MAX_SECRET, SecretSource};

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

/// Where a configuration file is looked for when none is named.
const USUAL_FILES: [&str; 2] = ["config.toml", "/etc/reelq/config.toml"];

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 65_536;

/// The longest path that a Unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

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

/// Checked settings. Every path is absolute, every value within its limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    /// The SQLite file.
    pub database: PathBuf,
    /// The paid API.
    pub provider: Provider,
    /// How jobs are submitted.
    pub submit: Submit,
    /// How tasks are watched.
    pub poll: Poll,
    /// How videos are saved.
    pub download: Download,
    /// What may be spent.
    pub budget: Budget,
    /// Who is told.
    pub webhook: Webhook,
    /// The HTTP interface.
    pub http: Http,
    /// The log.
    pub log: Log,
}

/// The paid API.
#[derive(Clone, Debug)]
pub struct Provider {
    /// http or https, without user name, query and fragment. Its path ends in
    /// `/`, so that `join("v1/videos")` keeps a prefix.
    pub base_url: Url,
    /// Where the key is; [`Settings::api_key`] reads it.
    pub key: SecretSource,
    /// The model of every job; 1 to 200 bytes.
    pub model: String,
}

/// How jobs are submitted.
#[derive(Clone, Debug)]
pub struct Submit {
    /// Tasks at the provider at once, 1 to 100000.
    pub max_in_flight: u32,
    /// POSTs a minute, 1 to 60000.
    pub rate_per_minute: u32,
    /// For a POST's whole answer, 1 second to 1 hour.
    pub request_timeout: Duration,
    /// What happens to a job whose POST got no clear answer.
    pub on_unconfirmed: OnUnconfirmed,
}

/// What happens to a job whose POST got no clear answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnconfirmed {
    /// It waits for a person.
    #[default]
    Hold,
    /// It is sent again, and perhaps paid twice.
    Resubmit,
}

/// How tasks are watched.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Between two looks at a young task, 3 to 10 seconds.
    pub interval: Duration,
    /// The age from which a task is slow, up to 30 days.
    pub slow_after: Duration,
    /// Between two looks at a slow task, from `interval` to 1 hour.
    pub slow_interval: Duration,
    /// The age at which a task is given up, from `interval` to 30 days.
    pub deadline: Duration,
    /// For a GET's whole answer, 1 second to 10 minutes.
    pub request_timeout: Duration,
}

/// How videos are saved.
#[derive(Clone, Debug)]
pub struct Download {
    /// The folder; absolute, it may not exist yet.
    pub dir: PathBuf,
    /// The template of a video's name.
    pub name: Template,
    /// Whether a JSON file goes beside each video.
    pub sidecar: bool,
    /// Downloads at once, 1 to 64.
    pub concurrency: u32,
    /// Without a byte for so long an attempt ends; 1 second to 1 hour.
    pub idle_timeout: Duration,
    /// A longer video is refused; 1 to `i64::MAX` bytes.
    pub max_bytes: u64,
    /// What stays free on the disk; 0 to `i64::MAX` bytes.
    pub min_free_space: u64,
}

/// What may be spent.
#[derive(Clone, Debug)]
pub struct Budget {
    /// POSTs a day, at most `i64::MAX`; 0: no limit.
    pub max_jobs_per_day: u64,
    /// Money a day; [`Money::ZERO`]: no limit.
    pub max_cost_per_day: Money,
    /// Where a day begins.
    pub timezone: TimeZone,
    /// The price of a second. A size without an entry has no known price.
    pub price_per_second: BTreeMap<Size, Money>,
}

/// Who is told when a job settles or a batch is complete.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// http or https, without user name and fragment; `None`: nobody.
    pub url: Option<Url>,
    /// Where the signing secret is; [`Settings::webhook_secret`] reads it.
    pub secret: SecretSource,
}

/// The HTTP interface.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where it listens.
    pub listen: Listen,
    /// Where the clients' token is; [`Settings::http_token`] reads it. Set
    /// whenever `listen` is neither off, nor loopback, nor a socket.
    pub token: SecretSource,
}

/// Where the HTTP interface listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    #[default]
    Off,
    /// An address and port; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// A socket's absolute path, at most 107 bytes.
    Unix(PathBuf),
}

/// The log.
#[derive(Clone, Debug)]
pub struct Log {
    /// How it is written.
    pub format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Journald` under systemd.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// To the journal, with its fields.
    Journald,
    /// One JSON object a line.
    Json,
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

/// Raw settings to checked ones.
fn check(mut raw: Raw, sources: &Sources, file: Option<PathBuf>) -> Result<Settings, ConfigError> {
    let folder = sources.folder.as_path();

    let database = match &sources.database {
        Some(path) if path.as_os_str().is_empty() => {
            raw.faults
                .push("--database: found \"\", allowed is a path".to_owned());
            PathBuf::new()
        }
        Some(path) => folder.join(path).components().collect(),
        None => raw.path("database", folder),
    };

    let base_url = raw.url("provider.base_url", false);
    let key = api_key_source(&mut raw, sources);
    let model = raw.line("provider.model");

    let submit = Submit {
        max_in_flight: raw.whole("submit.max_in_flight", 1..=100_000),
        rate_per_minute: raw.whole("submit.rate_per_minute", 1..=60_000),
        request_timeout: raw.duration("submit.request_timeout", SECOND..=HOUR),
        on_unconfirmed: raw.choice(
            "submit.on_unconfirmed",
            &[
                ("hold", OnUnconfirmed::Hold),
                ("resubmit", OnUnconfirmed::Resubmit),
            ],
        ),
    };

    let interval = raw.duration("poll.interval", 3 * SECOND..=10 * SECOND);
    let poll = Poll {
        interval,
        slow_after: raw.duration("poll.slow_after", Duration::ZERO..=30 * DAY),
        slow_interval: raw.duration("poll.slow_interval", interval..=HOUR),
        deadline: raw.duration("poll.deadline", interval..=30 * DAY),
        request_timeout: raw.duration("poll.request_timeout", SECOND..=10 * MINUTE),
    };

    let dir = raw.path("download.dir", folder);
    let name = raw.template("download.name");
    let sidecar = raw.truth("download.sidecar");
    let concurrency = raw.whole("download.concurrency", 1..=64);
    let idle_timeout = raw.duration("download.idle_timeout", SECOND..=HOUR);
    let max_bytes = raw.bytes("download.max_bytes", 1);
    let min_free_space = raw.bytes("download.min_free_space", 0);

    let budget = Budget {
        max_jobs_per_day: raw.whole("budget.max_jobs_per_day", 0..=i64::MAX as u64),
        max_cost_per_day: raw.amount("budget.max_cost_per_day"),
        timezone: raw
            .text(
                "budget.timezone",
                "a time zone that this system knows, such as \"Asia/Shanghai\"",
                |name| TimeZone::get(name).ok(),
            )
            .unwrap_or(TimeZone::UTC),
        price_per_second: Size::ALL
            .into_iter()
            .map(|size| (size, raw.amount(&price_key(size))))
            .filter(|(_, price)| *price > Money::ZERO)
            .collect(),
    };

    let webhook = Webhook {
        url: if raw.is_empty("webhook.url") {
            None
        } else {
            raw.url("webhook.url", true)
        },
        secret: raw.secret_file("webhook.secret_file", folder),
    };

    let http = Http {
        listen: raw
            .text(
                "http.listen",
                "\"IP:PORT\", \"localhost:PORT\", \"unix:PATH\" with a path of at most 107 bytes, or \"\" for off",
                |text| listen(folder, text),
            )
            .unwrap_or_default(),
        token: raw.secret_file("http.token_file", folder),
    };
    if let Listen::Tcp(address) = http.listen
        && !address.ip().is_loopback()
        && !http.token.is_set()
    {
        raw.fault_at(
            "http.listen",
            format_args!(
                "found {address}, which other machines can reach: set `http.token_file`, \
                 or listen on a loopback address or a socket"
            ),
        );
    }

    let log = Log {
        format: raw.choice(
            "log.format",
            &[
                ("auto", LogFormat::Auto),
                ("pretty", LogFormat::Pretty),
                ("journald", LogFormat::Journald),
                ("json", LogFormat::Json),
            ],
        ),
    };

    match (base_url, name) {
        (Some(base_url), Some(name)) if raw.faults.is_empty() => Ok(Settings {
            file,
            database,
            provider: Provider {
                base_url: as_folder(base_url),
                key,
                model,
            },
            submit,
            poll,
            download: Download {
                dir,
                name,
                sidecar,
                concurrency,
                idle_timeout,
                max_bytes,
                min_free_space,
            },
            budget,
            webhook,
            http,
            log,
        }),
        _ => Err(ConfigError(raw.faults)),
    }
}

/// Where the API key is. The environment goes before the file, as for every
/// setting; what the service manager provides is the default.
fn api_key_source(raw: &mut Raw, sources: &Sources) -> SecretSource {
    const FILE: &str = "provider.api_key_file";
    let file = raw.secret_file(FILE, &sources.folder);
    match sources.env.get(API_KEY_VARIABLE) {
        Some(_) if file.is_set() && raw.is_from_env(FILE) => {
            // To guess here is to choose the account that pays.
            raw.fault_at(
                FILE,
                format_args!("{API_KEY_VARIABLE} is set, too; allowed is one of the two"),
            );
            file
        }
        Some(text) => SecretSource::text(API_KEY_VARIABLE, text),
        None if file.is_set() => file,
        None => match sources.env.get(CREDENTIALS_VARIABLE) {
            Some(folder) if !folder.is_empty() => {
                SecretSource::credential(Path::new(folder), "api_key")
            }
            _ => SecretSource::none(),
        },
    }
}

fn price_key(size: Size) -> String {
    format!("budget.price_per_second.{size}")
}

fn listen(folder: &Path, text: &str) -> Option<Listen> {
    if text.is_empty() {
        return Some(Listen::Off);
    }
    let Some(path) = text.strip_prefix("unix:") else {
        return tcp_address(text).map(Listen::Tcp);
    };
    let path = raw::path(folder, path)?;
    (path.as_os_str().len() <= MAX_SOCKET_PATH).then_some(Listen::Unix(path))
}

/// `IP:PORT` or `localhost:PORT`. The name is not looked up: who could say where that leads?
pub(crate) fn tcp_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(([127, 0, 0, 1], port.parse().ok()?).into()),
        None => text.parse().ok(),
    }
}

/// With exactly one `/` at the end of its path, and without the `/v1` that SDKs want there:
/// asked for below `/v1/v1`, every job would be refused.
fn as_folder(mut url: Url) -> Url {
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    let path = format!("{}/", path.trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// Whether what is sent there can be read on the way.
fn is_exposed(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// Whether a URL names this machine itself.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

impl Settings {
    /// Reads the API key; an error when there is none.
    pub fn api_key(&self) -> Result<ApiKey, ConfigError> {
        self.provider.key.read()?.map(ApiKey).ok_or_else(|| {
            ConfigError::one(
                "provider.api_key_file",
                format_args!(
                    "there is no API key: name its file here, or set {API_KEY_VARIABLE}, \
                     or provide $CREDENTIALS_DIRECTORY/api_key"
                ),
            )
        })
    }

    /// The stable label of the base URL and key that tasks are bound to.
    pub fn endpoint(&self, key: &ApiKey) -> String {
        format!("{}#{}", self.provider.base_url, key.fingerprint())
    }

    /// Reads the token of the HTTP interface; `None` when it asks for none.
    pub fn http_token(&self) -> Result<Option<SecretString>, ConfigError> {
        self.http.token.read()
    }

    /// Reads the secret that signs webhooks, in the form it is written in
    /// (`whsec_` and base64); `None` when they are not signed.
    pub fn webhook_secret(&self) -> Result<Option<SecretString>, ConfigError> {
        self.webhook.secret.read()
    }

    /// What is allowed and yet probably not meant, a sentence each. Looks at the
    /// permissions of the files that hold secrets.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |holds: bool, text: &str| {
            if holds {
                warnings.push(text.to_owned());
            }
        };
        let base_url = &self.provider.base_url;
        warn(
            is_exposed(base_url),
            "provider.base_url is plain http: the key and the prompts can be read on the way",
        );
        warn(
            self.submit.on_unconfirmed == OnUnconfirmed::Resubmit,
            "submit.on_unconfirmed is \"resubmit\": a video whose answer was lost may be paid twice",
        );
        warn(
            self.poll.deadline < DAY,
            "poll.deadline is under a day: a task that takes longer is paid for and left alone",
        );
        warn(
            self.webhook.url.as_ref().is_some_and(is_exposed),
            "webhook.url is plain http: messages can be read on the way",
        );
        warn(
            self.webhook.url.is_none() && self.webhook.secret.is_set(),
            "webhook.secret_file is set without webhook.url: nothing is sent",
        );
        warn(
            self.http.listen == Listen::Off && self.http.token.is_set(),
            "http.token_file is set without http.listen: nothing listens",
        );
        for size in Size::ALL {
            warn(
                self.budget.max_cost_per_day > Money::ZERO
                    && !self.budget.price_per_second.contains_key(&size),
                &format!(
                    "budget.max_cost_per_day is set without {}: {size} jobs are not submitted",
                    price_key(size)
                ),
            );
        }
        let secrets = [&self.provider.key, &self.webhook.secret, &self.http.token];
        warnings.extend(secrets.into_iter().filter_map(SecretSource::exposure));
        warnings
    }
}

#[cfg(test)]
mod tests;
