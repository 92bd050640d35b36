//! `reelq add`: jobs come in, all of them or none.

mod reading;
mod report;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;

use super::Context;
use super::failure::{ExitStatus, Failure};
use super::files::Input;
use super::format::{Later, counted};
use super::images::Checker;
use crate::intake::Defaults;
use crate::job::{DEFAULT_BATCH, DEFAULT_DURATION, JobSpec, Size};
use crate::money::Money;
use crate::store::{Insertion, Open, Store, StoreError};
use crate::view::{self, MAX_IDS};
use reading::{Batch, Complaints, Found, Handed, Plan, Repeat, Source};
use report::{Added, LeftOut, report, say_cap};

const AFTER_HELP: &str = "\
    FILE is .jsonl or .ndjson (an object a line), .json (an array of objects) or .csv (with a \
    header row); the format of any other name, and of -, is recognized by its content. Fields: \
    key, batch, prompt, image_url, duration, size, priority, not_before, metadata. Flags apply to \
    the jobs whose entry does not say otherwise.\n\
    \n\
    Either all jobs are inserted or none; every bad line is named as FILE:LINE, in an \
    array with the number of the job. With --json the faults are an object on standard output: \
    {\"errors\": [{\"file\", \"line\", \"element\", \"field\", \"reason\"}, ...]}. A job whose key is in the \
    queue is left out, so that the same file can be added again; so is one whose key stands above it \
    in the input.\n\
    \n\
    Examples:\n\
    \x20 reelq add shots.csv --batch spring\n\
    \x20 reelq add shots.jsonl more.jsonl --dry-run          check and price them, insert nothing\n\
    \x20 reelq add shots.csv --batch spring --max-cost 20    the batch may cost 20.00 in all\n\
    \x20 reelq add --batch spring --max-cost 30              raise that cap; `none` lifts it\n\
    \x20 reelq add --prompt 'The gulls take off' --image-url https://example.com/1.jpg\n\
    \x20 ./make-shots | reelq add - --check-images --json";

/// How a refusal ends.
const NOTHING_INSERTED: &str = "nothing was inserted";

/// Portions that wait for the database.
const WAITING: usize = 2;

/// From this length on an input has a progress bar.
const LONG: u64 = 4 << 20;

/// What to add.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Files with jobs; - is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One job: what the clip should show
    #[arg(
        long,
        value_name = "TEXT",
        requires = "image_url",
        conflicts_with = "files"
    )]
    prompt: Option<String>,
    /// One job: the address of its input image
    #[arg(long, value_name = "URL", requires = "prompt")]
    image_url: Option<String>,
    /// One job: a name that makes a repeated add harmless
    #[arg(long, value_name = "KEY", requires = "prompt")]
    key: Option<String>,
    /// One job: a JSON object that is kept with the job, unchanged
    #[arg(long, value_name = "JSON", requires = "prompt")]
    metadata: Option<String>,
    /// The batch of the jobs [default: default]
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
    /// Higher goes first [default: 0]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Not submitted before: 2026-01-31T18:00:00+08:00, Unix milliseconds, or +2h
    #[arg(long, value_name = "TIME")]
    not_before: Option<Later>,
    /// Seconds of video, 1 to 15 [default: 6]
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u32>,
    /// 480p, 720p or 1080p [default: 720p]
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// What the batch may cost in all, counting what it has cost before; `none` lifts the cap
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
    max_cost: Option<Cap>,
    /// Check and price the jobs, insert nothing
    #[arg(long)]
    dry_run: bool,
    /// Ask each image URL for its image before anything is inserted
    #[arg(long)]
    check_images: bool,
}

/// A cap on a batch, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cap(Option<Money>);

impl FromStr for Cap {
    type Err = String;

    fn from_str(text: &str) -> Result<Cap, String> {
        if text == "none" {
            return Ok(Cap(None));
        }
        text.parse()
            .map(|amount| Cap(Some(amount)))
            .map_err(|error: crate::money::NotMoney| format!("{error}, or `none`"))
    }
}

