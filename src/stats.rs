//! What the daemon counts about itself, for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::job::{Job, Millis, SavedFile, State};
use crate::step::{LedgerLine, Transition};
use crate::verdict::PollVerdict;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counters and histograms since the start of the process.
pub struct Stats {
    registry: Registry,
    submissions: Family<Outcome, Counter>,
    polls: Family<Outcome, Counter>,
    downloaded_bytes: Counter,
    enqueue_to_submit: Histogram,
    generation: Histogram,
    download: Histogram,
}

impl Default for Stats {
    fn default() -> Stats {
        let stats = Stats {
            registry: Registry::default(),
            submissions: Family::default(),
            polls: Family::default(),
            downloaded_bytes: Counter::default(),
            enqueue_to_submit: Histogram::new([
                0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0,
            ]),
            generation: Histogram::new([
                5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 7_200.0,
            ]),
            download: Histogram::new([0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0]),
        };
        // A dashboard asks for a rate before the first of its kind.
        for outcome in ["accepted", "rejected", "not_accepted", "unknown"] {
            stats
                .submissions
                .get_or_create(&Outcome { outcome })
                .inc_by(0);
        }
        for outcome in POLL_OUTCOMES {
            stats.polls.get_or_create(&Outcome { outcome }).inc_by(0);
        }
        stats.registered()
    }
}

const POLL_OUTCOMES: [&str; 6] = [
    "running",
    "completed",
    "failed",
    "expired",
    "not_found",
    "trouble",
];

impl Stats {
    fn registered(mut self) -> Stats {
        let r = &mut self.registry;
        r.register(
            "reelq_submissions",
            "POSTs by how they ended",
            self.submissions.clone(),
        );
        r.register(
            "reelq_polls",
            "Polls by what they taught",
            self.polls.clone(),
        );
        r.register(
            "reelq_downloaded_bytes",
            "Bytes of verified videos",
            self.downloaded_bytes.clone(),
        );
        r.register(
            "reelq_enqueue_to_submit_seconds",
            "From the insert to the POST",
            self.enqueue_to_submit.clone(),
        );
        r.register(
            "reelq_generation_seconds",
            "From the POST to the finished task",
            self.generation.clone(),
        );
        r.register(
            "reelq_download_seconds",
            "From the finished task to the verified file",
            self.download.clone(),
        );
        self
    }

    /// What was counted, in the Prometheus text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// A job was taken to be submitted. What came before a second try was no wait for a turn.
    pub fn claimed(&self, job: &Job, now: Millis) {
        if job.attempt > 1 {
            return;
        }
        let due = job.created_at.max(job.spec.not_before.unwrap_or(0));
        self.enqueue_to_submit.observe(seconds(due, now));
    }

    /// A poll was answered.
    pub fn polled(&self, verdict: &PollVerdict) {
        let outcome = match verdict {
            PollVerdict::Running { .. } => "running",
            PollVerdict::Completed { .. } => "completed",
            PollVerdict::Failed { .. } => "failed",
            PollVerdict::Expired { .. } => "expired",
            PollVerdict::NotFound { .. } => "not_found",
            PollVerdict::Trouble(_) => "trouble",
        };
        self.polls.get_or_create(&Outcome { outcome }).inc();
    }

    /// A video is in place.
    pub fn saved(&self, job: &Job, file: &SavedFile, now: Millis) {
        self.downloaded_bytes.inc_by(file.bytes);
        if let Some(completed_at) = job.completed_at {
            self.download.observe(seconds(completed_at, now));
        }
    }

    /// A change of a job was committed.
    pub fn moved(&self, transition: &Transition) {
        if let Some(LedgerLine::End { outcome, .. }) = &transition.ledger {
            let outcome = outcome.as_str();
            self.submissions.get_or_create(&Outcome { outcome }).inc();
        }
        let job = &transition.job;
        if job.state == State::Downloading
            && transition.from == State::Generating
            && let (Some(from), Some(to)) = (job.submitted_at, job.completed_at)
        {
            self.generation.observe(seconds(from, to));
        }
    }
}

fn seconds(from: Millis, to: Millis) -> f64 {
    (to - from).max(0) as f64 / 1_000.0
}
