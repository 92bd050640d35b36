//! `reelq run`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Context, ExitStatus, Failure};
use crate::config::{Listen, Settings};
use crate::daemon::{Ending, FREE_COMMITS, PATIENCE};
use crate::http::{self, Http};
use crate::job::State;
use crate::service::Service;
use crate::signals::Signals;
use crate::store::{Open, Store};
use crate::webhook::{self, Webhooks};
use crate::{lock, service};

/// How long the HTTP interface and the webhooks have to end after the daemon.
/// Each ends sooner by itself, unless the database is held by another program.
const LAST_WORDS: Duration = Duration::from_millis(3_500);

// Where no POST is open, a stop takes five seconds at most.
const _: () = assert!(
    http::LAST_ANSWERS.as_millis() < LAST_WORDS.as_millis()
        && webhook::LAST_TRIES.as_millis() < LAST_WORDS.as_millis()
        && PATIENCE.as_millis() + FREE_COMMITS.as_millis() + LAST_WORDS.as_millis() < 5_000
);

const AFTER_HELP: &str = "\
Examples:
  reelq run                                     until SIGTERM or Ctrl-C
  reelq run --until-idle && ls videos           ends when no job is left that could move
  reelq --config /etc/reelq/config.toml run     as the systemd unit starts it

On SIGTERM reelq submits nothing new and waits up to submit.request_timeout for answers to requests
already sent; a second signal does not wait and leaves those jobs unconfirmed. Partial downloads are
kept and resumed.";

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// End when no job is left that could move by itself; status 3 if some are failed, cancelled or
    /// unconfirmed. It goes on while a job waits for its not_before, however far off that is
    #[arg(long)]
    pub until_idle: bool,
}

/// Runs the daemon.
///
/// # Errors
/// Wrong settings, another daemon on this queue, or what a restart has to mend.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    // From here on a signal is a wish to stop, also while a locked database keeps the start waiting.
    let mut signals = Signals::listen().map_err(Failure::no_signals)?;
    let mut started = tokio::select! {
        biased;
        () = signals.next() => return Ok(ExitStatus::Done),
        started = start(args, context) => started?,
    };
    let ended = started.service.daemon.run(signals).await;
    drop(started.end);
    // What is said beside the daemon has a moment to end; it is said again after the next start.
    let _ = tokio::time::timeout(LAST_WORDS, async {
        while started.beside.join_next().await.is_some() {}
    })
    .await;
    match ended? {
        Ending::Stopped => Ok(ExitStatus::Done),
        Ending::Idle => idle(context, &started.service.store).await,
    }
}

/// A daemon that can run, and what runs beside it.
struct Started {
    service: Service,
    beside: JoinSet<()>,
    /// Dropped, it ends what runs beside.
    end: watch::Sender<()>,
    _lock: lock::Guard,
}

async fn start(args: Args, context: &Context) -> Result<Started, Failure> {
    let settings = context.settings()?;
    let store = Arc::new(context.store(Open::Create).await?);
    // Before the table is taken up: what is submitting there may be a running daemon's.
    let lock = lock::acquire(&settings.database)?;
    let bound = match &settings.http.listen {
        Listen::Off => None,
        listen => Some(http::bind(listen).await?),
    };
    let service = service::assemble(settings, Arc::clone(&store), args.until_idle).await?;
    let (end, over) = watch::channel(());
    let mut beside = JoinSet::new();
    if let Some(bound) = bound {
        tracing::info!(address = bound.url(), "listening");
        let http = front(settings, &service, context).await?;
        let over = ended(over.clone());
        beside.spawn(async move {
            if let Err(error) = http::serve(http, bound, over).await {
                tracing::error!(%error, "the HTTP interface ended");
            }
        });
    }
    match webhooks(settings, context).await? {
        Some(webhooks) => {
            beside.spawn(webhooks.run(ended(over)));
        }
        None => webhook::off(&store).await?,
    }
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        database = %settings.database.display(),
        provider = %settings.provider.base_url,
        videos = %settings.download.dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    Ok(Started {
        service,
        beside,
        end,
        _lock: lock,
    })
}

/// Ends when the daemon has, also if it has before anybody asks.
async fn ended(mut over: watch::Receiver<()>) {
    while over.changed().await.is_ok() {}
}

/// Connections of its own for what runs beside the daemon: what it waits for holds up
/// the daemon's commits, as any producer's does, but neither its signals nor its watchdog.
async fn beside(context: &Context) -> Result<Arc<Store>, Failure> {
    Ok(Arc::new(context.store(Open::Existing).await?))
}

/// What the HTTP interface needs.
async fn front(settings: &Settings, service: &Service, context: &Context) -> Result<Http, Failure> {
    Ok(Http {
        store: beside(context).await?,
        stats: Arc::clone(&service.stats),
        clock: Arc::clone(&context.clock),
        policy: service::policy(settings),
        timezone: settings.budget.timezone.clone(),
        model: settings.provider.model.clone(),
        downloads: settings.download.dir.clone(),
        token: settings.http_token()?,
    })
}

/// The sender of webhooks, if they are wanted.
async fn webhooks(settings: &Settings, context: &Context) -> Result<Option<Webhooks>, Failure> {
    let Some(url) = settings.webhook.url.clone() else {
        return Ok(None);
    };
    let secret = settings.webhook_secret()?;
    let store = beside(context).await?;
    // It tries again by itself, and has to hear of a stop.
    store.set_patience(PATIENCE).await?;
    let webhooks = Webhooks::new(store, Arc::clone(&context.clock), url, secret.as_ref());
    Ok(Some(webhooks.await?))
}

/// The status of an idle queue, with a word on what did not end well.
async fn idle(context: &Context, store: &Store) -> Result<ExitStatus, Failure> {
    let counts = store.counts(None).await?;
    let mut unwell = Vec::new();
    for state in [State::Failed, State::Cancelled, State::Unconfirmed] {
        if counts.of(state) > 0 {
            unwell.push(format!("{} {state}", counts.of(state)));
        }
    }
    let left = [State::Pending, State::Generating, State::Downloading]
        .map(|state| counts.of(state))
        .iter()
        .sum::<u64>();
    if left > 0 {
        unwell.push(format!("{left} held back (see `reelq status`)"));
    }
    if unwell.is_empty() {
        return Ok(ExitStatus::Done);
    }
    context.hint(format_args!("idle; {}", unwell.join(", ")));
    Ok(ExitStatus::Unsettled)
}
