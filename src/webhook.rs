//! Webhooks: tells one URL when a job settles and when a batch comes to rest.
//!
//! The history is the source: a message is written to the outbox from an event
//! that is on disk, in one transaction with the cursor behind it, so a crash
//! loses none. Each is POSTed until a 2xx takes it, for three days; so the other
//! side may see one twice, and tells by `webhook-id`. Messages are signed by the
//! Standard Webhooks specification.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{Client, StatusCode, header, redirect};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::Sha256;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use crate::clock::Clock;
use crate::job::{FailureCode, Millis};
use crate::store::{Absorbed, Message, Store, StoreError};
use crate::view;

const SECOND: Millis = 1_000;
const HOUR: Millis = 3_600 * SECOND;

/// A message that is not taken for so long is given up.
pub const KEPT: Millis = 72 * HOUR;

/// Messages on the wire at once.
const AT_ONCE: usize = 8;

/// For the whole answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often the history is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a stop goes on trying to tell what settled last.
const LAST_TRIES: Duration = Duration::from_millis(2_500);

/// Events in one transaction of the outbox.
const PORTION: u32 = 200;

/// The pause after a first failure; it doubles up to [`HOUR`].
const FIRST_PAUSE: Millis = 5 * SECOND;

/// Failures in a row, of whatever message, from which on one at a time is tried.
const FAILURES: u32 = 5;

/// The longest pause between two such trials.
const LONGEST_TRIAL_PAUSE: Millis = 60 * SECOND;

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

/// Signs messages by the Standard Webhooks specification.
pub struct Signer(Zeroizing<Vec<u8>>);

impl Signer {
    /// Reads a secret: `whsec_` and base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// [`WebhookError::Secret`], without a word of the secret.
    pub fn new(secret: &SecretString) -> Result<Signer, WebhookError> {
        let text = secret.expose_secret();
        let text = text.strip_prefix("whsec_").ok_or(WebhookError::Secret)?;
        let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| WebhookError::Secret)?);
        if !(24..=64).contains(&bytes.len()) {
            return Err(WebhookError::Secret);
        }
        Ok(Signer(bytes))
    }

    /// The `webhook-signature` of a message: `v1,` and base64 of the HMAC-SHA256
    /// over its id, its time in seconds and its payload.
    pub fn sign(&self, id: &str, seconds: i64, payload: &str) -> String {
        // A key of any length is fine for HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(payload.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The sender. Runs as a task of its own; nothing waits for it.
pub struct Webhooks {
    store: Arc<Store>,
    clock: Arc<Clock>,
    post: Arc<Post>,
    line: Line,
    in_hand: HashSet<i64>,
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
        store.open_outbox(clock.now()).await?;
        let queue = store.queue_id().to_owned();
        Ok(Webhooks {
            store,
            clock,
            post: Arc::new(Post {
                client,
                url,
                signer,
                queue,
            }),
            line: Line::default(),
            in_hand: HashSet::new(),
            seen: 0,
        })
    }

    /// Writes and sends until `stop` ends, and then what settled last, within two
    /// seconds and a half. What is on the wire after that is sent again after the
    /// next start.
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
                Some(Ok((message, end))) = sending.join_next() => {
                    self.in_hand.remove(&message.id);
                    if let Err(error) = self.settle(&message, end).await {
                        tracing::warn!(%error, message = message.id, "a webhook may be sent again");
                        tokio::time::sleep(LOOK).await;
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Writes what settled and sends what is due.
    async fn turn(&mut self, sending: &mut JoinSet<(Message, End)>) -> Result<(), StoreError> {
        loop {
            let now = self.clock.now();
            let (seen, more) = self.store.absorb(self.seen, PORTION, now, tell).await?;
            self.seen = seen;
            if !more {
                break;
            }
        }
        let now = self.clock.now();
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
        for message in self.store.due_messages(now, room as u32, &in_hand).await? {
            self.in_hand.insert(message.id);
            let post = Arc::clone(&self.post);
            sending.spawn(async move {
                let end = post.send(&message, now).await;
                (message, end)
            });
        }
        Ok(())
    }

    async fn settle(&mut self, message: &Message, end: End) -> Result<(), StoreError> {
        let now = self.clock.now();
        let (id, kind, subject) = (message.id, &message.kind, &message.subject);
        match end {
            End::Taken => {
                self.line.taken();
                tracing::debug!(message = id, kind, subject, "webhook taken");
                self.store.drop_message(id).await
            }
            End::Failed { reason, pause } => {
                if self.line.failed(now, pause) {
                    tracing::warn!(reason, "webhooks are not taken; trying one at a time");
                }
                if now - message.created_at >= KEPT {
                    tracing::error!(
                        message = id,
                        kind,
                        subject,
                        reason,
                        "a webhook is given up after three days"
                    );
                    return self.store.drop_message(id).await;
                }
                tracing::debug!(message = id, kind, subject, reason, "webhook not taken");
                let due_at = now + backoff(id, message.attempts).max(pause.unwrap_or(0));
                self.store.put_off_message(id, due_at, &reason).await
            }
        }
    }
}

/// The type and the payload of a message.
fn tell(what: Absorbed<'_>) -> (&'static str, String) {
    let (kind, event, data) = match what {
        Absorbed::Job(job, event) => {
            let kind = match event.state.as_str() {
                "done" => "job.done",
                "failed" => "job.failed",
                "cancelled" => "job.cancelled",
                _ => "job.unconfirmed",
            };
            let data = json!({
                "event_id": event.id,
                "state": event.state,
                "detail": event.detail,
                "job": view::job(job),
            });
            (kind, event, data)
        }
        Absorbed::Unreadable(event) => {
            let job = json!({
                "id": event.job_id,
                "state": "failed",
                "error_code": FailureCode::CorruptRow.as_str(),
                "error_message": event.detail,
            });
            let data = json!({
                "event_id": event.id,
                "state": event.state,
                "detail": event.detail,
                "job": job,
            });
            ("job.failed", event, data)
        }
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
            ("batch.completed", event, data)
        }
    };
    let at = Timestamp::from_millisecond(event.at).unwrap_or(Timestamp::UNIX_EPOCH);
    let payload = json!({ "type": kind, "timestamp": at.to_string(), "data": data });
    (kind, payload.to_string())
}

/// How a try ended.
enum End {
    Taken,
    Failed {
        reason: String,
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
                let pause = None;
                return End::Failed { reason, pause };
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
            pause,
        }
    }
}

