//! When each running task is asked for next. Pure, and only a hint: the row is
//! the truth, so nothing is lost with it.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::job::{JobId, Millis};

/// Poll times, by task and by time.
#[derive(Debug, Default)]
pub struct Schedule {
    queue: BTreeSet<(Millis, JobId)>,
    due: HashMap<JobId, (Millis, u32)>,
    foreign: HashSet<JobId>,
}

impl Schedule {
    /// Asks for this task at a time; what was wrong with it is forgotten.
    pub fn set(&mut self, id: JobId, at: Millis) {
        self.foreign.remove(&id);
        self.put(id, at, 0);
    }

    /// Asks again after so many polls in a row that taught nothing.
    pub fn set_faulty(&mut self, id: JobId, at: Millis, faults: u32) {
        self.put(id, at, faults);
    }

    /// Looks again whether this task's endpoint is configured.
    pub fn set_foreign(&mut self, id: JobId, at: Millis) {
        self.put(id, at, 0);
        self.foreign.insert(id);
    }

    fn put(&mut self, id: JobId, at: Millis, faults: u32) {
        if let Some((old, _)) = self.due.insert(id, (at, faults)) {
            self.queue.remove(&(old, id));
        }
        self.queue.insert((at, id));
    }

    /// Counts a poll of this job that taught nothing.
    pub fn fault(&self, id: JobId) -> u32 {
        self.due.get(&id).map_or(0, |(_, faults)| *faults) + 1
    }

    /// This job has no running task any more.
    pub fn remove(&mut self, id: JobId) {
        self.foreign.remove(&id);
        if let Some((at, _)) = self.due.remove(&id) {
            self.queue.remove(&(at, id));
        }
    }

    /// Whether the task is known.
    pub fn contains(&self, id: JobId) -> bool {
        self.due.contains_key(&id)
    }

    /// How many tasks of this endpoint run.
    pub fn own(&self) -> usize {
        self.due.len() - self.foreign.len()
    }

    /// When the first task is due.
    pub fn next(&self) -> Option<Millis> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// How many tasks belong to another endpoint.
    pub fn foreign(&self) -> usize {
        self.foreign.len()
    }

    /// The first jobs whose time has come.
    pub fn due(&self, now: Millis, limit: usize) -> Vec<JobId> {
        let due = self.queue.iter().take_while(|(at, _)| *at <= now);
        due.take(limit).map(|(_, id)| *id).collect()
    }

    /// Takes a job off the queue; it stays known until it is set again or removed.
    pub fn take(&mut self, id: JobId) {
        if let Some((at, _)) = self.due.get(&id) {
            self.queue.remove(&(*at, id));
        }
    }

    /// The wall clock jumped.
    pub fn shift(&mut self, delta: Millis) {
        for (at, _) in self.due.values_mut() {
            *at += delta;
        }
        self.queue = self
            .queue
            .iter()
            .map(|(at, id)| (at + delta, *id))
            .collect();
    }
}
