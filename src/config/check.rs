//! Raw settings → checked ones, section by section.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::address::{as_folder, listen};
use super::raw::Raw;
use super::settings::{
    Budget, Download, Http, Listen, Log, LogFormat, OnUnconfirmed, Poll, Provider, Settings,
    Submit, Webhook,
};
use super::{
    API_KEY_VARIABLE, CREDENTIALS_VARIABLE, ConfigError, DAY, HOUR, MINUTE, SECOND, SecretSource,
    Sources,
};
use crate::job::Size;
use crate::money::Money;

/// Raw settings to checked ones; every fault is told.
pub(super) fn check(
    mut raw: Raw,
    sources: &Sources,
    file: Option<PathBuf>,
) -> Result<Settings, ConfigError> {
    let folder = sources.folder.as_path();
    let database = database(&mut raw, sources);
    let base_url = raw.url("provider.base_url", false);
    let key = api_key_source(&mut raw, sources);
    let model = raw.line("provider.model");
    let submit = submit(&mut raw);
    let poll = poll(&mut raw);
    let download = download(&mut raw, folder);
    let budget = budget(&mut raw);
    let webhook = webhook(&mut raw, folder);
    let http = http(&mut raw, folder);
    let log = log(&mut raw);
    match (base_url, download) {
        (Some(base_url), Some(download)) if raw.faults.is_empty() => Ok(Settings {
            file,
            database,
            provider: Provider {
                base_url: as_folder(base_url),
                key,
                model,
            },
            submit,
            poll,
            download,
            budget,
            webhook,
            http,
            log,
        }),
        _ => Err(ConfigError(raw.faults)),
    }
}

fn database(raw: &mut Raw, sources: &Sources) -> PathBuf {
    match &sources.database {
        Some(path) if path.as_os_str().is_empty() => {
            raw.faults
                .push("--database: found \"\", allowed is a path".to_owned());
            PathBuf::new()
        }
        Some(path) => sources.folder.join(path).components().collect(),
        None => raw.path("database", &sources.folder),
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

pub(super) fn price_key(size: Size) -> String {
    format!("budget.price_per_second.{size}")
}

fn submit(raw: &mut Raw) -> Submit {
    Submit {
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
    }
}

fn poll(raw: &mut Raw) -> Poll {
    let interval = raw.duration("poll.interval", 3 * SECOND..=10 * SECOND);
    Poll {
        interval,
        slow_after: raw.duration("poll.slow_after", Duration::ZERO..=30 * DAY),
        slow_interval: raw.duration("poll.slow_interval", interval..=HOUR),
        deadline: raw.duration("poll.deadline", interval..=30 * DAY),
        request_timeout: raw.duration("poll.request_timeout", SECOND..=10 * MINUTE),
    }
}

/// `None` where the name is faulty.
fn download(raw: &mut Raw, folder: &Path) -> Option<Download> {
    let dir = raw.path("download.dir", folder);
    let name = raw.template("download.name");
    let sidecar = raw.truth("download.sidecar");
    let concurrency = raw.whole("download.concurrency", 1..=64);
    let idle_timeout = raw.duration("download.idle_timeout", SECOND..=HOUR);
    let max_bytes = raw.bytes("download.max_bytes", 1);
    let min_free_space = raw.bytes("download.min_free_space", 0);
    Some(Download {
        dir,
        name: name?,
        sidecar,
        concurrency,
        idle_timeout,
        max_bytes,
        min_free_space,
    })
}

fn budget(raw: &mut Raw) -> Budget {
    Budget {
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
    }
}

fn webhook(raw: &mut Raw, folder: &Path) -> Webhook {
    Webhook {
        url: if raw.is_empty("webhook.url") {
            None
        } else {
            raw.url("webhook.url", true)
        },
        secret: raw.secret_file("webhook.secret_file", folder),
    }
}

fn http(raw: &mut Raw, folder: &Path) -> Http {
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
    http
}

fn log(raw: &mut Raw) -> Log {
    Log {
        format: raw.choice(
            "log.format",
            &[
                ("auto", LogFormat::Auto),
                ("pretty", LogFormat::Pretty),
                ("journald", LogFormat::Journald),
                ("json", LogFormat::Json),
            ],
        ),
    }
}
