//! Webhooks: tells one URL when a job settles and when a batch comes to rest.
//!
//! The history is the source: a message is written to the outbox from an event
//! that is on disk, in one transaction with the cursor behind it, so a crash
//! loses none. Each is POSTed until a 2xx takes it, for three days; so the other
//! side may see one twice, and tells by `webhook-id`. Messages are signed by the
//! Standard Webhooks specification.

mod line;
mod sign;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Client, StatusCode, header, redirect};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use crate::clock::{Clock, JumpWatch};
use crate::job::{FailureCode, Millis};
use crate::store::{Absorbed, Event, Message, Store, StoreError};
use crate::view::JobView;
use line::{Line, backoff};
pub use sign::Signer;

const SECOND: Millis = 1_000;
const HOUR: Millis = 3_600 * SECOND;

/// A message that is not taken for so long is given up.
pub const KEPT: Millis = 72 * HOUR;

/// For the whole answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often the history is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a stop goes on trying to tell what settled last.
pub const LAST_TRIES: Duration = Duration::from_millis(2_500);

/// Events in one transaction of the outbox.
const PORTION: u32 = 200;

/// Why webhooks cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The signing secret is not one.
    #[error(
        "webhook.secret_file: the secret must be \"whsec_\" and base64 of 24 to 64 bytes; \
         `echo whsec_$(openssl rand -base64 32)` makes one"
    )]
    Secret,
    /// The HTTP client could not be made.
    #[error("webhook: {0}")]
    Client(reqwest::Error),
    /// The outbox could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The sender. Runs as a task of its own; nothing waits for it.
pub struct Webhooks {
    store: Arc<Store>,
    clock: Arc<Clock>,
    jumps: JumpWatch,
    post: Arc<Post>,
    line: Line,
    in_hand: HashSet<i64>,
    /// Messages that the log calls not taken.
    untaken: HashSet<i64>,
    /// Up to this event nothing is left to be written.
    seen: i64,
}

/// Writes no messages from now on: `webhook.url` is empty.
///
/// # Errors
/// The store's.
pub async fn off(store: &Store) -> Result<(), StoreError> {
    store.close_outbox().await
}

impl Webhooks {
    /// Starts to write messages: from now on the first time, later from where it
    /// was left off, so that what settled while reelq stood still is told, too.
    ///
    /// # Errors
    /// A bad secret, or the store's.
    pub async fn new(
        store: Arc<Store>,
        clock: Arc<Clock>,
        url: Url,
        secret: Option<&SecretString>,
    ) -> Result<Webhooks, WebhookError> {
        let signer = secret.map(Signer::new).transpose()?;
        // Fails only if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("reelq/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(WebhookError::Client)?;
        let now = clock.now();
        store.open_outbox(now, now + HOUR).await?;
        let queue = store.queue_id().to_owned();
        Ok(Webhooks {
            store,
            jumps: JumpWatch::new(&clock),
            clock,
            post: Arc::new(Post {
                client,
                url,
                signer,
                queue,
            }),
            line: Line::default(),
            in_hand: HashSet::new(),
            untaken: HashSet::new(),
            seen: 0,
        })
    }