/// Why an insertion stopped.
enum Stop {
    Bad,
    Failed(Failure),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Failed(error.into())
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

/// Runs `reelq add`.
///
/// # Errors
/// Status 65 where a job is wrong; then nothing was inserted.
pub async fn run(args: Args, context: &Context) -> Result<ExitStatus, Failure> {
    let settings = context.settings()?;
    let defaults = Defaults {
        batch: args.batch.clone(),
        priority: args.priority,
        not_before: args
            .not_before
            .as_ref()
            .map(|later| later.resolve(context.clock.now())),
        duration: args.duration,
        size: args.size,
    };
    let complaints = Complaints {
        json: context.json().then(|| Arc::clone(&context.out)),
    };
    judge_flags(&args, &defaults, &complaints)?;
    let source = match (&args.prompt, &args.image_url) {
        (Some(prompt), Some(image_url)) => {
            Source::One(one_job(&args, &defaults, prompt, image_url))
        }
        _ if !args.files.is_empty() => Source::Files(open_all(&args.files, context)?),
        _ => return set_cap_only(&args, context).await,
    };
    let length = match &source {
        Source::One(_) => 0,
        Source::Files(inputs) => inputs.iter().map(Input::length).sum(),
    };
    let mut plan = Plan {
        source,
        defaults,
        one_batch: matches!(args.max_cost, Some(Cap(Some(_)))),
        images: None,
        complaints,
        bar: bar(length, context),
    };
    if args.check_images {
        let checker = Arc::new(Checker::new(&settings.provider.base_url)?);
        plan = check_images(plan, checker, context).await?;
    }

    // A rehearsal makes no queue where none is.
    let scratch;
    let store = if args.dry_run && !settings.database.exists() {
        scratch = tempfile::tempdir()
            .map_err(|error| Failure::file("the folder for temporary files", &error))?;
        Store::open(&scratch.path().join("rehearsal.db"), Open::Create).await?
    } else {
        context.store(Open::Create).await?
    };
    let plan = Arc::new(plan);
    let added = insert(&store, Arc::clone(&plan), &args).await?;
    let repeats = find_repeats(plan, &added.left_out, context).await?;
    report(&added, &repeats, &args, &store, context).await?;
    store.close().await;
    Ok(ExitStatus::Done)
}

/// Values that hold for every job are judged once, not once a line.
fn judge_flags(args: &Args, defaults: &Defaults, complaints: &Complaints) -> Result<(), Failure> {
    let example = || ("x".to_owned(), "https://example.com/x".to_owned());
    let (prompt, image_url) = args
        .prompt
        .clone()
        .zip(args.image_url.clone())
        .unwrap_or_else(example);
    let faults = one_job(args, defaults, &prompt, &image_url).faults();
    if faults.is_empty() {
        return Ok(());
    }
    complaints.tell(None, &faults, true)?;
    complaints.end()?;
    Err(Failure::new(ExitStatus::BadData, NOTHING_INSERTED))
}

fn one_job(args: &Args, defaults: &Defaults, prompt: &str, image_url: &str) -> JobSpec {
    JobSpec {
        key: args.key.clone(),
        batch: defaults
            .batch
            .clone()
            .unwrap_or_else(|| DEFAULT_BATCH.to_owned()),
        prompt: prompt.to_owned(),
        image_url: image_url.to_owned(),
        duration: defaults.duration.unwrap_or(DEFAULT_DURATION),
        size: defaults.size.unwrap_or_default(),
        priority: defaults.priority.unwrap_or(0),
        not_before: defaults.not_before,
        metadata: args.metadata.clone(),
    }
}

fn open_all(files: &[PathBuf], context: &Context) -> Result<Vec<Input>, Failure> {
    let is_stdin = |path: &&PathBuf| path.as_path() == Path::new("-");
    match files.iter().filter(is_stdin).count() {
        0 => {}
        1 if io::stdin().is_terminal() => {
            context.hint("reading jobs from the terminal; Ctrl-D ends them");
        }
        1 => {}
        _ => return Err(Failure::usage("standard input (-) can be read only once")),
    }
    files.iter().map(|path| Input::open(path)).collect()
}

async fn set_cap_only(args: &Args, context: &Context) -> Result<ExitStatus, Failure> {
    let (Some(cap), Some(batch)) = (args.max_cost, &args.batch) else {
        return Err(Failure::usage(
            "nothing to add: name a FILE, - for standard input, or --prompt with --image-url; \
             --batch with --max-cost alone sets the cap of a batch",
        ));
    };
    let store = context.store(Open::Create).await?;
    if !args.dry_run {
        store.set_batch_cap(batch, cap.0).await?;
    }
    if context.json() {
        context.out.json(&json!({
            "inserted": 0,
            "existing": 0,
            "batch": batch,
            "max_cost": cap.0.map(view::money),
            "dry_run": args.dry_run,
        }))?;
    } else {
        say_cap(batch, cap, &store, context).await?;
    }
    store.close().await;
    Ok(ExitStatus::Done)
}

fn bar(length: u64, context: &Context) -> ProgressBar {
    if length < LONG || context.global.quiet > 0 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta} left",
    ) {
        bar.set_style(style);
    }
    bar
}

