//! The tasks that were accepted, how far each is, and the bill. Pure: it is told the time.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde::Serialize;

use super::Options;
use super::check::Refusal;
use super::dice::{Dice, Fate};
use super::order::{Micros, Order, Prices};

/// Why a task failed: `error.code` and `error.message`.
type Failure = (&'static str, &'static str);

const FAILURES: [Failure; 3] = [
    (
        "content_policy_violation",
        "The generated video was blocked by content moderation.",
    ),
    (
        "image_fetch_failed",
        "The input image could not be fetched.",
    ),
    (
        "generation_failed",
        "The upstream service could not generate the video.",
    ),
];

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for its turn.
    Queued,
    /// Being made; percent done, 0..=99.
    InProgress(u8),
    /// The video is there.
    Completed,
    /// There will be no video: code and message.
    Failed(&'static str, &'static str),
}

impl Stage {
    /// The word of the API.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress(_) => "in_progress",
            Self::Completed => "completed",
            Self::Failed(..) => "failed",
        }
    }

    /// Whether nothing more will happen.
    pub const fn settled(self) -> bool {
        matches!(self, Self::Completed | Self::Failed(..))
    }
}

/// A task that was accepted.
#[derive(Clone, Debug)]
pub struct Task {
    /// Counts the accepted tasks from 1.
    pub number: u64,
    /// The id the client knows it by.
    pub id: String,
    /// What was ordered.
    pub order: Order,
    /// Unix milliseconds.
    pub accepted_at: u64,
    accepted: Duration,
    takes: Duration,
    failure: Option<Failure>,
    idempotency_key: Option<String>,
    answer_lost: bool,
    polls: u64,
    downloads: u64,
    cost: Micros,
}

impl Task {
    /// How far the task is at `now`.
    pub fn stage(&self, now: Duration) -> Stage {
        let age = now.saturating_sub(self.accepted);
        let wait = self.takes / 10;
        match self.failure {
            _ if age < wait => Stage::Queued,
            _ if age < self.takes => {
                let share = (age - wait).as_secs_f64() / (self.takes - wait).as_secs_f64();
                Stage::InProgress((share * 100.0).min(99.0) as u8)
            }
            Some((code, message)) => Stage::Failed(code, message),
            None => Stage::Completed,
        }
    }
}

/// What the sandbox accepted, refused and served: counted exactly, and what a provider would
/// charge for it. A failed task stays charged, as it does with some providers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bill {
    /// Create requests that were accepted, those with a lost answer among them.
    pub accepted: u64,
    /// Create requests that were refused, whatever the reason.
    pub refused: u64,
    /// The refused ones by HTTP status.
    pub refused_by_status: BTreeMap<u16, u64>,
    /// Accepted requests whose answer was lost on purpose.
    pub answers_lost: u64,
    /// Status requests for tasks that exist, those answered with an error on purpose among them.
    pub polls: u64,
    /// Downloads that were begun: answers 200 and 206 to a GET, whole or cut.
    pub downloads: u64,
    /// The price of all accepted tasks, for people; `cost_micros` is exact.
    pub cost: f64,
    /// The price of all accepted tasks in millionths of the currency.
    pub cost_micros: u64,
    /// Accepted tasks that no longer fit into memory; they are counted above, not listed below.
    pub forgotten: u64,
    /// The accepted tasks in the order of acceptance.
    pub tasks: Vec<BilledTask>,
}

/// One accepted task on a [`Bill`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BilledTask {
    /// The task id.
    pub id: String,
    /// The prompt as it came.
    pub prompt: String,
    /// The image, whichever of the two names it came under.
    pub image_url: String,
    /// Seconds.
    pub duration: u32,
    /// `480p`, `720p` or `1080p`.
    pub size: &'static str,
    /// `queued`, `in_progress`, `completed` or `failed`, at the time of the bill.
    pub status: &'static str,
    /// Unix milliseconds.
    pub accepted_at: u64,
    /// The request's `Idempotency-Key`. It is only noted: as with the real provider, a second
    /// request with the same key is a second task.
    pub idempotency_key: Option<String>,
    /// Whether the client was left without an answer.
    pub answer_lost: bool,
    /// Status requests for this task.
    pub polls: u64,
    /// Downloads of this task's video that were begun.
    pub downloads: u64,
    /// The price in millionths of the currency.
    pub cost_micros: u64,
}

/// The tasks by number, within a bound; and the counts, without one.
pub struct Book {
    dice: Dice,
    generation_time: Duration,
    fail_rate: f64,
    prices: Prices,
    max_tasks: usize,
    start_unix_ms: u64,
    ids: HashMap<String, u64>,
    tasks: BTreeMap<u64, Task>,
    /// Makes ids that no other run of the sandbox makes, so that old ids in a client's database
    /// never name a new task.
    id_secret: RandomState,
    posts: u64,
    accepted: u64,
    refused_by_status: BTreeMap<u16, u64>,
    answers_lost: u64,
    polls: u64,
    downloads: u64,
    cost: Micros,
}

