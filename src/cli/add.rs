//! `reelq add`: jobs come in, all of them or none.

use std::fmt;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;

use super::failure::{ExitStatus, Failure};
use super::files::{Input, InputVisitor};
use super::format::{self, Later, counted};
use super::images::{Checker, Verdicts};
use super::{Context, Out, output};
use crate::budget::Budget;
use crate::intake::{self, Defaults, Entry, Format, ReadError};
use crate::job::{DEFAULT_BATCH, DEFAULT_DURATION, FieldFault, JobId, JobSpec, Size};
use crate::money::Money;
use crate::service;
use crate::store::{Insertion, Open, Store, StoreError, There};
use crate::view;

const AFTER_HELP: &str = "\
    FILE is .jsonl or .ndjson (an object a line), .json (an array of objects) or .csv (with a \
    header row); the format of any other name, and of -, is recognized by its content. Fields: key, batch, prompt, \
    image_url, duration, size, priority, not_before, metadata. Flags apply to the jobs whose \
    entry does not say otherwise.\n\
    \n\
    Either all jobs are inserted or none; every bad line is named as FILE:LINE, in an \
    array with the number of the job. With --json the faults are an object on standard output: \
    {\"errors\": [{\"file\", \"line\", \"element\", \"field\", \"reason\"}, ...]}. A job whose key is in the \
    queue is left out, so that the same file can be added again.\n\
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

/// Ids that are printed as JSON; of more, the first and the last are.
const MAX_IDS: usize = 10_000;

/// Keys of other jobs that are named.
const MAX_KEYS: usize = 10;

/// Jobs that go to the database at once, and about how much text.
const PORTION: usize = 1_000;
const PORTION_BYTES: usize = 2 << 20;

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

/// Where the jobs come from.
#[derive(Debug)]
enum Source {
    /// The flags.
    One(JobSpec),
    /// Files.
    Files(Vec<Input>),
}

/// What the reading has to know.
#[derive(Debug)]
struct Plan {
    source: Source,
    defaults: Defaults,
    /// All jobs must be of one batch.
    one_batch: bool,
    /// What was found out about the images.
    images: Option<(Arc<Checker>, Verdicts)>,
    complaints: Complaints,
    bar: ProgressBar,
}

/// What the reading came to.
#[derive(Debug, Default)]
struct Reading {
    jobs: u64,
    bad: u64,
    tally: Tally,
    /// The batch of all jobs, if it is one.
    batch: Batch,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Batch {
    #[default]
    None,
    One(String),
    Several,
}

impl Batch {
    fn meet(&mut self, name: &str) {
        match self {
            Batch::None => *self = Batch::One(name.to_owned()),
            Batch::One(one) if one != name => *self = Batch::Several,
            _ => {}
        }
    }
}

/// How many jobs of each size there are, and their seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    jobs: [u64; 3],
    seconds: [u64; 3],
}

impl Tally {
    fn count(&mut self, spec: &JobSpec) {
        self.jobs[spec.size as usize] += 1;
        self.seconds[spec.size as usize] += u64::from(spec.duration);
    }

    fn without(mut self, other: &Tally) -> Tally {
        for size in Size::ALL {
            self.jobs[size as usize] -= other.jobs[size as usize];
            self.seconds[size as usize] -= other.seconds[size as usize];
        }
        self
    }

    /// Each size that occurs, with its price if that is known.
    fn priced(&self, budget: &Budget) -> Vec<Priced> {
        Size::ALL
            .into_iter()
            .filter(|size| self.jobs[*size as usize] > 0)
            .map(|size| {
                let seconds = self.seconds[size as usize];
                let price = budget.price_per_second[size as usize];
                Priced {
                    size,
                    jobs: self.jobs[size as usize],
                    seconds,
                    cost: price.map(|price| {
                        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                        Money::from_micros(price.micros().saturating_mul(seconds))
                    }),
                }
            })
            .collect()
    }
}

/// What the jobs of one size may cost.
#[derive(Clone, Copy, Debug)]
struct Priced {
    size: Size,
    jobs: u64,
    seconds: u64,
    cost: Option<Money>,
}

/// The whole cost, if every price is known.
fn total(priced: &[Priced]) -> Option<Money> {
    priced.iter().map(|priced| priced.cost).sum()
}

