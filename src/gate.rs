//! Gates: a fault of the provider or the account holds a whole stage back, so
//! that no job pays for it. Pure: which fault closes what, for how long, and
//! what opens it again.

use serde::{Deserialize, Serialize};

use crate::job::Millis;

const SECOND: Millis = 1_000;

/// The longest pause of a gate whose fault can be looked at for free.
const LONGEST: Millis = 300 * SECOND;

/// The longest pause before a POST is risked again that may end unknown.
const LONGEST_UNKNOWN: Millis = 3_600 * SECOND;

/// The longest pause between two free requests during an outage: it costs
/// nothing to see soon that it is over.
const LONGEST_LOOK: Millis = 60 * SECOND;

/// Free requests that fail in a row until a POST is tried all the same, where
/// it cannot be charged without our knowing: `/v1/models` may not be served, or
/// not for this key.
const PATIENCE: u32 = 2;

/// The same where the POST may end unknown. Doubles with each such trial.
const PATIENCE_UNKNOWN: u32 = 6;

/// The longest `Retry-After` that is believed.
const LONGEST_RETRY_AFTER: Millis = 3_600 * SECOND;

/// The symptom of a request of which no byte left this machine.
pub const NOT_SENT: &str = "not sent";

/// Why a gate closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// 401: the key is wrong, revoked or expired.
    KeyRefused,
    /// 402, 403: no balance, or no right to the model.
    AccountRefused,
    /// 429: too many requests, or too many tasks at once.
    RateLimited,
    /// The gateway says that it has no capacity or does not serve the model.
    Busy,
    /// No connection: refused, DNS, TLS.
    Unreachable,
    /// Answers that leave open whether a POST was accepted, or none at all.
    Unclear,
}

impl Cause {
    /// What a person can do.
    pub const fn advice(self) -> &'static str {
        match self {
            Cause::KeyRefused => {
                "check provider.api_key_file; `reelq check` tries the key at no cost"
            }
            Cause::AccountRefused => "check the account's balance and its right to the model",
            Cause::RateLimited => {
                "nothing; lower submit.rate_per_minute or submit.max_in_flight if it comes often"
            }
            Cause::Busy => {
                "nothing if it passes; else ask the provider whether the key's group has the model"
            }
            Cause::Unreachable => "check the network and provider.base_url; `reelq check` looks",
            Cause::Unclear => {
                "see `reelq list --state unconfirmed`; ask the provider whether it has an outage"
            }
        }
    }

    const fn first_pause(self) -> Millis {
        match self {
            Cause::KeyRefused | Cause::AccountRefused | Cause::RateLimited => 2 * SECOND,
            Cause::Busy => 2 * SECOND,
            Cause::Unreachable => SECOND,
            // Three on the wire and a trial each at 5 and 10 s: an outage of 12 s costs five at most.
            Cause::Unclear => 5 * SECOND,
        }
    }

    const fn longest_pause(self) -> Millis {
        match self {
            Cause::Unclear => LONGEST_UNKNOWN,
            Cause::Unreachable | Cause::RateLimited => 60 * SECOND,
            _ => LONGEST,
        }
    }

    /// It costs nothing to see whether it is mended.
    const fn may_be_asked_at_once(self) -> bool {
        !matches!(self, Cause::Unclear | Cause::RateLimited)
    }

    /// A POST that is tried again may end unknown, and cost money.
    const fn is_risky(self) -> bool {
        matches!(self, Cause::Unclear | Cause::Unreachable)
    }
}

/// A fault of the provider or the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its class.
    pub cause: Cause,
    /// Tells one kind of unclear answer from another, such as `502` or `timeout`.
    pub symptom: String,
    /// What happened, in words.
    pub message: String,
    /// The pause that the provider asked for.
    pub retry_after: Option<Millis>,
}

