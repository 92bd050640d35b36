//! How far a batch is: a bar on a terminal, a line at each change elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use super::failure::Failure;
use super::{Context, format};
use crate::job::{Millis, State};
use crate::money::Money;
use crate::store::Counts;

/// Between two lines.
const LINE_PAUSE: Millis = 1_000;

/// Shows the progress of some jobs until they are settled.
pub struct Progress<'a> {
    context: &'a Context,
    form: Form,
    /// When the first counts were shown, on the steady clock, and how many were settled then.
    start: Option<(Millis, u64)>,
}

enum Form {
    Bar(ProgressBar),
    Lines {
        shown: Option<String>,
        shown_at: Millis,
    },
    Nothing,
}

impl<'a> Progress<'a> {
    /// In the form that suits where this process writes to.
    pub fn new(context: &'a Context) -> Progress<'a> {
        let form = if context.global.quiet > 0 || context.json() {
            Form::Nothing
        } else if io::stderr().is_terminal() && context.out.is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}\n{msg}") {
                bar.set_style(style);
            }
            Form::Bar(bar)
        } else {
            Form::Lines {
                shown: None,
                shown_at: Millis::MIN / 2,
            }
        };
        Progress {
            context,
            form,
            start: None,
        }
    }

    /// Shows these counts and costs. `held`: why nothing moves, if that is known.
    ///
    /// # Errors
    /// Standard output's.
    pub fn show(
        &mut self,
        counts: &Counts,
        cost: Money,
        held: Option<&str>,
    ) -> Result<(), Failure> {
        let now = self.context.clock.steady();
        let settled = counts.settled();
        let (since, before) = *self.start.get_or_insert((now, settled));
        match &mut self.form {
            Form::Nothing => {}
            Form::Bar(bar) => {
                bar.set_length(counts.total());
                bar.set_position(settled);
                let left = time_left(counts.total(), settled, before, now - since);
                bar.set_message(message(counts, cost, left, held));
            }
            Form::Lines { shown, shown_at } => {
                let line = line(counts, cost);
                let is_last = settled == counts.total();
                if shown.as_ref() != Some(&line) && (is_last || now - *shown_at >= LINE_PAUSE) {
                    self.context.out.line(&line)?;
                    self.context.out.flush()?;
                    *shown = Some(line);
                    *shown_at = now;
                }
            }
        }
        Ok(())
    }

    /// Writes a line above the bar.
    pub fn aside(&self, write: impl FnOnce()) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(write),
            _ => write(),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Form::Bar(bar) = self.form {
            bar.finish_and_clear();
        }
    }
}

/// How long it takes at the pace so far.
fn time_left(total: u64, settled: u64, before: u64, elapsed: Millis) -> Option<Millis> {
    let (left, done) = (total - settled, settled.saturating_sub(before));
    (done > 0 && left > 0).then(|| {
        let millis = elapsed as f64 / done as f64 * left as f64;
        millis as Millis
    })
}

/// Submitting, generating and downloading.
fn running(counts: &Counts) -> u64 {
    [State::Submitting, State::Generating, State::Downloading]
        .into_iter()
        .map(|state| counts.of(state))
        .sum()
}

fn message(counts: &Counts, cost: Money, left: Option<Millis>, held: Option<&str>) -> String {
    let mut text = format!(
        "{} done, {} running, {} waiting",
        counts.of(State::Done),
        running(counts),
        counts.of(State::Pending)
    );
    for state in [State::Failed, State::Cancelled, State::Unconfirmed] {
        if counts.of(state) > 0 {
            text.push_str(&format!(", {} {state}", counts.of(state)));
        }
    }
    if cost > Money::ZERO {
        text.push_str(&format!(", {cost} spent or reserved"));
    }
    if let Some(left) = left {
        text.push_str(&format!(", about {} left", format::span(left)));
    }
    if let Some(held) = held {
        let width = format::terminal_width();
        text.push('\n');
        text.push_str(&format::one_line(held, width));
    }
    text
}

/// For programs: every line has the same words.
fn line(counts: &Counts, cost: Money) -> String {
    format!(
        "total={} done={} running={} waiting={} failed={} cancelled={} unconfirmed={} cost={cost}",
        counts.total(),
        counts.of(State::Done),
        running(counts),
        counts.of(State::Pending),
        counts.of(State::Failed),
        counts.of(State::Cancelled),
        counts.of(State::Unconfirmed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_pace() {
        assert_eq!(time_left(10, 4, 2, 20_000), Some(60_000));
        assert_eq!(time_left(10, 2, 2, 20_000), None);
        assert_eq!(time_left(10, 10, 2, 20_000), None);
        // A retry makes fewer settled than at the start.
        assert_eq!(time_left(10, 1, 2, 20_000), None);
    }
}