/// Asks for every image once, before any line is inserted.
async fn check_images(
    plan: Plan,
    checker: Arc<Checker>,
    context: &Context,
) -> Result<Plan, Failure> {
    let looked = if context.global.quiet == 0 {
        ProgressBar::new_spinner().with_message("images checked")
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} {msg}") {
        looked.set_style(style);
    }
    let (sender, receiver) = mpsc::channel(64);
    let reading = tokio::task::spawn_blocking(move || {
        let told = plan.each(ProgressBar::hidden(), |item| match item {
            Found::Good(_, spec) => sender.blocking_send(spec.image_url).is_ok(),
            // The insertion's own reading tells of it.
            Found::Bad(..) => true,
        });
        told.map(|()| plan)
    });
    let verdicts = checker.check_all(receiver, || looked.inc(1)).await;
    looked.finish_and_clear();
    let mut plan = joined(reading.await)?;
    plan.images = Some((checker, verdicts));
    Ok(plan)
}

/// A thread's result; a panic in it goes on here.
fn joined<T>(result: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::failed("the reading was stopped")),
        },
    }
}

/// Reads on one thread, writes on another, in one transaction: it ends with the reading, or
/// with the first bad line.
async fn insert(store: &Store, plan: Arc<Plan>, args: &Args) -> Result<Added, Failure> {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let mut reading = tokio::task::spawn_blocking(move || plan.read(sender));
    let ended = store
        .insert_with(async |insertion: &mut Insertion<'_>| {
            let mut left_out = LeftOut::default();
            while let Some(portion) = receiver.recv().await {
                match portion {
                    Handed::Bad => return Err(Stop::Bad),
                    Handed::Jobs(specs) => {
                        insertion
                            .push(&specs, |there| left_out.note(&there, args.dry_run))
                            .await?;
                    }
                }
            }
            // Whether that was the end or a failure.
            let reading = joined((&mut reading).await)?;
            if let (Some(cap), Batch::One(batch)) = (args.max_cost, &reading.batch) {
                insertion.set_cap(batch, cap.0).await?;
            }
            if args.dry_run {
                insertion.rehearse();
            }
            Ok(Added {
                reading,
                inserted: insertion.inserted(),
                existing: insertion.existing(),
                ids: insertion.ids(MAX_IDS as u32).await?,
                last: insertion.last(),
                left_out,
            })
        })
        .await;
    match ended {
        Ok(added) => Ok(added),
        Err(Stop::Failed(failure)) => Err(failure),
        Err(Stop::Bad) => {
            // The rest of the bad lines; the database is free meanwhile.
            receiver.close();
            let reading = joined(reading.await)?;
            Err(Failure::new(
                ExitStatus::BadData,
                format_args!(
                    "bad input in {}; {NOTHING_INSERTED}",
                    counted(reading.bad, "place"),
                ),
            ))
        }
    }
}

/// Where the differing repeats stand that were noted. The places of all jobs are not held
/// for them: the input is read once more.
async fn find_repeats(
    plan: Arc<Plan>,
    left_out: &LeftOut,
    context: &Context,
) -> Result<Vec<Repeat>, Failure> {
    let keys = left_out.repeats.iter().cloned().collect();
    let limit = left_out.repeats.len();
    if limit == 0 {
        return Ok(Vec::new());
    }
    let found = tokio::task::spawn_blocking(move || plan.repeats(&keys, limit)).await;
    // The jobs are in, whatever became of the file since.
    Ok(joined(found).unwrap_or_else(|failure| {
        context.warn(failure);
        Vec::new()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_an_amount_or_none() {
        assert_eq!("none".parse(), Ok(Cap(None)));
        assert_eq!("3.00".parse(), Ok(Cap(Some(Money::from_micros(3_000_000)))));
        assert!("-1".parse::<Cap>().is_err());
        assert!("".parse::<Cap>().is_err());
    }
}
