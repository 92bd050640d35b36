//! From checked settings to a daemon that can run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Notify;

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{ApiKey, ConfigError, OnUnconfirmed, Settings};
use crate::daemon::{self, Daemon};
use crate::downloader::{CutLengths, Downloads};
use crate::engine::{Engine, EngineError, Limits};
use crate::job::{Millis, Size};
use crate::places::Places;
use crate::provider::{Endpoint, Provider, SetupError};
use crate::sink::Sink;
use crate::stats::Stats;
use crate::step::Policy;
use crate::store::{Store, StoreError};

/// The pause after a look that the disk or another process refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Why the daemon could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The configuration, the key included.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `download.dir`.
    #[error("download.dir = {}: {reason}; check its owner and mode, or name another folder", .dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the file system says.
        reason: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table could not be taken up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The HTTP client.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// A daemon, and what other parts of the process share with it.
pub struct Service {
    /// To be run.
    pub daemon: Daemon,
    /// The queue.
    pub store: Arc<Store>,
    /// What the daemon counts.
    pub stats: Arc<Stats>,
    /// Stops the daemon.
    pub stop: Arc<Notify>,
}

/// Sets a daemon up on a queue whose lock the caller holds: from here on the
/// table is taken up.
///
/// # Errors
/// The first part that cannot be set up; nothing was sent to the provider.
pub async fn assemble(
    settings: &Settings,
    store: Arc<Store>,
    until_idle: bool,
) -> Result<Service, ServiceError> {
    let key = settings.api_key()?;
    let endpoint = settings.endpoint(&key);
    let provider = Provider::new(provider_endpoint(settings, &key))?;
    let folder = |reason| ServiceError::Folder {
        dir: settings.download.dir.clone(),
        reason,
    };
    let sink = Sink::new(settings.download.dir.clone()).map_err(folder)?;
    sink.try_writing().map_err(folder)?;
    let clock = Arc::new(Clock::system());
    let stats = Arc::new(Stats::default());
    let timezone = settings.budget.timezone.clone();
    let places = Places {
        sink: sink.clone(),
        template: settings.download.name.clone(),
        timezone: timezone.clone(),
    };
    store.set_patience(daemon::PATIENCE).await?;
    let engine = loop {
        let opened = async {
            store.resync_log().await?;
            Engine::open(
                Arc::clone(&store),
                places.clone(),
                endpoint.clone(),
                limits(settings),
                Arc::clone(&stats),
                clock.now(),
            )
            .await
        };
        match opened.await {
            // As a running daemon would.
            Err(EngineError::Store(error)) if error.is_passing() => {
                tracing::error!(%error, "waiting; nothing is done until this is mended");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            opened => break opened?,
        }
    };
    let stop = Arc::new(Notify::new());
    let daemon = Daemon {
        engine,
        store: Arc::clone(&store),
        provider: Arc::new(provider),
        downloads: Arc::new(Downloads {
            sink,
            max_bytes: settings.download.max_bytes,
            min_free_space: settings.download.min_free_space,
            sidecar: settings.download.sidecar,
            cut_lengths: CutLengths::default(),
        }),
        clock,
        timezone,
        until_idle,
        stop: Arc::clone(&stop),
    };
    Ok(Service {
        daemon,
        store,
        stats,
        stop,
    })
}

/// How the provider is spoken to.
pub fn provider_endpoint(settings: &Settings, key: &ApiKey) -> Endpoint {
    Endpoint {
        base_url: settings.provider.base_url.clone(),
        key: SecretString::from(key.expose().to_owned()),
        model: settings.provider.model.clone(),
        post_timeout: settings.submit.request_timeout,
        poll_timeout: settings.poll.request_timeout,
        idle_timeout: settings.download.idle_timeout,
    }
}

/// The limits that the engine keeps.
pub fn limits(settings: &Settings) -> Limits {
    Limits {
        max_in_flight: settings.submit.max_in_flight,
        rate_per_minute: settings.submit.rate_per_minute,
        downloads: settings.download.concurrency as usize,
        min_free_space: settings.download.min_free_space,
        policy: policy(settings),
        budget: budget(settings),
    }
}

/// What decides about jobs.
pub fn policy(settings: &Settings) -> Policy {
    Policy {
        resubmit_unknown: settings.submit.on_unconfirmed == OnUnconfirmed::Resubmit,
        interval: millis(settings.poll.interval),
        slow_after: millis(settings.poll.slow_after),
        slow_interval: millis(settings.poll.slow_interval),
        deadline: millis(settings.poll.deadline),
    }
}

/// The caps and prices of the configuration.
pub fn budget(settings: &Settings) -> Budget {
    let budget = &settings.budget;
    Budget {
        max_jobs_per_day: (budget.max_jobs_per_day > 0).then_some(budget.max_jobs_per_day),
        max_cost_per_day: (budget.max_cost_per_day.micros() > 0).then_some(budget.max_cost_per_day),
        price_per_second: Size::ALL.map(|size| budget.price_per_second.get(&size).copied()),
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
