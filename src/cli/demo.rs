//! `reelq demo`: the whole thing with no account.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::failure::{ExitStatus, Failure};
use super::format::{self, counted};
use super::progress::Progress;
use super::{Context, files, wait};
use crate::config::{self, SecretSource, Settings};
use crate::job::{Job, JobSpec, Size, State};
use crate::money::Money;
use crate::sandbox::{self, Bill, Options};
use crate::signals::Signals;
use crate::store::{Counts, Filter, Open, Store};
use crate::{lock, service, view};

const AFTER_HELP: &str = "\
Starts the sandbox provider on this machine, queues sample jobs, runs the daemon until all are
settled, and shows the files. Nothing leaves the machine and nothing is charged.

Examples:
  reelq demo
  reelq demo --jobs 20 --dir /tmp/reelq-demo
  reelq demo --json | jq -r '.jobs[].path'";

/// The sandbox takes this key; it is worth nothing.
const KEY: &str = "sk-demo";

/// How long the sandbox takes for a video.
const GENERATION_TIME: Duration = Duration::from_secs(4);

/// What the sandbox makes: prompt, seconds, size.
const SAMPLES: [(&str, u32, Size); 6] = [
    (
        "A glass perfume bottle on marble, soft morning light, slow push-in",
        4,
        Size::P720,
    ),
    (
        "A quiet landscape, leaves moving in the wind, stable camera",
        6,
        Size::P480,
    ),
    (
        "A running shoe turns slowly on a white background",
        3,
        Size::P480,
    ),
    ("A cup of coffee, steam rising, macro shot", 5, Size::P720),
    ("A harbour at dawn, the gulls take off", 2, Size::P1080),
    (
        "A silk scarf falls in slow motion, studio light",
        4,
        Size::P480,
    ),
];

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub jobs: u32,
    /// Where the queue and the videos go
    #[arg(long, value_name = "DIR", default_value = "reelq-demo")]
    pub dir: PathBuf,
}

/// Runs the demo.
///
/// # Errors
/// The folder cannot be written, another demo runs in it, or a signal came first (status 3).
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let signals = Signals::listen().map_err(Failure::no_signals)?;
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| Failure::file(args.dir.display(), &error))?;
    files::make_folder(&dir).map_err(|error| Failure::file(dir.display(), &error))?;
    let sandbox = sandbox::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        key: Some(KEY.to_owned()),
        generation_time: GENERATION_TIME,
        ..Options::default()
    })
    .await
    .map_err(|error| {
        Failure::failed(format_args!(
            "the sandbox provider cannot be started: {error}"
        ))
    })?;
    let settings = settings(&dir, &sandbox.base_url())?;
    let store = Arc::new(Store::open(&settings.database, Open::Create).await?);
    let _lock = lock::acquire(&settings.database)?;
    let batch = new_batch(&store).await?;
    let specs: Vec<JobSpec> = (0..args.jobs as usize).map(|n| sample(n, &batch)).collect();
    store.insert(&specs).await?;
    context.hint(format_args!(
        "{} queued; the sandbox provider is at {}",
        counted(u64::from(args.jobs), "job"),
        sandbox.base_url()
    ));

    let counts = work(&settings, &store, &batch, signals, context).await?;
    let bill = sandbox.shutdown().await;
    let jobs = store
        .list(&Filter {
            batch: Some(batch.clone()),
            ..Filter::default()
        })
        .await?;
    show(context, &jobs, &bill)?;
    if counts.settled() < counts.total() {
        return Err(Failure::new(
            ExitStatus::Unsettled,
            format_args!(
                "the demo was stopped: {} of {} done",
                counts.of(State::Done),
                counted(counts.total(), "job")
            ),
        ));
    }
    Ok(wait::verdict(&counts, Some(&batch), context))
}

