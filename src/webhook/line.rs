//! When a message is tried again. Pure.

use super::{HOUR, SECOND};
use crate::job::Millis;

/// The pause after a first failure; it doubles up to [`HOUR`].
const FIRST_PAUSE: Millis = 5 * SECOND;

/// Failures in a row, of whatever message, from which on one at a time is tried.
const FAILURES: u32 = 5;

/// The longest pause between two such trials.
const LONGEST_TRIAL_PAUSE: Millis = 60 * SECOND;

/// Messages on the wire at once.
const AT_ONCE: usize = 8;

/// 5 s, 10 s, 20 s … 1 h, spread by up to an eighth.
pub(super) fn backoff(id: i64, attempts: u32) -> Millis {
    let pause = (FIRST_PAUSE << attempts.min(10)).min(HOUR * 8 / 9);
    pause + (id.wrapping_mul(7_919) ^ i64::from(attempts)).rem_euclid(pause / 8)
}

/// The way to the receiver: while it is down, one message at a time is tried
/// with growing pauses, and no message pays for another's trials.
#[derive(Debug, Default)]
pub(super) struct Line {
    failures: u32,
    until: Millis,
}

impl Line {
    pub fn is_closed(&self) -> bool {
        self.failures >= FAILURES
    }

    /// How many messages may go now.
    pub fn room(&self, now: Millis, in_hand: usize) -> usize {
        if !self.is_closed() && now >= self.until {
            AT_ONCE.saturating_sub(in_hand)
        } else if now >= self.until {
            usize::from(in_hand == 0)
        } else {
            0
        }
    }

    /// The wall clock jumped by `delta`.
    pub fn shift(&mut self, delta: Millis) {
        self.until += delta;
    }

    pub fn taken(&mut self) {
        *self = Line::default();
    }

    /// True when this failure closed it.
    pub fn failed(&mut self, now: Millis, pause: Option<Millis>) -> bool {
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
    fn a_pause_moves_along_with_the_clock() {
        let mut line = Line::default();
        line.failed(HOUR, Some(SECOND));
        line.shift(-HOUR);
        assert_eq!((line.room(0, 0), line.room(SECOND, 0)), (0, AT_ONCE));
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