/// A closed gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Why.
    pub cause: Cause,
    /// What happened last, in words.
    pub message: String,
    /// Since when.
    pub since: Millis,
    /// Nothing is tried before this time.
    pub until: Millis,
    /// How long that was from the last try.
    pub pause: Millis,
    /// Tries that failed since it closed, or since reelq last started.
    pub tries: u32,
    /// A free request has answered well since the last pause.
    pub probed: bool,
    /// Free requests that failed since the last POST although there was a connection.
    #[serde(default)]
    pub probes_failed: u32,
    /// POSTs that were tried since it closed although the free requests had failed.
    #[serde(default)]
    pub blind_trials: u32,
}

impl Closed {
    /// The free request has failed so often that it may be what is wrong.
    fn is_probe_useless(&self) -> bool {
        let patience = if self.cause.is_risky() {
            PATIENCE_UNKNOWN << self.blind_trials.min(16)
        } else {
            PATIENCE
        };
        self.probes_failed >= patience
    }
}

/// What a gate lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Everything.
    Open,
    /// One request that costs nothing.
    Probe,
    /// One job, to see.
    Trial,
    /// Nothing before this time.
    Wait(Millis),
}

/// The gate of one stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    closed: Option<Closed>,
    /// POSTs in a row that closed it, or kept it closed, and whose end is unclear, since something
    /// was last accepted.
    #[serde(default)]
    unclear: u32,
    /// No pause is longer; `None`: as long as the cause allows.
    #[serde(skip)]
    longest: Option<Millis>,
}

impl Gate {
    /// A gate for requests that cost nothing, whose pauses stay short.
    pub fn with_longest_pause(longest: Millis) -> Gate {
        Gate {
            longest: Some(longest),
            ..Gate::default()
        }
    }

    /// The same gate as it was left by an earlier run.
    pub fn restored(self, saved: Gate, now: Millis) -> Gate {
        let mut gate = Gate {
            longest: self.longest,
            ..saved
        };
        if let Some(closed) = &mut gate.closed {
            // The wall clock may have been set back in between.
            let pause = closed.pause.min(gate.longest.unwrap_or(Millis::MAX));
            closed.until = closed.until.min(now + pause);
            // A trial has to be earned anew: a crash may have followed the last one.
            closed.probed = false;
            closed.probes_failed = 0;
            if closed.cause.may_be_asked_at_once() {
                // People start reelq again when they have mended something.
                closed.until = now;
                closed.tries = 1;
            }
        }
        gate
    }

    /// Why it is closed, if it is.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// What may go through now.
    pub fn pass(&self, now: Millis) -> Pass {
        match &self.closed {
            None => Pass::Open,
            Some(closed) if now < closed.until => Pass::Wait(closed.until),
            // Asking would itself count against the limit.
            Some(closed) if closed.cause == Cause::RateLimited => Pass::Trial,
            Some(closed) if closed.probed || closed.is_probe_useless() => Pass::Trial,
            Some(_) => Pass::Probe,
        }
    }

    /// A fault came back. `from_trial`: it answers the one request that a closed
    /// gate let through; other late answers do not lengthen the pause.
    pub fn close(&mut self, fault: Fault, now: Millis, from_trial: bool) {
        if self.closed.is_some() && !from_trial {
            // It was sent before the gate closed; it tells nothing new.
            return;
        }
        let (since, tries, blind_trials) = match &self.closed {
            Some(closed) => (
                closed.since,
                closed.tries + 1,
                closed.blind_trials + u32::from(!closed.probed && closed.is_probe_useless()),
            ),
            None => (now, 1, 0),
        };
        let again = if fault.cause == Cause::Unclear {
            self.unclear += 1;
            self.unclear
        } else {
            tries
        };
        let growing = doubling(fault.cause.first_pause(), again).min(fault.cause.longest_pause());
        let pause = self.at_least_as_asked(growing, fault.retry_after);
        self.closed = Some(Closed {
            cause: fault.cause,
            message: fault.message,
            since,
            until: now + pause,
            pause,
            tries,
            probed: false,
            probes_failed: 0,
            blind_trials,
        });
    }

