//! The plan of a seed: the limits, and how often each thing goes wrong.

use reelq::budget::Budget;
use reelq::engine::Limits;
use reelq::step::Policy;

use super::*;

/// What a seed decides beforehand.
pub(super) struct Plan {
    pub(super) turmoil: u32,
    pub(super) workers: usize,
    pub(super) limits: Limits,
    /// In hundred steps.
    pub(super) crashes: u64,
    pub(super) persons: u64,
    pub(super) storms: u64,
    /// The clock jumps while reelq runs, or while it is down.
    pub(super) jumps: u64,
    /// The database refuses for a time.
    pub(super) refusals: u64,
    pub(super) foreign: bool,
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng) -> Plan {
        let workers = if rng.chance(20) { 2 } else { 1 };
        let cents = |n: i64| Money::from_micros(n * 10_000);
        let priced = rng.chance(60);
        let budget = Budget {
            max_jobs_per_day: rng.chance(15).then(|| rng.below(5) + 1),
            max_cost_per_day: (priced && rng.chance(40)).then(|| cents(rng.within(60, 400))),
            price_per_second: [3, 10, 25].map(|price| priced.then(|| cents(price))),
        };
        Plan {
            // Many short stories, and some long ones.
            turmoil: match rng.below(8) {
                0 => rng.within(80, 160) as u32,
                _ => rng.within(10, 60) as u32,
            },
            workers,
            limits: Limits {
                max_in_flight: rng.within(1, 6) as u32,
                rate_per_minute: *rng.pick(&[2, 6, 60, 60]),
                downloads: rng.within(1, 3) as usize,
                min_free_space: 1_000,
                policy: Policy {
                    resubmit_unknown: rng.chance(15),
                    interval: *rng.pick(&[5 * SECOND, 20 * SECOND, 40 * SECOND]),
                    slow_after: 2 * MINUTE,
                    slow_interval: MINUTE,
                    deadline: 30 * MINUTE,
                },
                budget,
            },
            crashes: *rng.pick(&[0, 2, 6, 15]),
            persons: *rng.pick(&[0, 3, 10]),
            storms: *rng.pick(&[0, 2, 5]),
            jumps: if rng.chance(25) { 3 } else { 0 },
            refusals: if rng.chance(25) { 4 } else { 0 },
            foreign: rng.chance(10),
        }
    }
}
