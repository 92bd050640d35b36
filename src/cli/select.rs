//! Which jobs a command means, and what it did to them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use serde_json::json;

use super::failure::{ExitStatus, Failure};
use super::{Context, output};
use crate::job::{Job, JobId, State};
use crate::step::{Illegal, Transition};
use crate::store::{Edited, Filter, Store, StoreError};

/// Jobs that are changed in one transaction: few enough that a daemon's own
/// commits never wait for long.
const PORTION: usize = 500;

/// Jobs that are named one by one in what is printed; of more, the number is told.
pub const NAMED: usize = 20;

/// A job as a person names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JobRef {
    /// By its number.
    Id(JobId),
    /// By its key: `key:NAME`.
    Key(String),
}

impl FromStr for JobRef {
    type Err = String;

    fn from_str(text: &str) -> Result<JobRef, String> {
        if let Some(key) = text.strip_prefix("key:").filter(|key| !key.is_empty()) {
            return Ok(JobRef::Key(key.to_owned()));
        }
        match text.parse() {
            Ok(id) if id > 0 => Ok(JobRef::Id(id)),
            _ => Err("a job is named by its number, such as 17, or as key:NAME".to_owned()),
        }
    }
}

impl fmt::Display for JobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobRef::Id(id) => write!(f, "{id}"),
            JobRef::Key(key) => write!(f, "key:{key}"),
        }
    }
}

/// The jobs of a command that changes them.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "jobs", required = true, multiple = true)]
pub struct Selection {
    /// Jobs, by number or as key:NAME
    #[arg(value_name = "ID", conflicts_with_all = ["batch", "state"])]
    pub ids: Vec<JobRef>,
    /// The jobs of this batch
    #[arg(long, value_name = "BATCH")]
    pub batch: Option<String>,
    /// The jobs in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<State>,
}

/// The jobs that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// Their ids, each once, in the order they were named.
    pub ids: Vec<JobId>,
    /// What named no job.
    pub missing: Vec<JobRef>,
}

/// Looks names up.
///
/// # Errors
/// The store's.
pub async fn find(store: &Store, names: &[JobRef]) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    for name in names {
        let id = match name {
            JobRef::Id(id) => Some(*id),
            JobRef::Key(key) => store.id_of_key(key).await?,
        };
        match id {
            Some(id) if seen.insert(id) => found.ids.push(id),
            Some(_) => {}
            None => found.missing.push(name.clone()),
        }
    }
    Ok(found)
}

impl Selection {
    /// The jobs that are meant. Without names and without `--state`, those of
    /// the batch that are in one of `usual`.
    ///
    /// # Errors
    /// The batch has no jobs, or the store's.
    pub async fn find(&self, store: &Store, usual: &[State]) -> Result<Found, Failure> {
        if !self.ids.is_empty() {
            return Ok(find(store, &self.ids).await?);
        }
        if let Some(batch) = &self.batch {
            known_batch(store, batch).await?;
        }
        let states: &[State] = match &self.state {
            Some(state) => std::slice::from_ref(state),
            None => usual,
        };
        let mut found = Found::default();
        for state in states {
            let filter = Filter {
                state: Some(*state),
                batch: self.batch.clone(),
                ..Filter::default()
            };
            found.ids.extend(store.list_ids(&filter).await?);
        }
        found.ids.sort_unstable();
        Ok(found)
    }
}

/// Refuses a batch that has no jobs: most often its name is misspelt.
///
/// # Errors
/// Status 1, or the store's.
pub async fn known_batch(store: &Store, batch: &str) -> Result<(), Failure> {
    if store.counts(Some(batch)).await?.total() > 0 {
        return Ok(());
    }
    let names: Vec<String> = store
        .batches()
        .await?
        .into_iter()
        .map(|batch| batch.name)
        .collect();
    let there = if names.is_empty() {
        "the queue is empty".to_owned()
    } else {
        format!("there are {}", super::format::listed(&names, 8))
    };
    Err(Failure::failed(format_args!(
        "no such batch: {batch:?}; {there}"
    )))
}

/// What a command did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The jobs that it changed, as they were and as they are.
    pub changed: Vec<Changed>,
    /// How many it left as they are.
    pub kept: u64,
    /// The jobs that do not take it.
    pub refused: Vec<Illegal>,
    /// What named no job.
    pub missing: Vec<JobRef>,
}

