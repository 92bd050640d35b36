//! The only reader of time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::job::Millis;

/// A jump of the wall clock by less than this is drift.
const JUMP: Millis = 5_000;

/// Where the time comes from.
#[derive(Debug)]
pub enum Clock {
    /// The machine's.
    System(Instant),
    /// A test's: stands still until it is set. What has passed, and by how much
    /// its wall time is ahead of that.
    Manual(AtomicI64, AtomicI64),
}

impl Clock {
    /// The machine's clock.
    #[allow(clippy::disallowed_methods)] // this is the room that reads it
    pub fn system() -> Clock {
        Clock::System(Instant::now())
    }

    /// A clock that shows `now` until it is moved.
    pub fn manual(now: Millis) -> Clock {
        Clock::Manual(AtomicI64::new(now), AtomicI64::new(0))
    }

    /// Unix time in milliseconds, as people and other programs see it.
    #[allow(clippy::disallowed_methods)] // this is the room that reads it
    pub fn now(&self) -> Millis {
        match self {
            Clock::System(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as Millis),
            Clock::Manual(passed, ahead) => {
                passed.load(Ordering::SeqCst) + ahead.load(Ordering::SeqCst)
            }
        }
    }

    /// Milliseconds that never jump, counted from the start.
    pub fn steady(&self) -> Millis {
        match self {
            Clock::System(start) => start.elapsed().as_millis() as Millis,
            Clock::Manual(passed, _) => passed.load(Ordering::SeqCst),
        }
    }

    /// Moves a manual clock; the machine's stays as it is.
    pub fn advance(&self, by: Millis) {
        if let Clock::Manual(passed, _) = self {
            passed.fetch_add(by, Ordering::SeqCst);
        }
    }

    /// Sets the wall time of a manual clock, as a person does: no time passes.
    pub fn set_ahead(&self, by: Millis) {
        if let Clock::Manual(_, ahead) = self {
            ahead.fetch_add(by, Ordering::SeqCst);
        }
    }
}

/// Notices when the wall clock jumps against the steady one.
#[derive(Debug)]
pub struct JumpWatch {
    offset: Millis,
}

impl JumpWatch {
    /// Starts to watch.
    pub fn new(clock: &Clock) -> JumpWatch {
        JumpWatch {
            offset: clock.now() - clock.steady(),
        }
    }

    /// By how much the wall clock has jumped since the last one that was followed, if it has.
    pub fn jump(&self, clock: &Clock) -> Option<Millis> {
        let delta = clock.now() - clock.steady() - self.offset;
        (delta.abs() >= JUMP).then_some(delta)
    }

    /// The appointments have moved along.
    pub fn followed(&mut self, delta: Millis) {
        self.offset += delta;
    }
}