    /// The provider may ask for a longer pause, never for a shorter one.
    fn at_least_as_asked(&self, growing: Millis, asked: Option<Millis>) -> Millis {
        growing
            .max(asked.unwrap_or(0).min(LONGEST_RETRY_AFTER))
            .min(self.longest.unwrap_or(Millis::MAX))
    }

    /// A free request answered well: one job may be tried.
    pub fn probe_answered(&mut self) {
        if let Some(closed) = &mut self.closed {
            closed.probed = true;
            closed.probes_failed = 0;
        }
    }

    /// Something else was answered that is free, such as a poll: where the free request seems
    /// to be of no use, that is as good.
    pub fn heard(&mut self, now: Millis) {
        let due = |closed: &Closed| {
            closed.cause.is_risky() && closed.until <= now && closed.probes_failed >= PATIENCE
        };
        if self.closed.as_ref().is_some_and(due) {
            self.probe_answered();
        }
    }

    /// A free request failed: it is sent again after a growing pause. Why the gate
    /// closed stays what the POST said; this may be a fault of the probe's address alone.
    pub fn probe_failed(&mut self, fault: &Fault, now: Millis) {
        let Some(closed) = &self.closed else { return };
        // That the key is refused is an answer, and refusing a POST for it costs nothing.
        let is_refusal = matches!(fault.cause, Cause::KeyRefused | Cause::AccountRefused);
        if closed.cause.is_risky() && is_refusal {
            return self.probe_answered();
        }
        let longest = match closed.cause {
            cause if cause.is_risky() => LONGEST_LOOK,
            cause => cause.longest_pause(),
        };
        // Where there is a connection again, the end may be near.
        let is_first_answer = fault.symptom != NOT_SENT && closed.probes_failed == 0;
        let tries = match is_first_answer && closed.cause == Cause::Unreachable {
            true => 1,
            false => closed.tries + 1,
        };
        let growing = doubling(fault.cause.first_pause(), tries).min(longest);
        let pause = self.at_least_as_asked(growing, fault.retry_after);
        if let Some(closed) = &mut self.closed {
            closed.tries = tries;
            closed.pause = pause;
            closed.until = now + pause;
            // No connection for the probe is none for the POST.
            closed.probes_failed += u32::from(fault.symptom != NOT_SENT);
        }
    }

    /// The provider judged a request on its merits: open. `accepted`: and took it.
    /// Returns the gate's state before, if it was closed.
    pub fn open(&mut self, accepted: bool) -> Option<Closed> {
        if accepted {
            self.unclear = 0;
        }
        self.closed.take()
    }

    /// The wall clock jumped.
    pub fn shift(&mut self, delta: Millis) {
        if let Some(closed) = &mut self.closed {
            closed.since += delta;
            closed.until += delta;
        }
    }
}

fn doubling(first: Millis, times: u32) -> Millis {
    first.saturating_mul(1 << times.saturating_sub(1).min(20))
}

/// How many tasks the provider takes at once: lowered when it says "too many",
/// raised again one by one while it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    max: u32,
    limit: u32,
    accepted: u32,
}

impl Window {
    /// At most `max` tasks.
    pub fn new(max: u32) -> Window {
        Window {
            max,
            limit: max,
            accepted: 0,
        }
    }

    /// The present limit.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The provider has `tasks` of ours and wants no more.
    pub fn crowded(&mut self, tasks: u32) {
        self.limit = tasks.clamp(1, self.max);
        self.accepted = 0;
    }