impl Book {
    /// An empty book of a sandbox that started at this Unix time.
    pub fn new(options: &Options, dice: Dice, start_unix_ms: u64) -> Self {
        Self {
            dice,
            generation_time: options.generation_time,
            fail_rate: options.fail_rate,
            prices: options.prices,
            max_tasks: options.max_tasks,
            start_unix_ms,
            ids: HashMap::new(),
            tasks: BTreeMap::new(),
            id_secret: RandomState::new(),
            posts: 0,
            accepted: 0,
            refused_by_status: BTreeMap::new(),
            answers_lost: 0,
            polls: 0,
            downloads: 0,
            cost: Micros::default(),
        }
    }

    /// Counts a create request and returns its number, from 1.
    pub fn post(&mut self) -> u64 {
        self.posts += 1;
        self.posts
    }

    /// Notes that a create request was refused.
    pub fn refuse(&mut self, status: u16) {
        *self.refused_by_status.entry(status).or_default() += 1;
    }

    /// Accepts an order and charges for it.
    ///
    /// # Errors
    /// 429 when all tasks that fit into memory are still running.
    pub fn accept(
        &mut self,
        order: Order,
        idempotency_key: Option<String>,
        answer_lost: bool,
        now: Duration,
    ) -> Result<&Task, Refusal> {
        self.make_room(now)?;
        self.accepted += 1;
        self.answers_lost += u64::from(answer_lost);
        let number = self.accepted;
        let cost = self.prices.of(&order);
        self.cost.0 = self.cost.0.saturating_add(cost.0);
        // Within a fifth of the set time.
        let spread = 0.8 + 0.4 * self.dice.roll(Fate::Spread, number, 0);
        let fails = self.dice.hits(self.fail_rate, Fate::TaskFails, number, 0);
        let task = Task {
            number,
            id: format!(
                "task_{:016x}{:016x}",
                self.id_secret.hash_one((number, 0)),
                self.id_secret.hash_one((number, 1))
            ),
            order,
            accepted_at: self.start_unix_ms + now.as_millis() as u64,
            accepted: now,
            takes: self.generation_time.mul_f64(spread),
            failure: fails.then(|| *self.dice.pick(&FAILURES, number, 0)),
            idempotency_key,
            answer_lost,
            polls: 0,
            downloads: 0,
            cost,
        };
        self.ids.insert(task.id.clone(), number);
        Ok(self.tasks.entry(number).or_insert(task))
    }

    /// Forgets the oldest settled task when there is no room for another.
    fn make_room(&mut self, now: Duration) -> Result<(), Refusal> {
        if self.tasks.len() < self.max_tasks {
            return Ok(());
        }
        let oldest = self
            .tasks
            .values()
            .find(|task| task.stage(now).settled())
            .map(|task| task.number);
        let Some(task) = oldest.and_then(|number| self.tasks.remove(&number)) else {
            let message = format!(
                "The sandbox holds {} tasks and all are running; try again later.",
                self.max_tasks
            );
            return Err(Refusal::gateway(429, "too_many_tasks", message));
        };
        self.ids.remove(&task.id);
        Ok(())
    }

    /// The task with this id.
    pub fn find(&self, id: &str) -> Option<&Task> {
        self.by_number(*self.ids.get(id)?)
    }

    /// The task with this number.
    pub fn by_number(&self, number: u64) -> Option<&Task> {
        self.tasks.get(&number)
    }

    /// Counts a status request for the task with this id; returns the task and how many times it
    /// was asked for, this time included.
    pub fn poll(&mut self, id: &str) -> Option<(&Task, u64)> {
        let task = self.tasks.get_mut(self.ids.get(id)?)?;
        self.polls += 1;
        task.polls += 1;
        Some((task, task.polls))
    }

    /// Counts a download of the task with this number; returns how many there were, this one
    /// included.
    pub fn download(&mut self, number: u64) -> u64 {
        self.downloads += 1;
        self.tasks.get_mut(&number).map_or(0, |task| {
            task.downloads += 1;
            task.downloads
        })
    }

