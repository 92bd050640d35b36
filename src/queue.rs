//! The queue for Rust programs that put jobs into it and wait for them.
//!
//! A [`Queue`] is a producer like any other: a `reelq run` on the same database
//! notices what it adds at once, and nothing is submitted without one.
//!
//! ```
//! use reelq::job::{JobSpec, Size, State};
//! use reelq::Queue;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("reelq.db");
//! let queue = Queue::open(&path).await?;
//! let mut spec = JobSpec::new("A harbour at dawn, slow push-in", "https://example.com/harbour.png");
//! spec.key = Some("harbour-1".to_owned());
//! spec.size = Size::P1080;
//! let id = queue.add(&spec).await?;
//!
//! // The key makes a repeat harmless: it is the same job.
//! assert_eq!(queue.add(&spec).await?, id);
//! let job = queue.get(id).await?.ok_or("it was pruned")?;
//! assert_eq!((job.state, job.spec.duration), (State::Pending, 6));
//! # queue.close().await;
//! # Ok(())
//! # }
//! ```

use std::path::Path;
use std::time::Duration;

use crate::job::{FieldFault, Job, JobId, JobSpec};
use crate::store::{Added, Open, Store, StoreError};

/// How often a wait looks at the table.
const LOOK: Duration = Duration::from_millis(250);

/// Why the queue did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A job breaks a rule; none was added.
    #[error("job {index}: {}", list(.faults))]
    Rule {
        /// Which one, from 0.
        index: usize,
        /// Every rule that it breaks.
        faults: Vec<FieldFault>,
    },
    /// There is no such job (any more).
    #[error("there is no job {0}")]
    Missing(JobId),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn list(faults: &[FieldFault]) -> String {
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// A queue on disk, as a producer sees it.
pub struct Queue {
    store: Store,
}

impl Queue {
    /// Opens a queue, and makes it if it is not there.
    ///
    /// # Errors
    /// The file is foreign, unreadable, read-only, or of a newer reelq.
    pub async fn open(path: impl AsRef<Path>) -> Result<Queue, QueueError> {
        let store = Store::open(path.as_ref(), Open::Create).await?;
        Ok(Queue { store })
    }

    /// Adds a job and gives its number. If its key is there already, nothing is
    /// added and the number is that job's, whatever it asks for.
    ///
    /// When this returns, the job is on disk.
    ///
    /// # Errors
    /// [`QueueError::Rule`] with every rule that the job breaks, or the database's.
    pub async fn add(&self, spec: &JobSpec) -> Result<JobId, QueueError> {
        let added = self.add_many(std::slice::from_ref(spec)).await?;
        let id = added.inserted.first().or(added.existing.first());
        id.copied().ok_or(QueueError::Missing(0))
    }

    /// Adds jobs in one transaction: all of them, or none. Those whose key is
    /// there already are left out, and told apart in the answer.
    ///
    /// ```
    /// use reelq::job::JobSpec;
    /// use reelq::Queue;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("reelq.db");
    /// let queue = Queue::open(&path).await?;
    /// let mut specs: Vec<JobSpec> = (1..=3)
    ///     .map(|n| JobSpec::new("Slow push-in", format!("https://example.com/{n}.png")))
    ///     .collect();
    /// assert_eq!(queue.add_many(&specs).await?.inserted.len(), 3);
    ///
    /// specs[1].prompt = "  ".to_owned();
    /// let error = queue.add_many(&specs).await.unwrap_err();
    /// assert_eq!(error.to_string(), "job 1: prompt must not be blank and must be at most 100000 bytes");
    /// # queue.close().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`QueueError::Rule`] for the first job that breaks a rule, or the database's.
    pub async fn add_many(&self, specs: &[JobSpec]) -> Result<Added, QueueError> {
        for (index, spec) in specs.iter().enumerate() {
            let faults = spec.faults();
            if !faults.is_empty() {
                return Err(QueueError::Rule { index, faults });
            }
        }
        Ok(self.store.insert(specs).await?)
    }

    /// A job as it is now; `None` if it is not there (any more).
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, id: JobId) -> Result<Option<Job>, QueueError> {
        Ok(self.store.job(id).await?)
    }

    /// The job with a key.
    ///
    /// # Errors
    /// The database's.
    pub async fn get_by_key(&self, key: &str) -> Result<Option<Job>, QueueError> {
        match self.store.id_of_key(key).await? {
            Some(id) => self.get(id).await,
            None => Ok(None),
        }
    }

    /// Waits until a job is settled: done, failed, cancelled, or unconfirmed and
    /// so in need of a person. It waits for ever where no daemon runs; put a
    /// timeout around it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reelq::job::JobSpec;
    /// use reelq::Queue;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("reelq.db");
    /// let queue = Queue::open(&path).await?;
    /// let id = queue.add(&JobSpec::new("Slow push-in", "https://example.com/1.png")).await?;
    /// match tokio::time::timeout(Duration::from_millis(10), queue.wait(id)).await {
    ///     Ok(job) => println!("{}", job?.file.map_or("no video".to_owned(), |file| file.path)),
    ///     Err(_) => println!("not yet"),
    /// }
    /// # queue.close().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`QueueError::Missing`] if there is no such job, or the database's.
    pub async fn wait(&self, id: JobId) -> Result<Job, QueueError> {
        loop {
            let job = self.get(id).await?.ok_or(QueueError::Missing(id))?;
            if job.state.is_settled() {
                return Ok(job);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until nothing moves in a batch by itself any more, and says how
    /// many of its jobs are in which state.
    ///
    /// # Errors
    /// The database's.
    pub async fn wait_batch(&self, batch: &str) -> Result<crate::store::Counts, QueueError> {
        loop {
            let counts = self.store.counts(Some(batch)).await?;
            if counts.settled() == counts.total() {
                return Ok(counts);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Closes the database's files. Dropping the queue loses nothing either.
    pub async fn close(self) {
        self.store.close().await;
    }
}