    /// Writes and sends until `stop` ends, and then what settled last, within
    /// [`LAST_TRIES`]. What is on the wire after that is sent again after the next
    /// start.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut deadline = None;
        let mut sending = JoinSet::new();
        let mut troubled = false;
        loop {
            match self.turn(&mut sending).await {
                Ok(()) => troubled = false,
                // The daemon's own commits fail as well, and say so.
                Err(error) if troubled => tracing::debug!(%error, "the outbox waits"),
                Err(error) => {
                    troubled = true;
                    tracing::warn!(%error, "the outbox waits");
                }
            }
            if deadline.is_some_and(|at| sending.is_empty() || Instant::now() >= at) {
                return;
            }
            tokio::select! {
                () = &mut stop, if deadline.is_none() => {
                    deadline = Some(Instant::now() + LAST_TRIES);
                }
                Some(Ok((message, sent_at, end))) = sending.join_next() => {
                    self.in_hand.remove(&message.id);
                    let age = sent_at - message.created_at;
                    if let Err(error) = self.settle(&message, age, end).await {
                        tracing::warn!(%error, message = message.id, "a webhook may be sent again");
                        tokio::time::sleep(LOOK).await;
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Writes what settled and sends what is due.
    async fn turn(
        &mut self,
        sending: &mut JoinSet<(Message, Millis, End)>,
    ) -> Result<(), StoreError> {
        loop {
            let now = self.follow_clock().await?;
            let (seen, more) = self.store.absorb(self.seen, PORTION, now, tell).await?;
            self.seen = seen;
            if !more {
                break;
            }
        }
        let now = self.follow_clock().await?;
        let room = self.line.room(now, self.in_hand.len());
        if room == 0 {
            return Ok(());
        }
        if self.line.is_closed() {
            let dropped = self.store.drop_messages_before(now - KEPT).await?;
            if dropped > 0 {
                tracing::error!(
                    dropped,
                    "webhooks were not taken for three days and are given up"
                );
            }
        }
        let in_hand: Vec<i64> = self.in_hand.iter().copied().collect();
        // A trial by one that never failed tells most: others may have themselves to blame.
        let fresh_first = self.line.is_closed();
        let due = self
            .store
            .due_messages(now, room as u32, &in_hand, fresh_first);
        for message in due.await? {
            self.in_hand.insert(message.id);
            let post = Arc::clone(&self.post);
            sending.spawn(async move {
                let end = post.send(&message, now).await;
                (message, now, end)
            });
        }
        Ok(())
    }

    /// The time. Moves what waits along when the wall clock jumped, so that no
    /// pause becomes a day and no message is given up early.
    async fn follow_clock(&mut self) -> Result<Millis, StoreError> {
        if let Some(delta) = self.jumps.jump(&self.clock) {
            self.store.shift_outbox(delta).await?;
            self.line.shift(delta);
            self.jumps.followed(delta);
        }
        Ok(self.clock.now())
    }

    /// `age`: how long it had waited when it was sent.
    async fn settle(&mut self, message: &Message, age: Millis, end: End) -> Result<(), StoreError> {
        let now = self.follow_clock().await?;
        let (id, kind, subject) = (message.id, &message.kind, &message.subject);
        match end {
            End::Taken => {
                self.well();
                if self.untaken.remove(&id) {
                    tracing::info!(message = id, kind, subject, "the webhook is taken now");
                }
                tracing::debug!(message = id, kind, subject, "webhook taken");
                self.store.drop_message(id).await
            }
            End::Failed {
                reason,
                refused,
                pause,
            } => {
                let its_own = if refused {
                    self.well();
                    true
                } else if self.line.trouble(id, now, pause) {
                    tracing::warn!(reason, "webhooks are not taken; trying one at a time");
                    false
                } else {
                    self.line.is_one_in_trouble()
                };
                if age >= KEPT {
                    self.untaken.remove(&id);
                    tracing::error!(
                        message = id,
                        kind,
                        subject,
                        reason,
                        "a webhook is given up after three days"
                    );
                    return self.store.drop_message(id).await;
                }
                if its_own && self.untaken.insert(id) {
                    tracing::warn!(
                        message = id,
                        kind,
                        subject,
                        reason,
                        "a webhook is not taken; trying it again for three days"
                    );
                }
                tracing::debug!(message = id, kind, subject, reason, "webhook not taken");
                let due_at = now + backoff(id, message.attempts).max(pause.unwrap_or(0));
                self.store.put_off_message(id, due_at, &reason).await
            }
        }
    }

    /// The receiver took a message, or judged it: the others may go.
    fn well(&mut self) {
        if self.line.well() {
            tracing::info!("the receiver of webhooks is well again");
        }
    }
}

/// The type and the payload of a message.
fn tell(what: Absorbed<'_>) -> (&'static str, String) {
    match what {
        Absorbed::Job(job, event) => settled(event, JobView::from(job)),
        Absorbed::Unreadable(event) => settled(
            event,
            json!({
                "id": event.job_id,
                "state": event.state,
                "error_code": FailureCode::CorruptRow.as_str(),
                "error_message": event.detail,
            }),
        ),
        Absorbed::Batch(name, counts, event) => {
            let by_state: serde_json::Map<_, _> = counts
                .iter()
                .map(|(state, count)| (state.to_string(), count.into()))
                .collect();
            let data = json!({
                "event_id": event.id,
                "batch": name,
                "total": counts.total(),
                "counts": by_state,
            });
            payload("batch.completed", event, data)
        }
    }
}

/// What is told of one job.
fn settled(event: &Event, job: impl Serialize) -> (&'static str, String) {
    #[derive(Serialize)]
    struct Settled<'a, J> {
        event_id: i64,
        state: &'a str,
        detail: Option<&'a str>,
        job: J,
    }
    let kind = match event.state.as_str() {
        "done" => "job.done",
        "failed" => "job.failed",
        "cancelled" => "job.cancelled",
        _ => "job.unconfirmed",
    };
    let data = Settled {
        event_id: event.id,
        state: &event.state,
        detail: event.detail.as_deref(),
        job,
    };
    payload(kind, event, data)
}

fn payload(kind: &'static str, event: &Event, data: impl Serialize) -> (&'static str, String) {
    #[derive(Serialize)]
    struct Payload<D> {
        r#type: &'static str,
        timestamp: String,
        data: D,
    }
    let at = Timestamp::from_millisecond(event.at).unwrap_or(Timestamp::UNIX_EPOCH);
    let payload = Payload {
        r#type: kind,
        timestamp: at.to_string(),
        data,
    };
    // Texts, numbers and members: nothing of it can fail to be JSON.
    (kind, serde_json::to_string(&payload).unwrap_or_default())
}

/// How a try ended.
enum End {
    Taken,
    Failed {
        reason: String,
        /// This message is; nothing is said about others.
        refused: bool,
        /// What the receiver asks for.
        pause: Option<Millis>,
    },
}

/// What every POST needs.
struct Post {
    client: Client,
    url: Url,
    signer: Option<Signer>,
    queue: String,
}

impl Post {
    async fn send(&self, message: &Message, now: Millis) -> End {
        let id = format!("msg_{}_{}", self.queue, message.id);
        let seconds = now.div_euclid(SECOND);
        let mut request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", seconds);
        if let Some(signer) = &self.signer {
            let signature = signer.sign(&id, seconds, &message.payload);
            request = request.header("webhook-signature", signature);
        }
        let answer = match request.body(message.payload.clone()).send().await {
            Ok(answer) => answer,
            Err(error) => {
                // Without the URL: it may carry a secret of the receiver's.
                let error = error.without_url();
                let reason = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                return End::Failed {
                    reason,
                    refused: false,
                    pause: None,
                };
            }
        };
        let status = answer.status();
        if status.is_success() {
            return End::Taken;
        }
        let pause = match status {
            // "No longer wanted": a look an hour, in case it is taken back.
            StatusCode::GONE => Some(HOUR),
            _ => retry_after(answer.headers()),
        };
        End::Failed {
            reason: format!("the receiver answered {status}"),
            refused: refuses(status),
            pause,
        }
    }
}

/// True if an answer judges the message, not the state that the receiver is in.
fn refuses(status: StatusCode) -> bool {
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !later.contains(&status)
}

/// `Retry-After` in seconds, at most an hour.
fn retry_after(headers: &header::HeaderMap) -> Option<Millis> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: Millis = text.trim().parse().ok()?;
    Some((seconds.max(0).saturating_mul(SECOND)).min(HOUR))
}