/// `Retry-After` in seconds, at most an hour.
fn retry_after(headers: &header::HeaderMap) -> Option<Millis> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: Millis = text.trim().parse().ok()?;
    Some((seconds.max(0).saturating_mul(SECOND)).min(HOUR))
}

/// 5 s, 10 s, 20 s … 1 h, spread by up to an eighth.
fn backoff(id: i64, attempts: u32) -> Millis {
    let pause = (FIRST_PAUSE << attempts.min(10)).min(HOUR * 8 / 9);
    pause + (id.wrapping_mul(7_919) ^ i64::from(attempts)).rem_euclid(pause / 8)
}

/// The way to the receiver: while it is down, one message at a time is tried
/// with growing pauses, and no message pays for another's trials.
#[derive(Debug, Default)]
struct Line {
    failures: u32,
    until: Millis,
}

impl Line {
    fn is_closed(&self) -> bool {
        self.failures >= FAILURES
    }

    /// How many messages may go now.
    fn room(&self, now: Millis, in_hand: usize) -> usize {
        if !self.is_closed() && now >= self.until {
            AT_ONCE.saturating_sub(in_hand)
        } else if now >= self.until {
            usize::from(in_hand == 0)
        } else {
            0
        }
    }

    fn taken(&mut self) {
        *self = Line::default();
    }

    /// True when this failure closed it.
    fn failed(&mut self, now: Millis, pause: Option<Millis>) -> bool {
        self.failures = self.failures.saturating_add(1);
        if let Some(pause) = pause {
            self.until = self.until.max(now + pause);
        }
        if self.is_closed() {
            let doubled = SECOND << (self.failures - FAILURES).min(6);
            self.until = self.until.max(now + doubled.min(LONGEST_TRIAL_PAUSE));
        }
        self.failures == FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the specification's own libraries.
    #[test]
    fn a_message_is_signed_as_the_specification_says() {
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signer = Signer::new(&secret).unwrap();
        assert_eq!(
            signer.sign(
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_bad_secret_is_refused_and_not_shown() {
        for bad in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!!!!",
            "whsec_c2hvcnQ=",
        ] {
            let error = Signer::new(&SecretString::from(bad))
                .map(|_| ())
                .unwrap_err();
            assert!(!error.to_string().contains("c2hvcnQ"), "{error}");
        }
    }

    #[test]
    fn pauses_grow_to_an_hour_and_no_further() {
        let mut last = 0;
        for attempts in 0..100 {
            let pause = backoff(17, attempts);
            assert!((FIRST_PAUSE..=HOUR).contains(&pause), "{pause}");
            assert!(attempts > 9 || pause > last);
            last = pause;
        }
    }

    #[test]
    fn a_dead_receiver_is_tried_once_at_a_time() {
        let mut line = Line::default();
        for _ in 0..FAILURES {
            line.failed(0, None);
        }
        assert_eq!(line.room(0, 0), 0);
        assert_eq!(line.room(LONGEST_TRIAL_PAUSE, 0), 1);
        assert_eq!(line.room(LONGEST_TRIAL_PAUSE, 1), 0);
        line.taken();
        assert_eq!(line.room(0, 0), AT_ONCE);
    }
}
