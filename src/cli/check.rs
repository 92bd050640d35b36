//! `reelq check`: whether everything is as a daemon needs it.

use std::path::Path;

use serde::Serialize;

use super::failure::{ExitStatus, Failure};
use super::format::{self, counted};
use super::{Context, files};
use crate::config::{ApiKey, SecretSource, Settings};
use crate::gate::Cause;
use crate::job::Millis;
use crate::lock;
use crate::provider::Provider;
use crate::service;
use crate::sink;
use crate::store::{Filter, Open, Store};
use crate::verdict;

const AFTER_HELP: &str = "\
    A line for each: the configuration, the key, the database, the disk, the daemon, the clock, \
    and the provider, which is asked by a request that costs nothing. The key itself is never \
    shown. Exit status: 0 if nothing is wrong, 78 for the configuration or the key, 69 for the \
    provider, else 1.\n\
    \n\
    Examples:\n\
    \x20 reelq check\n\
    \x20 reelq check --config /etc/reelq/config.toml\n\
    \x20 reelq check --json | jq '.[] | select(.verdict != \"ok\")'";

/// A log longer than this is not written back as it should be.
const LONG_WAL: u64 = 512 << 20;

/// 2025-01-01: a clock before it was never set.
const TOO_EARLY: Millis = 1_735_689_600_000;

/// How far two clocks may differ without a word.
const DRIFT: Millis = 300_000;

/// Takes no arguments of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Wrong,
}

/// One line.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    message: String,
    #[serde(skip)]
    status: ExitStatus,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        name: &'static str,
        verdict: Verdict,
        status: ExitStatus,
        message: impl std::fmt::Display,
    ) {
        self.0.push(Finding {
            name,
            verdict,
            message: message.to_string(),
            status,
        });
    }

    fn ok(&mut self, name: &'static str, message: impl std::fmt::Display) {
        self.add(name, Verdict::Ok, ExitStatus::Done, message);
    }

    fn warn(&mut self, name: &'static str, message: impl std::fmt::Display) {
        self.add(name, Verdict::Warning, ExitStatus::Done, message);
    }

    fn wrong(&mut self, name: &'static str, failure: impl Into<Failure>) {
        let failure = failure.into();
        for line in failure.message.lines() {
            self.add(name, Verdict::Wrong, failure.status, line);
        }
    }

    /// The gravest: what a person has to change before what may pass by itself.
    fn status(&self) -> ExitStatus {
        let is = |status| self.0.iter().any(|finding| finding.status == status);
        [
            ExitStatus::BadConfig,
            ExitStatus::Failed,
            ExitStatus::Unavailable,
        ]
        .into_iter()
        .find(|status| is(*status))
        .unwrap_or(ExitStatus::Done)
    }

    fn print(&self, context: &Context) -> Result<(), Failure> {
        if context.json() {
            return context.out.json(&self.0);
        }
        for finding in &self.0 {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Wrong => "WRONG",
            };
            context.out.line(format_args!(
                "{verdict:<8} {:<9} {}",
                finding.name,
                format::one_line(&finding.message, 1_000)
            ))?;
        }
        Ok(())
    }
}

/// Runs `reelq check`.
///
/// # Errors
/// Standard output's only: what is wrong is told as a line.
pub async fn run(_: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let mut findings = Findings::default();
    match context.settings() {
        Err(failure) => findings.wrong("config", failure),
        Ok(settings) => {
            check_settings(settings, &mut findings);
            let key = check_key(settings, &mut findings);
            check_secrets(settings, &mut findings);
            check_database(settings, context, &mut findings).await;
            check_disk(settings, &mut findings);
            if let Some(key) = key {
                check_provider(settings, &key, context, &mut findings).await;
            }
        }
    }
    findings.print(context)?;
    Ok(findings.status())
}

fn check_settings(settings: &Settings, findings: &mut Findings) {
    match &settings.file {
        Some(file) => findings.ok("config", file.display()),
        None => findings.ok("config", "no file: defaults and the environment"),
    }
    for warning in settings.warnings() {
        findings.warn("config", warning);
    }
}

fn check_key(settings: &Settings, findings: &mut Findings) -> Option<ApiKey> {
    match settings.api_key() {
        Ok(key) => {
            let place = settings.provider.key.place().unwrap_or("set");
            findings.ok("key", format_args!("found ({place})"));
            Some(key)
        }
        Err(error) => {
            findings.wrong("key", error);
            None
        }
    }
}

fn check_secrets(settings: &Settings, findings: &mut Findings) {
    let mut check =
        |name: &'static str, source: &SecretSource, read: Result<(), Failure>| match read {
            Err(failure) => findings.wrong(name, failure),
            Ok(()) if source.is_set() => {
                let place = source.place().unwrap_or("set");
                findings.ok(name, format_args!("found ({place})"));
            }
            Ok(()) => {}
        };
    let token = settings.http_token().map(drop).map_err(Failure::from);
    check("token", &settings.http.token, token);
    let secret = settings.webhook_secret().map(drop).map_err(Failure::from);
    check("webhook", &settings.webhook.secret, secret);
}