/// A job that was changed: what is told of it afterwards.
#[derive(Debug)]
pub struct Changed {
    /// As it was.
    pub before: Job,
    /// As it is.
    pub after: Job,
}

/// Judges each job by itself and writes what is allowed, in portions.
///
/// # Errors
/// The store's; the portions before stay written.
pub async fn edit<T: Into<Option<Transition>>>(
    store: &Store,
    found: Found,
    mut judge: impl FnMut(&Job) -> Result<T, Illegal>,
) -> Result<Outcome, StoreError> {
    let mut outcome = Outcome {
        missing: found.missing,
        ..Outcome::default()
    };
    for ids in found.ids.chunks(PORTION) {
        let mut before = HashMap::new();
        let edits = store
            .edit(ids, |job| {
                let next: Option<Transition> = judge(job)?.into();
                before.insert(job.id, job.clone());
                Ok(next)
            })
            .await?;
        for edited in edits {
            match edited {
                Edited::Changed(after) => {
                    if let Some(before) = before.remove(&after.id) {
                        let after = *after;
                        outcome.changed.push(Changed { before, after });
                    }
                }
                Edited::Kept(_) => outcome.kept += 1,
                Edited::Refused(illegal) => outcome.refused.push(illegal),
                Edited::Missing(id) => outcome.missing.push(JobRef::Id(id)),
            }
        }
    }
    Ok(outcome)
}

impl Outcome {
    /// Names on standard error what was not done.
    pub fn complain(&self) {
        for name in self.missing.iter().take(NAMED) {
            match name {
                JobRef::Id(id) => output::complain(format_args!("there is no job {id}")),
                JobRef::Key(key) => {
                    output::complain(format_args!("there is no job with the key {key:?}"));
                }
            }
        }
        for illegal in self.refused.iter().take(NAMED) {
            output::complain(refusal(illegal));
        }
        let untold =
            self.missing.len().saturating_sub(NAMED) + self.refused.len().saturating_sub(NAMED);
        if untold > 0 {
            output::complain(format_args!("and {untold} more"));
        }
    }

    /// What it was, for programs.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "changed": self.changed.iter().map(|job| job.after.id).collect::<Vec<_>>(),
            "refused": self.refused.iter().map(|illegal| json!({
                "id": illegal.id,
                "state": illegal.state,
                "reason": with_id(illegal),
            })).collect::<Vec<_>>(),
            "missing": self.missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    /// Everything that was asked for is done.
    pub fn status(&self) -> ExitStatus {
        if self.refused.is_empty() && self.missing.is_empty() {
            ExitStatus::Done
        } else {
            ExitStatus::Failed
        }
    }

    /// Prints what was done: a line for each of a few jobs, else `summary`.
    ///
    /// # Errors
    /// Standard output's.
    pub fn print(
        &self,
        context: &Context,
        line: impl Fn(&Changed) -> String,
        summary: impl FnOnce(usize) -> String,
    ) -> Result<ExitStatus, Failure> {
        if context.json() {
            context.out.json(&self.json())?;
        } else if self.changed.len() <= NAMED {
            for changed in &self.changed {
                context.out.line(line(changed))?;
            }
        } else {
            context.out.line(summary(self.changed.len()))?;
        }
        context.out.flush()?;
        self.complain();
        Ok(self.status())
    }
}

/// Why a job does not take a command, with what can be done about it.
pub fn refusal(illegal: &Illegal) -> String {
    format!(
        "job {} is {}: {}",
        illegal.id,
        illegal.state,
        with_id(illegal)
    )
}

fn with_id(illegal: &Illegal) -> String {
    illegal.reason.replace(" ID ", &format!(" {} ", illegal.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_number_or_key() {
        for (text, name) in [
            ("17", JobRef::Id(17)),
            ("key:17", JobRef::Key("17".to_owned())),
            ("key:a:b c", JobRef::Key("a:b c".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(name.clone()));
            assert_eq!(name.to_string(), text);
        }
        for bad in [
            "",
            "0",
            "-1",
            "1.5",
            "key:",
            "shot-1",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<JobRef>().is_err(), "{bad}");
        }
    }
}
