//! Chance that can be repeated. A fate depends on the seed, on what is asked and on whose turn it
//! is, never on how many other requests came in between: the third POST meets the same fate in
//! every run, whatever the polls do.

/// What is decided by chance.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// Whether a POST is turned away.
    SubmitError,
    /// Whether an accepted POST gets no answer.
    AnswerLost,
    /// Whether a task fails.
    TaskFails,
    /// How long a task takes, around the set time.
    Spread,
    /// Whether a poll is answered with an error.
    PollError,
    /// Whether a download loses its connection.
    Cut,
    /// Whether a download ends early without an error.
    Truncated,
    /// Which of several equal ways it goes.
    Which,
}

/// A seed, asked by [`Fate`], number and turn.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A number in 0..1, evenly spread.
    pub fn roll(&self, fate: Fate, number: u64, turn: u64) -> f64 {
        let mixed = [fate as u64, number, turn]
            .iter()
            .fold(self.seed, |state, &part| mix(state ^ mix(part)));
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something that happens at `rate` (0..=1) happens here.
    pub fn hits(&self, rate: f64, fate: Fate, number: u64, turn: u64) -> bool {
        self.roll(fate, number, turn) < rate
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&self, choices: &'a [T], number: u64, turn: u64) -> &'a T {
        let place = self.roll(Fate::Which, number, turn) * choices.len() as f64;
        &choices[place as usize]
    }
}

/// A 64-bit number from text, the same on every machine.
pub fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0, |state, byte| mix(state ^ u64::from(byte)))
}

/// One step of splitmix64.
const fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept() {
        let dice = Dice::new(1);
        for rate in [0.0, 0.1, 0.5, 1.0] {
            let hits = (0..10_000)
                .filter(|&number| dice.hits(rate, Fate::Cut, number, 0))
                .count();
            assert!(
                (hits as f64 / 10_000.0 - rate).abs() < 0.02,
                "{rate}: {hits}"
            );
        }
        assert!((0..10_000).all(|number| dice.hits(1.0, Fate::Cut, number, 0)));
        assert!(!(0..10_000).any(|number| dice.hits(0.0, Fate::Cut, number, 0)));
    }

    #[test]
    fn fates_and_seeds_are_independent() {
        let fates = |seed, fate| -> Vec<bool> {
            (0..64)
                .map(|number| Dice::new(seed).hits(0.5, fate, number, 0))
                .collect()
        };
        assert_eq!(fates(7, Fate::Cut), fates(7, Fate::Cut));
        assert_ne!(fates(7, Fate::Cut), fates(8, Fate::Cut));
        assert_ne!(fates(7, Fate::Cut), fates(7, Fate::PollError));
    }
}