    /// A task was accepted: after as many as the limit, it grows by one.
    pub fn accepted(&mut self) {
        if self.limit < self.max {
            self.accepted += 1;
            if self.accepted >= self.limit {
                self.accepted = 0;
                self.limit += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(cause: Cause, symptom: &str) -> Fault {
        Fault {
            cause,
            symptom: symptom.to_owned(),
            message: "m".to_owned(),
            retry_after: None,
        }
    }

    /// Runs trials against a fault that never heals and counts them.
    fn trials_in(cause: Cause, span: Millis) -> u32 {
        let mut gate = Gate::default();
        gate.close(fault(cause, "500"), 0, false);
        let (mut now, mut trials) = (0, 0);
        loop {
            match gate.pass(now) {
                Pass::Wait(until) => now = until,
                Pass::Probe => gate.probe_answered(),
                Pass::Trial => {
                    trials += 1;
                    gate.close(fault(cause, "500"), now, true);
                }
                Pass::Open => unreachable!(),
            }
            if now >= span {
                return trials;
            }
        }
    }

    /// Runs an outage in which the free request fails as well, and counts the POSTs.
    fn blind_trials_in(cause: Cause, probe: &Fault, span: Millis) -> u32 {
        let mut gate = Gate::default();
        gate.close(fault(cause, "500"), 0, false);
        let (mut now, mut trials) = (0, 0);
        while now < span {
            match gate.pass(now) {
                Pass::Wait(until) => now = until,
                Pass::Probe => gate.probe_failed(probe, now),
                Pass::Trial => {
                    trials += 1;
                    gate.close(fault(cause, "500"), now, true);
                }
                Pass::Open => unreachable!(),
            }
        }
        trials
    }

    #[test]
    fn a_probe_that_always_fails_keeps_no_gate_closed_for_ever() {
        let refused = fault(Cause::KeyRefused, "401");
        let broken = fault(Cause::Unreachable, "500");
        for probe in [&refused, &broken] {
            for cause in [Cause::KeyRefused, Cause::AccountRefused, Cause::Busy] {
                assert!(blind_trials_in(cause, probe, 20 * SECOND) >= 1, "{cause:?}");
            }
        }
        for cause in [Cause::Unclear, Cause::Unreachable] {
            assert_eq!(blind_trials_in(cause, &broken, 60 * SECOND), 0, "{cause:?}");
            let trials = blind_trials_in(cause, &broken, 3 * 3_600 * SECOND);
            // With the three that are on the wire when it begins: eight at most.
            assert!((1..=5).contains(&trials), "{trials} for {cause:?}");
        }
    }

    #[test]
    fn no_connection_for_the_probe_is_none_for_a_job() {
        let cut_off = fault(Cause::Unreachable, NOT_SENT);
        for cause in [Cause::Busy, Cause::Unclear, Cause::Unreachable] {
            assert_eq!(blind_trials_in(cause, &cut_off, 24 * 3_600 * SECOND), 0);
        }
    }

    #[test]
    fn any_answer_shows_that_the_provider_is_there() {
        let refused = fault(Cause::KeyRefused, "401");
        for cause in [Cause::Unreachable, Cause::Unclear] {
            let mut gate = Gate::default();
            gate.close(fault(cause, "500"), 0, false);
            let due = gate.closed().unwrap().until;
            // Of a request from before the fault.
            gate.heard(due - 1);
            assert_eq!(gate.pass(due), Pass::Probe);
            gate.heard(due);
            assert_eq!(gate.pass(due), Pass::Probe, "it may be of use");
            let mut polled = gate.clone();
            let mut now = due;
            for _ in 0..PATIENCE {
                polled.probe_failed(&fault(Cause::Unreachable, "500"), now);
                now = polled.closed().unwrap().until;
            }
            polled.heard(now);
            assert_eq!(polled.pass(now), Pass::Trial);
            gate.probe_failed(&refused, due);
            assert_eq!(gate.pass(due), Pass::Trial);
        }
        let mut gate = Gate::default();
        gate.close(refused.clone(), 0, false);
        gate.heard(2 * SECOND);
        gate.probe_failed(&refused, 2 * SECOND);
        assert!(matches!(gate.pass(2 * SECOND), Pass::Wait(_)));
    }

    #[test]
    fn a_failed_probe_hides_no_cause() {
        let mut gate = Gate::default();
        gate.close(fault(Cause::AccountRefused, "402"), 0, false);
        gate.probe_failed(&fault(Cause::KeyRefused, "401"), 2 * SECOND);
        let closed = gate.closed().unwrap();
        assert_eq!((closed.cause, closed.since), (Cause::AccountRefused, 0));
        assert_eq!(gate.pass(5 * SECOND), Pass::Wait(6 * SECOND));
    }

    #[test]
    fn a_jump_of_the_clock_moves_a_closed_gate_along() {
        let mut gate = Gate::default();
        gate.close(fault(Cause::Unclear, "502"), 9 * SECOND, false);
        gate.shift(-7 * SECOND);
        assert_eq!(gate.closed().unwrap().since, 2 * SECOND);
        assert_eq!(gate.pass(2 * SECOND), Pass::Wait(7 * SECOND));
    }

    #[test]
    fn a_gate_of_an_earlier_version_is_read() {
        let text = r#"{"closed":{"cause":"unclear","message":"m","since":1,"until":9,"pause":8,
            "tries":1,"probed":false},"symptoms":{"502":1}}"#;
        let gate: Gate = serde_json::from_str(text).unwrap();
        assert_eq!(gate.pass(3), Pass::Wait(9));
    }

    #[test]
    fn an_outage_of_hours_risks_a_handful_of_posts() {
        assert!(trials_in(Cause::Unclear, 12 * SECOND) <= 2);
        assert!(trials_in(Cause::Unclear, 3 * 3_600 * SECOND) <= 12);
    }

    #[test]
    fn a_refused_key_is_looked_at_again_soon() {
        let trials = trials_in(Cause::KeyRefused, 12 * SECOND);
        assert!((2..=4).contains(&trials), "{trials}");
    }

    #[test]
    fn the_provider_s_own_pause_is_kept() {
        let mut gate = Gate::default();
        let mut limited = fault(Cause::RateLimited, "429");
        limited.retry_after = Some(30 * SECOND);
        gate.close(limited, 0, false);
        assert_eq!(gate.pass(29 * SECOND), Pass::Wait(30 * SECOND));
        assert_eq!(gate.pass(30 * SECOND), Pass::Trial);
    }

    #[test]
    fn answers_from_before_the_closing_do_not_lengthen_it() {
        let mut gate = Gate::default();
        gate.close(fault(Cause::Unclear, "502"), 0, false);
        let before = gate.clone();
        gate.close(fault(Cause::Unclear, "502"), 1, false);
        assert_eq!(gate, before);
    }

    #[test]
    fn unclear_ends_in_a_row_are_one_fault() {
        let mut gate = Gate::default();
        for (symptom, pause) in [("500", 5), ("502", 10), ("timeout", 20), ("502", 40)] {
            gate.close(fault(Cause::Unclear, symptom), 0, true);
            assert_eq!(gate.pass(0), Pass::Wait(pause * SECOND));
        }
        gate.open(true);
        gate.close(fault(Cause::Unclear, "502"), 0, false);
        assert_eq!(gate.pass(0), Pass::Wait(5 * SECOND));
    }

    #[test]
    fn a_connection_that_is_there_again_is_looked_at_soon() {
        let mut gate = Gate::default();
        gate.close(fault(Cause::Unreachable, NOT_SENT), 0, false);
        let mut now = 0;
        for _ in 0..8 {
            now = gate.closed().unwrap().until;
            gate.probe_failed(&fault(Cause::Unreachable, NOT_SENT), now);
        }
        now = gate.closed().unwrap().until.max(now);
        gate.probe_failed(&fault(Cause::Unreachable, "500"), now);
        assert_eq!(gate.pass(now), Pass::Wait(now + SECOND));
    }

    #[test]
    fn the_window_shrinks_at_once_and_grows_slowly() {
        let mut window = Window::new(20);
        window.crowded(4);
        assert_eq!(window.limit(), 4);
        for _ in 0..4 {
            window.accepted();
        }
        assert_eq!(window.limit(), 5);
        window.crowded(0);
        assert_eq!(window.limit(), 1);
    }
}