async fn check_database(settings: &Settings, context: &Context, findings: &mut Findings) {
    let path = &settings.database;
    if !path.exists() {
        let folder = path.parent().unwrap_or(Path::new("/"));
        match files::try_writing(folder) {
            Ok(()) => findings.ok(
                "database",
                format_args!("{}: does not exist yet; `reelq add` or `run` creates it", path.display()),
            ),
            Err(error) => findings.wrong(
                "database",
                Failure::new(
                    ExitStatus::BadConfig,
                    format_args!(
                        "{}: cannot be created: {error}; check the folder and its owner, or set `database`",
                        path.display()
                    ),
                ),
            ),
        }
        return;
    }
    let store = match Store::open(path, Open::Existing).await {
        Ok(store) => store,
        Err(error) => return findings.wrong("database", error),
    };
    match examine(&store, context, findings).await {
        Ok(()) => {}
        Err(error) => findings.wrong("database", error),
    }
    match lock::holder(path) {
        Ok(Some(holder)) => findings.ok(
            "daemon",
            match holder.pid {
                Some(pid) => format!("runs (process {pid})"),
                None => "runs".to_owned(),
            },
        ),
        Ok(None) => findings.ok("daemon", "does not run"),
        Err(error) => findings.warn("daemon", format_args!("its lock cannot be read: {error}")),
    }
    store.close().await;
}

async fn examine(store: &Store, context: &Context, findings: &mut Findings) -> Result<(), Failure> {
    store.try_writing().await?;
    let damage = store.integrity().await?;
    let jobs = store.counts(None).await?.total();
    let shown = store.path().display();
    if damage.is_empty() {
        findings.ok(
            "database",
            format_args!("{shown}: {}, undamaged", counted(jobs, "job")),
        );
    } else {
        findings.wrong(
            "database",
            Failure::failed(format_args!(
                "{shown}: damaged: {}; restore a copy made by `reelq backup`",
                format::listed(&damage, 3)
            )),
        );
    }
    let wal = files::length_of(&store.log_path());
    if wal > LONG_WAL {
        findings.warn(
            "database",
            format_args!(
                "its log has grown to {}: some program keeps a read transaction open for too long",
                bytesize::ByteSize(wal)
            ),
        );
    }
    let newest = Filter {
        newest_first: true,
        limit: Some(1),
        ..Filter::default()
    };
    let created_at = store.list(&newest).await?.first().map(|job| job.created_at);
    let now = context.clock.now();
    if now < TOO_EARLY {
        findings.wrong(
            "clock",
            Failure::failed(format_args!("it says {}; set the clock", format::time(now))),
        );
    } else if let Some(created_at) = created_at.filter(|at| *at > now + DRIFT) {
        findings.warn(
            "clock",
            format_args!(
                "it says {}, but the newest job was created at {}: one of the two is wrong",
                format::time(now),
                format::time(created_at)
            ),
        );
    } else {
        findings.ok("clock", format::time(now));
    }
    Ok(())
}

fn check_disk(settings: &Settings, findings: &mut Findings) {
    let dir = &settings.download.dir;
    let folder = files::nearest_folder(dir);
    let shown = dir.display();
    if let Err(error) = files::try_writing(folder) {
        return findings.wrong(
            "disk",
            Failure::failed(format_args!(
                "{shown}: cannot be written: {error}; check download.dir and its owner"
            )),
        );
    }
    let made = if folder == dir {
        ""
    } else {
        " (does not exist yet)"
    };
    let needed = settings.download.min_free_space;
    match sink::free_space(folder) {
        Ok(free) if free >= needed => findings.ok(
            "disk",
            format_args!("{shown}{made}: {} free", bytesize::ByteSize(free)),
        ),
        Ok(free) => findings.wrong(
            "disk",
            Failure::failed(format_args!(
                "{shown}: only {} free, download.min_free_space is {}: nothing is submitted; free some space",
                bytesize::ByteSize(free),
                bytesize::ByteSize(needed)
            )),
        ),
        Err(error) => findings.warn("disk", format_args!("{shown}: free space not known: {error}")),
    }
}

async fn check_provider(
    settings: &Settings,
    key: &ApiKey,
    context: &Context,
    findings: &mut Findings,
) {
    let provider = match Provider::new(service::provider_endpoint(settings, key)) {
        Ok(provider) => provider,
        Err(error) => return findings.wrong("provider", error),
    };
    let begin = context.clock.steady();
    let verdict = verdict::judge_probe(provider.probe().await);
    let took = context.clock.steady() - begin;
    let base_url = &settings.provider.base_url;
    match verdict {
        Ok(()) => findings.ok("provider", format_args!("{base_url} answers in {took} ms")),
        Err(fault) => {
            let status = match fault.cause {
                // It is there, and it is this machine's settings that it refuses.
                Cause::KeyRefused => ExitStatus::BadConfig,
                Cause::AccountRefused => ExitStatus::Failed,
                // It answers; there is nothing to change.
                Cause::RateLimited => {
                    return findings.warn(
                        "provider",
                        format_args!("{base_url} is busy: {}", fault.message),
                    );
                }
                Cause::Busy | Cause::Unreachable | Cause::Unclear => ExitStatus::Unavailable,
            };
            let advice = match fault.cause {
                // Not "`reelq check` looks": it just did.
                Cause::Unreachable => "check the network and provider.base_url",
                Cause::KeyRefused => "check the key, and that it is of this base_url",
                cause => cause.advice(),
            };
            findings.wrong(
                "provider",
                Failure::new(
                    status,
                    format_args!("{base_url}: {}; {advice}", fault.message),
                ),
            );
        }
    }
}