fn settings(dir: &std::path::Path, base_url: &str) -> Result<Settings, Failure> {
    let mut settings = config::defaults(dir)?;
    settings.provider.base_url = base_url
        .parse()
        .map_err(|error| Failure::failed(format_args!("{base_url}: {error}")))?;
    settings.provider.key = SecretSource::text("the demo's own key", KEY);
    settings.submit.rate_per_minute = 6_000;
    settings.submit.max_in_flight = 100;
    settings.poll.interval = Duration::from_secs(3);
    // The demo's videos are small; it should also run where little is free.
    settings.download.min_free_space = 64 * 1024 * 1024;
    let prices = sandbox::Prices::default();
    settings.budget.price_per_second = Size::ALL
        .into_iter()
        .zip([prices.p480, prices.p720, prices.p1080])
        .map(|(size, price)| {
            (
                size,
                Money::from_micros(i64::try_from(price.0).unwrap_or(i64::MAX)),
            )
        })
        .collect();
    Ok(settings)
}

/// A batch of its own for each demo in one folder.
async fn new_batch(store: &Store) -> Result<String, Failure> {
    let taken = store.batches().await?;
    let mut name = "demo".to_owned();
    let mut n = 1;
    while taken.iter().any(|batch| batch.name == name) {
        n += 1;
        name = format!("demo-{n}");
    }
    Ok(name)
}

fn sample(n: usize, batch: &str) -> JobSpec {
    let (prompt, duration, size) = SAMPLES[n % SAMPLES.len()];
    JobSpec {
        batch: batch.to_owned(),
        duration,
        size,
        ..JobSpec::new(prompt, format!("https://example.com/photos/{}.jpg", n + 1))
    }
}

/// Runs the daemon until the batch is settled or a signal stops it.
async fn work(
    settings: &Settings,
    store: &Arc<Store>,
    batch: &str,
    signals: Signals,
    context: &Context,
) -> Result<Counts, Failure> {
    let service = service::assemble(settings, Arc::clone(store), false).await?;
    let stop = Arc::clone(&service.stop);
    let mut daemon = tokio::spawn(service.daemon.run(signals));
    let mut progress = Progress::new(context);
    let ended = loop {
        let counts = store.counts(Some(batch)).await?;
        progress.show(&counts, store.cost_of(Some(batch)).await?, None)?;
        if counts.settled() == counts.total() {
            stop.notify_one();
            break (&mut daemon).await;
        }
        tokio::select! {
            ended = &mut daemon => break ended,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    };
    progress.finish();
    ended.map_err(|error| Failure::failed(format_args!("the daemon broke off: {error}")))??;
    Ok(store.counts(Some(batch)).await?)
}

fn show(context: &Context, jobs: &[Job], bill: &Bill) -> Result<(), Failure> {
    let cost = Money::from_micros(i64::try_from(bill.cost_micros).unwrap_or(i64::MAX));
    if context.json() {
        return context.out.json(&json!({
            "jobs": jobs.iter().map(view::JobView::from).collect::<Vec<_>>(),
            "bill": { "accepted": bill.accepted, "refused": bill.refused, "cost": view::money(cost) },
        }));
    }
    let mut table = format::table(&["id", "state", "size", "seconds", "bytes", "file"]);
    for job in jobs {
        let (bytes, path) = match &job.file {
            Some(file) => (file.bytes.to_string(), file.path.clone()),
            None => (String::new(), format::remark(job)),
        };
        table.add_row([
            job.id.to_string(),
            job.state.to_string(),
            job.spec.size.to_string(),
            job.spec.duration.to_string(),
            bytes,
            path,
        ]);
    }
    format::align_right(&mut table, &[0, 3, 4]);
    context.out.line(format::table_text(&table))?;
    let done = jobs.iter().filter(|job| job.state == State::Done).count() as u64;
    context.out.line(format_args!(
        "{} checked and in place. The sandbox's bill: {} accepted; at its prices they would have cost {cost}.",
        counted(done, "video"),
        counted(bill.accepted, "submission"),
    ))
}