/// What the reader hands to the writer.
enum Portion {
    Jobs(Vec<JobSpec>),
    /// A line was bad: nothing will be inserted.
    Bad,
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

/// What went in and what did not.
#[derive(Debug, Default)]
struct Added {
    reading: Reading,
    inserted: u64,
    existing: u64,
    ids: Vec<JobId>,
    last: Option<JobId>,
    left_out: LeftOut,
}

/// The jobs whose key was there.
#[derive(Debug, Default)]
struct LeftOut {
    tally: Tally,
    ids: Vec<JobId>,
    /// Keys whose job asks for another video, with that job.
    others: Vec<(String, JobId)>,
    untold: u64,
}

impl LeftOut {
    fn note(&mut self, there: &There<'_>) {
        self.tally.count(there.spec);
        if self.ids.len() < MAX_IDS {
            self.ids.push(there.id);
        }
        if there.is_same {
            return;
        }
        if self.others.len() < MAX_KEYS {
            let key = there.spec.key.clone().unwrap_or_default();
            self.others.push((key, there.id));
        } else {
            self.untold += 1;
        }
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
    let added = insert(&store, plan, &args).await?;
    report(&added, &args, &store, context).await?;
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

async fn say_cap(batch: &str, cap: Cap, store: &Store, context: &Context) -> Result<(), Failure> {
    let batch_shown = format::one_line(batch, 60);
    match cap.0 {
        None => context
            .out
            .line(format_args!("batch {batch_shown} has no cap on its cost")),
        Some(cap) => {
            let spent = store.cost_of(Some(batch)).await?;
            context.out.line(format_args!(
                "batch {batch_shown} may cost {cap} in all, {spent} is spent or reserved"
            ))
        }
    }
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

/// Reads on one thread, writes on another. The transaction begins with the first
/// portion and ends with the reading, or with the first bad line.
async fn insert(store: &Store, plan: Plan, args: &Args) -> Result<Added, Failure> {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let mut reading = tokio::task::spawn_blocking(move || plan.read(sender));
    let ended = store
        .insert_with(async |insertion: &mut Insertion<'_>| {
            let mut left_out = LeftOut::default();
            while let Some(portion) = receiver.recv().await {
                match portion {
                    Portion::Bad => return Err(Stop::Bad),
                    Portion::Jobs(specs) => {
                        insertion
                            .push(&specs, |there| left_out.note(&there))
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

/// One entry of an input.
enum Found<'a> {
    Good(Option<Place<'a>>, JobSpec),
    Bad(Place<'a>, Vec<FieldFault>),
}

/// Where in the files an entry stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    line: u64,
    /// Which element of an array it is.
    element: Option<u64>,
}

/// `shots.csv:7`, or `shots.json:1, job 7` in an array.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.element {
            Some(element) => write!(f, ", job {element}"),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// Calls `found` for every entry, until it says false.
    fn each(
        &self,
        bar: ProgressBar,
        mut found: impl FnMut(Found<'_>) -> bool,
    ) -> Result<(), Failure> {
        let inputs = match &self.source {
            Source::One(spec) => {
                found(Found::Good(None, spec.clone()));
                return Ok(());
            }
            Source::Files(inputs) => inputs,
        };
        for input in inputs {
            bar.set_message(input.name.clone());
            let mut goes_on = true;
            let mut broken = None;
            let visitor = Entries {
                defaults: &self.defaults,
                each: |item: Result<Entry, ReadError>| {
                    let place = |line, element| Place {
                        file: &input.name,
                        line,
                        element,
                    };
                    goes_on = match item {
                        Ok(entry) => {
                            let place = place(entry.line, entry.element);
                            found(Found::Good(Some(place), entry.spec))
                        }
                        Err(ReadError::Line(fault)) => {
                            found(Found::Bad(place(fault.line, fault.element), fault.faults))
                        }
                        Err(ReadError::Io { line, source }) => {
                            broken = Some(Failure::file(
                                format_args!("{}:{line}", input.name),
                                &source,
                            ));
                            false
                        }
                    };
                    goes_on
                },
            };
            input
                .read(|file| bar.wrap_read(file), visitor)
                .map_err(|error| Failure::file(&input.name, &error))?;
            if let Some(failure) = broken {
                return Err(failure);
            }
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Reads all, tells of every bad line, hands the jobs on while all are good.
    fn read(&self, sender: mpsc::Sender<Portion>) -> Result<Reading, Failure> {
        let mut reading = Reading::default();
        let mut portion = Vec::with_capacity(PORTION);
        let mut bytes = 0;
        let mut told = Ok(());
        let read = self.each(self.bar.clone(), |item| {
            reading.jobs += 1;
            let (place, faults) = match item {
                Found::Bad(place, faults) => (Some(place), faults),
                Found::Good(place, spec) => {
                    let faults = self.judge(&spec, &mut reading.batch);
                    if !faults.is_empty() {
                        (place, faults)
                    } else if reading.bad > 0 {
                        return true;
                    } else {
                        reading.tally.count(&spec);
                        bytes += spec.prompt.len()
                            + spec.image_url.len()
                            + spec.metadata.as_ref().map_or(0, String::len);
                        portion.push(spec);
                        if portion.len() < PORTION && bytes < PORTION_BYTES {
                            return true;
                        }
                        bytes = 0;
                        let full = std::mem::replace(&mut portion, Vec::with_capacity(PORTION));
                        // Nobody takes it any more: the insertion has failed.
                        return sender.blocking_send(Portion::Jobs(full)).is_ok();
                    }
                }
            };
            if reading.bad == 0 {
                let _ = sender.blocking_send(Portion::Bad);
            }
            let first = reading.bad == 0;
            reading.bad += 1;
            told = self
                .bar
                .suspend(|| self.complaints.tell(place, &faults, first));
            told.is_ok()
        });
        self.bar.finish_and_clear();
        if reading.bad > 0 {
            self.complaints.end()?;
        }
        told.and(read)?;
        if reading.bad == 0 && !portion.is_empty() {
            let _ = sender.blocking_send(Portion::Jobs(portion));
        }
        Ok(reading)
    }

    /// What is wrong with a job that breaks no rule of its own.
    fn judge(&self, spec: &JobSpec, batch: &mut Batch) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        if let Some((checker, verdicts)) = &self.images
            && !verdicts.is_empty()
            && let Some(reason) = verdicts.get(&checker.hash(&spec.image_url))
        {
            faults.push(FieldFault::new("image_url", reason.as_str()));
        }
        if self.one_batch
            && let Batch::One(first) = &*batch
            && *first != spec.batch
        {
            let reason = format!(
                "is {:?}, but --max-cost caps one batch and the jobs above are of {first:?}: \
                 add each batch by itself",
                spec.batch
            );
            faults.push(FieldFault::new("batch", reason));
        } else {
            batch.meet(&spec.batch);
        }
        faults
    }
}

/// Where faults go, all of them, as they are found: none is held.
#[derive(Debug)]
struct Complaints {
    /// They are data: an object on standard output, a fault a line. `None`: lines for people.
    json: Option<Arc<Out>>,
}

impl Complaints {
    /// Tells what is wrong with one job; without a place, with the flags.
    fn tell(
        &self,
        place: Option<Place<'_>>,
        faults: &[FieldFault],
        first: bool,
    ) -> Result<(), Failure> {
        if let Some(out) = &self.json {
            let mut before = if first { "{\"errors\":[\n" } else { ",\n" };
            for fault in faults {
                out.text(std::mem::replace(&mut before, ",\n"))?;
                out.json_item(&json!({
                    "file": place.map(|place| place.file),
                    "line": place.map(|place| place.line),
                    "element": place.and_then(|place| place.element),
                    "field": fault.field,
                    "reason": fault.reason,
                }))?;
            }
            return Ok(());
        }
        match place {
            // `shots.csv:7: prompt is missing; size must be ...`
            Some(place) => {
                let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
                output::aside(format_args!("{place}: {}", words.join("; ")));
            }
            // `--image-url must be ...`
            None => {
                for FieldFault { field, reason } in faults {
                    let flag = field.replace('_', "-");
                    output::complain(format_args!("--{flag} {reason}"));
                }
            }
        }
        Ok(())
    }

    /// After the last.
    fn end(&self) -> Result<(), Failure> {
        match &self.json {
            Some(out) => out.line("\n],\"inserted\":0}"),
            None => Ok(()),
        }
    }
}

/// Hands every entry of an input to a closure, until that says false.
struct Entries<'a, F> {
    defaults: &'a Defaults,
    each: F,
}

impl<F: FnMut(Result<Entry, ReadError>) -> bool> InputVisitor for Entries<'_, F> {
    fn visit(mut self, format: Format, reader: impl BufRead) {
        for item in intake::read(format, reader, self.defaults) {
            if !(self.each)(item) {
                break;
            }
        }
    }
}

async fn report(
    added: &Added,
    args: &Args,
    store: &Store,
    context: &Context,
) -> Result<(), Failure> {
    let settings = context.settings()?;
    let tally = added.reading.tally.without(&added.left_out.tally);
    let priced = tally.priced(&service::budget(settings));
    for (key, id) in &added.left_out.others {
        context.warn(format_args!(
            "key {key:?} already belongs to job {id}, which asks for a different video; job {id} is unchanged"
        ));
    }
    if added.left_out.untold > 0 {
        context.warn(format_args!(
            "the same is true of {} more",
            counted(added.left_out.untold, "key")
        ));
    }
    if added.reading.jobs == 0 {
        context.warn("there is no job in the input");
    }
    let capped = matches!(args.max_cost, Some(Cap(Some(_))));
    for priced in priced
        .iter()
        .filter(|priced| capped && priced.cost.is_none())
    {
        context.warn(format_args!(
            "the batch has a cap, but budget.price_per_second.\"{0}\" is missing: {0} jobs are not submitted",
            priced.size
        ));
    }
    if context.json() {
        let ids = |ids: &[JobId], count: u64| (ids.len() as u64 == count).then(|| ids.to_vec());
        let new_ids = if args.dry_run { &[][..] } else { &added.ids };
        context.out.json(&json!({
            "inserted": added.inserted,
            "existing": added.existing,
            "ids": ids(new_ids, added.inserted),
            "first_id": new_ids.first(),
            "last_id": added.last.filter(|_| !args.dry_run),
            "existing_ids": ids(&added.left_out.ids, added.existing),
            "differing_keys": added.left_out.others.len() as u64 + added.left_out.untold,
            "cost": total(&priced).map(view::money),
            "prices": priced.iter().map(|priced| json!({
                "size": priced.size,
                "jobs": priced.jobs,
                "seconds": priced.seconds,
                "cost": priced.cost.map(view::money),
            })).collect::<Vec<_>>(),
            "dry_run": args.dry_run,
        }))?;
        return context.out.flush();
    }
    let verb = if args.dry_run {
        "would insert"
    } else {
        "inserted"
    };
    let mut line = format!("{verb} {}", added.inserted);
    if let (false, Some(first), Some(last)) = (args.dry_run, added.ids.first(), added.last) {
        line.push_str(&if *first == last {
            format!(" (job {first})")
        } else {
            format!(" (jobs {first} to {last})")
        });
    }
    if added.existing > 0 {
        line.push_str(&format!(", already there {}", added.existing));
        if added.existing == 1 {
            line.push_str(&format!(
                " (job {})",
                format::listed(&added.left_out.ids, 1)
            ));
        }
    }
    context.out.line(line)?;
    if args.dry_run {
        print_prices(&priced, context)?;
    } else if let Some(cost) = total(&priced).filter(|cost| *cost > Money::ZERO) {
        context
            .out
            .line(format_args!("by the configured prices they cost {cost}"))?;
    }
    if let (Some(cap), Batch::One(batch)) = (args.max_cost, &added.reading.batch) {
        say_cap(batch, cap, store, context).await?;
    }
    context.out.flush()?;
    if !args.dry_run && added.inserted > 0 && context.out.is_terminal() {
        context.hint_at_daemon(store);
    }
    Ok(())
}

fn print_prices(priced: &[Priced], context: &Context) -> Result<(), Failure> {
    for Priced {
        size,
        jobs,
        seconds,
        cost,
    } in priced
    {
        let jobs = counted(*jobs, "job");
        match cost {
            Some(cost) => context
                .out
                .line(format_args!("  {size:<5}  {jobs}, {seconds} s: {cost}"))?,
            None => context.out.line(format_args!(
                "  {size:<5}  {jobs}, {seconds} s: no price configured (budget.price_per_second.\"{size}\")"
            ))?,
        }
    }
    match total(priced) {
        Some(cost) => context.out.line(format_args!("  in all: {cost}")),
        None => {
            let known: Money = priced.iter().filter_map(|priced| priced.cost).sum();
            let priced = if known > Money::ZERO {
                format!("; what is priced costs {known}")
            } else {
                String::new()
            };
            context
                .out
                .line(format_args!("  in all: not known{priced}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_known_only_if_every_price_is() {
        let budget = Budget {
            price_per_second: [None, Some(Money::from_micros(100_000)), None],
            ..Budget::default()
        };
        let mut tally = Tally::default();
        let mut spec = JobSpec::new("p", "https://example.com");
        tally.count(&spec);
        tally.count(&spec);
        let priced = tally.priced(&budget);
        assert_eq!(
            total(&priced).map(|cost| cost.to_string()).as_deref(),
            Some("1.20")
        );
        spec.size = Size::P480;
        tally.count(&spec);
        assert_eq!(total(&tally.priced(&budget)), None);
        let mut other = Tally::default();
        other.count(&spec);
        assert_eq!(tally.without(&other).priced(&budget).len(), 1);
    }

    #[test]
    fn a_cap_is_an_amount_or_none() {
        assert_eq!("none".parse(), Ok(Cap(None)));
        assert_eq!("3.00".parse(), Ok(Cap(Some(Money::from_micros(3_000_000)))));
        assert!("-1".parse::<Cap>().is_err());
        assert!("".parse::<Cap>().is_err());
    }
}
