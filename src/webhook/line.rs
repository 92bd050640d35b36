//! When a message is tried again. Pure.

use std::collections::HashSet;

use super::{HOUR, SECOND};
use crate::job::Millis;

/// The pause after a first failure; it doubles up to [`HOUR`].
const FIRST_PAUSE: Millis = 5 * SECOND;

/// Messages that meet trouble in a row, from which on one at a time is tried.
const FAILURES: usize = 5;

/// The longest pause between two such trials, unless more than one message was
/// told to stay away for longer.
const LONGEST_TRIAL_PAUSE: Millis = 60 * SECOND;

/// Messages on the wire at once.
const AT_ONCE: usize = 8;

/// 5 s, 10 s, 20 s … 1 h, spread by up to an eighth.
pub(super) fn backoff(id: i64, attempts: u32) -> Millis {
    let pause = (FIRST_PAUSE << attempts.min(10)).min(HOUR * 8 / 9);
    pause + (id.wrapping_mul(7_919) ^ i64::from(attempts)).rem_euclid(pause / 8)
}

/// The way to the receiver: while it is in trouble, one message at a time is
/// tried with growing pauses, and no message pays for another's trials. Trouble
/// that only one message meets is probably that message's own.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The messages that met trouble since the receiver was well; more than
    /// [`FAILURES`] say no more.
    troubled: HashSet<i64>,
    /// Failures since it closed, the one that closed it included; 0: it is open.
    trials: u32,
    until: Millis,
}

impl Line {
    pub fn is_closed(&self) -> bool {
        self.trials > 0
    }

    /// True if it is open, and only one message is in trouble.
    pub fn is_one_in_trouble(&self) -> bool {
        !self.is_closed() && self.troubled.len() == 1
    }

    /// How many messages may go now.
    pub fn room(&self, now: Millis, in_hand: usize) -> usize {
        if now < self.until {
            0
        } else if self.is_closed() {
            usize::from(in_hand == 0)
        } else {
            AT_ONCE.saturating_sub(in_hand)
        }
    }

    /// The wall clock jumped by `delta`.
    pub fn shift(&mut self, delta: Millis) {
        self.until += delta;
    }

    /// The receiver is well. True when this opened it.
    pub fn well(&mut self) -> bool {
        std::mem::take(self).is_closed()
    }

    /// A message met trouble; `asked` is the pause that the receiver asked for.
    /// True when this closed it.
    pub fn trouble(&mut self, id: i64, now: Millis, asked: Option<Millis>) -> bool {
        if self.troubled.len() < FAILURES {
            self.troubled.insert(id);
        }
        let was_open = !self.is_closed();
        if was_open && asked.is_none() && self.troubled.len() < FAILURES {
            return false;
        }
        let pause = (SECOND << self.trials.min(6)).min(LONGEST_TRIAL_PAUSE);
        let asked = match self.troubled.len() {
            1 => asked.map(|asked| asked.min(LONGEST_TRIAL_PAUSE)),
            _ => asked,
        };
        self.trials = self.trials.saturating_add(1);
        self.until = self.until.max(now + pause.max(asked.unwrap_or(0)));
        was_open
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
        line.trouble(1, HOUR, Some(SECOND));
        line.shift(-HOUR);
        assert_eq!((line.room(0, 0), line.room(SECOND, 0)), (0, 1));
    }

    #[test]
    fn a_dead_receiver_is_tried_once_at_a_time() {
        let mut line = Line::default();
        let closed: Vec<bool> = (1..=6).map(|id| line.trouble(id, 0, None)).collect();
        assert_eq!(closed, [false, false, false, false, true, false]);
        assert_eq!(line.room(0, 0), 0);
        assert_eq!(line.room(LONGEST_TRIAL_PAUSE, 0), 1);
        assert_eq!(line.room(LONGEST_TRIAL_PAUSE, 1), 0);
        assert!(line.well());
        assert_eq!(line.room(0, 0), AT_ONCE);
    }

    #[test]
    fn one_message_cannot_hold_the_others_for_long() {
        let mut line = Line::default();
        for _ in 0..100 {
            line.trouble(1, 0, None);
        }
        assert_eq!(line.room(0, 0), AT_ONCE);
        for _ in 0..100 {
            line.trouble(1, 0, Some(HOUR));
        }
        assert_eq!(line.room(LONGEST_TRIAL_PAUSE, 0), 1);
        // A second one is told the same: it is the receiver's wish.
        line.trouble(2, 0, Some(HOUR));
        assert_eq!(line.room(HOUR - 1, 0), 0);
    }
}
