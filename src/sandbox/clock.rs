//! The sandbox's only reader of time. Everything else is told what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since the sandbox started, which never goes back, and what that is on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_unix: Duration,
}

impl Clock {
    /// A clock that starts now.
    #[allow(
        clippy::disallowed_methods,
        reason = "the sandbox is a world of its own, with its own time"
    )]
    pub fn start() -> Self {
        let start_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            start_unix,
        }
    }

    /// The time since the start.
    #[allow(
        clippy::disallowed_methods,
        reason = "the sandbox is a world of its own, with its own time"
    )]
    pub fn now(&self) -> Duration {
        Instant::now().duration_since(self.start)
    }

    /// The start in Unix milliseconds.
    pub const fn start_unix_ms(&self) -> u64 {
        self.start_unix.as_millis() as u64
    }
}
