//! What `reelq add` came to, in words or as JSON.

use serde_json::json;

use super::reading::{Batch, Reading, Repeat};
use super::{Args, Cap};
use crate::budget::{Priced, Tally, total};
use crate::cli::Context;
use crate::cli::failure::Failure;
use crate::cli::format::{self, counted};
use crate::job::JobId;
use crate::money::Money;
use crate::service;
use crate::store::{Store, There};
use crate::view::{self, MAX_IDS};

/// Keys of jobs that ask for another video: so many are named.
const MAX_KEYS: usize = 10;

/// What went in and what did not.
#[derive(Debug, Default)]
pub(super) struct Added {
    pub(super) reading: Reading,
    pub(super) inserted: u64,
    pub(super) existing: u64,
    pub(super) ids: Vec<JobId>,
    pub(super) last: Option<JobId>,
    pub(super) left_out: LeftOut,
}

/// The jobs whose key was there.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    pub(super) tally: Tally,
    pub(super) ids: Vec<JobId>,
    /// How many of them repeat a key of this very input.
    pub(super) repeated: u64,
    /// The first that was in the queue before.
    pub(super) there: Option<JobId>,
    /// Keys whose job asks for another video, with that job.
    pub(super) others: Vec<(String, JobId)>,
    /// Keys that stand in the input before, for another video.
    pub(super) repeats: Vec<String>,
    pub(super) untold: u64,
}

impl LeftOut {
    /// In a rehearsal the job of a repeated key has a number that none will have.
    pub(super) fn note(&mut self, there: &There<'_>, rehearsal: bool) {
        self.tally.count(there.spec);
        if self.ids.len() < MAX_IDS && !(rehearsal && there.is_new) {
            self.ids.push(there.id);
        }
        if there.is_new {
            self.repeated += 1;
        } else {
            self.there.get_or_insert(there.id);
        }
        if there.is_same {
            return;
        }
        let key = there.spec.key.clone().unwrap_or_default();
        if self.told() == MAX_KEYS {
            self.untold += 1;
        } else if there.is_new {
            self.repeats.push(key);
        } else {
            self.others.push((key, there.id));
        }
    }

    fn told(&self) -> usize {
        self.others.len() + self.repeats.len()
    }
}

pub(super) async fn say_cap(
    batch: &str,
    cap: Cap,
    store: &Store,
    context: &Context,
) -> Result<(), Failure> {
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

pub(super) async fn report(
    added: &Added,
    repeats: &[Repeat],
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
    for Repeat { key, place, first } in repeats {
        context.warn(format_args!(
            "{place}: key {key:?} stands at {first} too, for a different video; only the first one counts"
        ));
    }
    if added.left_out.untold > 0 {
        context.warn(format_args!(
            "a different video is asked for under {}, too",
            counted(added.left_out.untold, "more key")
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
        let new_ids = if args.dry_run { &[][..] } else { &added.ids };
        let left_out = &added.left_out;
        let mut value = json!(view::Added::new(
            (added.inserted, new_ids),
            added.last.filter(|_| !args.dry_run),
            (added.existing, &left_out.ids),
            left_out.told() as u64 + left_out.untold,
        ));
        value["repeated"] = left_out.repeated.into();
        value["cost"] = json!(total(&priced).map(view::money));
        value["prices"] = priced
            .iter()
            .map(|priced| {
                json!({
                    "size": priced.size,
                    "jobs": priced.jobs,
                    "seconds": priced.seconds,
                    "cost": priced.cost.map(view::money),
                })
            })
            .collect();
        value["dry_run"] = args.dry_run.into();
        context.out.json(&value)?;
        return context.out.flush();
    }
    context.out.line(count_line(added, args.dry_run))?;
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

/// `inserted 480, already there 20; jobs 41 to 520`.
fn count_line(added: &Added, dry_run: bool) -> String {
    let Added {
        inserted, left_out, ..
    } = added;
    let mut line = match dry_run {
        true => format!("would insert {inserted}"),
        false => format!("inserted {inserted}"),
    };
    let there = added.existing - left_out.repeated;
    if there > 0 {
        line.push_str(&format!(", already there {there}"));
    }
    if let (1, Some(id)) = (there, left_out.there) {
        line.push_str(&format!(" (job {id})"));
    }
    if left_out.repeated > 0 {
        line.push_str(&format!(", repeated in the input {}", left_out.repeated));
    }
    if let (false, Some(first), Some(last)) = (dry_run, added.ids.first(), added.last) {
        line.push_str(&match (last - first + 1).unsigned_abs() {
            1 => format!("; job {first}"),
            numbers if numbers == *inserted => format!("; jobs {first} to {last}"),
            // A key that was there has used up a number.
            _ => format!("; {inserted} jobs from {first} to {last}"),
        });
    }
    line
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