    /// Everything counted so far.
    pub fn bill(&self, now: Duration) -> Bill {
        let billed = |task: &Task| BilledTask {
            id: task.id.clone(),
            prompt: task.order.prompt.clone(),
            image_url: task.order.image_url.clone(),
            duration: task.order.duration,
            size: task.order.size.as_str(),
            status: task.stage(now).status(),
            accepted_at: task.accepted_at,
            idempotency_key: task.idempotency_key.clone(),
            answer_lost: task.answer_lost,
            polls: task.polls,
            downloads: task.downloads,
            cost_micros: task.cost.0,
        };
        Bill {
            accepted: self.accepted,
            refused: self.refused_by_status.values().sum(),
            refused_by_status: self.refused_by_status.clone(),
            answers_lost: self.answers_lost,
            polls: self.polls,
            downloads: self.downloads,
            cost: self.cost.0 as f64 / 1e6,
            cost_micros: self.cost.0,
            forgotten: self.accepted - self.tasks.len() as u64,
            tasks: self.tasks.values().map(billed).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::Size;
    use super::*;

    fn order(prompt: &str) -> Order {
        Order {
            prompt: prompt.into(),
            image_url: "https://example.com/a.jpg".into(),
            duration: 6,
            size: Size::P720,
        }
    }

    fn book(options: Options) -> Book {
        Book::new(&options, Dice::new(1), 1_782_400_000_000)
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_task_is_queued_then_made_then_there() {
        let mut book = book(Options {
            generation_time: at(100),
            ..Options::default()
        });
        let task = book.accept(order("a"), None, false, at(1000)).unwrap();
        assert_eq!(task.accepted_at, 1_782_401_000_000);
        let stages: Vec<Stage> = (0..=120).map(|age| task.stage(at(1000 + age))).collect();
        assert_eq!((stages[0], stages[120]), (Stage::Queued, Stage::Completed));
        let rank = |stage: &Stage| match stage {
            Stage::Queued => 0,
            Stage::InProgress(percent) => 1 + u32::from(*percent),
            Stage::Completed | Stage::Failed(..) => 101,
        };
        assert!(stages.is_sorted_by_key(rank), "{stages:?}");
        let progress = stages
            .iter()
            .filter(|stage| matches!(stage, Stage::InProgress(..=99)))
            .count();
        assert!((70..=110).contains(&progress), "{progress}");
    }

    #[test]
    fn a_share_of_tasks_fails_the_same_in_every_run() {
        let outcomes = || -> Vec<Stage> {
            let mut book = book(Options {
                fail_rate: 0.3,
                ..Options::default()
            });
            (0..1000)
                .map(|_| {
                    book.accept(order("a"), None, false, at(0))
                        .unwrap()
                        .stage(at(60))
                })
                .collect()
        };
        let failed = outcomes()
            .iter()
            .filter(|stage| matches!(stage, Stage::Failed(..)))
            .count();
        assert!((250..350).contains(&failed), "{failed}");
        assert_eq!(outcomes(), outcomes());
    }

    #[test]
    fn the_bill_counts_exactly_and_in_order() {
        let mut book = book(Options::default());
        let first = book
            .accept(order("a"), Some("key-1".into()), false, at(0))
            .unwrap()
            .id
            .clone();
        let second = book
            .accept(
                Order {
                    size: Size::P480,
                    ..order("b")
                },
                None,
                true,
                at(1),
            )
            .unwrap()
            .id
            .clone();
        for status in [400, 429, 400] {
            book.refuse(status);
        }
        assert!(
            book.poll(&first).is_some()
                && book.poll(&first).is_some()
                && book.poll("task_other").is_none()
        );
        assert_eq!((book.download(2), book.download(2)), (1, 2));

        let bill = book.bill(at(60));
        assert_eq!((bill.accepted, bill.refused, bill.answers_lost), (2, 3, 1));
        assert_eq!((bill.polls, bill.downloads, bill.forgotten), (2, 2, 0));
        assert_eq!(bill.refused_by_status, BTreeMap::from([(400, 2), (429, 1)]));
        assert_eq!((bill.cost_micros, bill.cost), (840_000 + 480_000, 1.32));
        let lines: Vec<_> = bill
            .tasks
            .iter()
            .map(|task| {
                (
                    &*task.id,
                    &*task.prompt,
                    task.idempotency_key.as_deref(),
                    task.answer_lost,
                    task.polls,
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                (&*first, "a", Some("key-1"), false, 2),
                (&*second, "b", None, true, 0)
            ]
        );
    }

    #[test]
    fn the_oldest_settled_task_is_forgotten_but_stays_counted() {
        let mut book = book(Options {
            max_tasks: 2,
            generation_time: at(10),
            ..Options::default()
        });
        let first = book
            .accept(order("a"), None, false, at(0))
            .unwrap()
            .id
            .clone();
        book.accept(order("b"), None, false, at(0)).unwrap();
        let refusal = book.accept(order("c"), None, false, at(1)).unwrap_err();
        assert_eq!((refusal.status, book.accepted), (429, 2));
        book.accept(order("c"), None, false, at(60)).unwrap();
        let bill = book.bill(at(60));
        assert_eq!(
            (bill.accepted, bill.forgotten, bill.cost_micros),
            (3, 1, 3 * 840_000)
        );
        let prompts: Vec<&str> = bill.tasks.iter().map(|task| &*task.prompt).collect();
        assert_eq!(prompts, ["b", "c"]);
        assert!(book.find(&first).is_none());
        assert_eq!(book.ids.len(), book.tasks.len());
    }

    #[test]
    fn ids_are_new_in_every_run() {
        let id = || {
            book(Options::default())
                .accept(order("a"), None, false, at(0))
                .unwrap()
                .id
                .clone()
        };
        assert_ne!(id(), id());
        assert_eq!(id().len(), "task_".len() + 32);
    }
}
