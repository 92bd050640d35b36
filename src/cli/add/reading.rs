//! The jobs of `reelq add`, read one by one, with every fault told where it is found.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::BufRead;
use std::sync::Arc;

use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc;

use crate::budget::Tally;
use crate::cli::failure::Failure;
use crate::cli::files::{Input, InputVisitor};
use crate::cli::images::{Checker, Verdicts};
use crate::cli::{Out, output};
use crate::intake::{self, Defaults, Entry, Format, Portion, ReadError};
use crate::job::{FieldFault, JobSpec};

/// Where the jobs come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The flags.
    One(JobSpec),
    /// Files.
    Files(Vec<Input>),
}

/// What the reading has to know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) defaults: Defaults,
    /// All jobs must be of one batch.
    pub(super) one_batch: bool,
    /// What was found out about the images.
    pub(super) images: Option<(Arc<Checker>, Verdicts)>,
    pub(super) complaints: Complaints,
    pub(super) bar: ProgressBar,
}

/// What the reading came to.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) jobs: u64,
    pub(super) bad: u64,
    pub(super) tally: Tally,
    /// The batch of all jobs, if it is one.
    pub(super) batch: Batch,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Batch {
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

/// What the reader hands to the writer.
pub(super) enum Handed {
    Jobs(Vec<JobSpec>),
    /// A line was bad: nothing will be inserted.
    Bad,
}

/// One entry of an input.
pub(super) enum Found<'a> {
    Good(Option<Place<'a>>, JobSpec),
    Bad(Place<'a>, Vec<FieldFault>),
}

/// Where in the files an entry stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
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

/// A job that was left out, because another one of the input has its key and comes first.
#[derive(Debug)]
pub(super) struct Repeat {
    pub(super) key: String,
    /// Where it stands.
    pub(super) place: String,
    /// Where the one before it stands.
    pub(super) first: String,
}

impl Plan {
    /// Calls `found` for every entry, until it says false.
    pub(super) fn each(
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
    pub(super) fn read(&self, sender: mpsc::Sender<Handed>) -> Result<Reading, Failure> {
        let mut reading = Reading::default();
        let mut portion = Portion::default();
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
                        let Some(full) = portion.push(spec) else {
                            return true;
                        };
                        // Nobody takes it any more: the insertion has failed.
                        return sender.blocking_send(Handed::Jobs(full)).is_ok();
                    }
                }
            };
            if reading.bad == 0 {
                let _ = sender.blocking_send(Handed::Bad);
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
        if reading.bad == 0 {
            let _ = sender.blocking_send(Handed::Jobs(portion.take()));
        }
        Ok(reading)
    }

    /// The first repeats of some keys, as far as they ask for another video.
    pub(super) fn repeats(
        &self,
        keys: &HashSet<String>,
        limit: usize,
    ) -> Result<Vec<Repeat>, Failure> {
        let mut firsts: HashMap<String, (String, JobSpec)> = HashMap::new();
        let mut repeats = Vec::new();
        self.each(ProgressBar::hidden(), |item| {
            if let Found::Good(Some(place), spec) = item
                && let Some(key) = spec.key.as_ref().filter(|key| keys.contains(*key))
            {
                match firsts.get(key) {
                    None => {
                        firsts.insert(key.clone(), (place.to_string(), spec));
                    }
                    Some((_, before)) if before.is_same_video(&spec) => {}
                    Some((first, _)) => repeats.push(Repeat {
                        key: key.clone(),
                        place: place.to_string(),
                        first: first.clone(),
                    }),
                }
            }
            repeats.len() < limit
        })?;
        Ok(repeats)
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
pub(super) struct Complaints {
    /// They are data: an object on standard output, a fault a line. `None`: lines for people.
    pub(super) json: Option<Arc<Out>>,
}

impl Complaints {
    /// Tells what is wrong with one job; without a place, with the flags.
    pub(super) fn tell(
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
    pub(super) fn end(&self) -> Result<(), Failure> {
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
