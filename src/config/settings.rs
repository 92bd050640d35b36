//! Settings that can be used as they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::SecretString;
use url::Url;

use super::address::is_exposed;
use super::check::price_key;
use super::{API_KEY_VARIABLE, ApiKey, ConfigError, DAY, SecretSource};
use crate::job::Size;
use crate::money::Money;
use crate::naming::Template;

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
