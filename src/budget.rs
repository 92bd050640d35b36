//! What a job may cost, and whether the caps let it through.

use crate::job::{JobSpec, Size};
use crate::money::Money;

/// The caps and the prices. Pure numbers, checked by the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Submissions in one calendar day; `None`: no limit.
    pub max_jobs_per_day: Option<u64>,
    /// Cost in one calendar day; `None`: no limit.
    pub max_cost_per_day: Option<Money>,
    /// Price of one second at 480p, 720p and 1080p; `None`: not known.
    pub price_per_second: [Option<Money>; 3],
}

/// What was paid, or may have been, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Submissions since the day began.
    pub jobs_today: u64,
    /// Their cost.
    pub cost_today: Money,
    /// The cap of the job's batch.
    pub batch_cap: Option<Money>,
    /// What the batch has cost so far, if it has a cap.
    pub cost_of_batch: Money,
}

/// Why a job must wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// `budget.max_jobs_per_day` is reached.
    #[error(
        "budget.max_jobs_per_day = {0} is reached: submitting continues tomorrow; raise the limit to continue now"
    )]
    JobsPerDay(u64),
    /// `budget.max_cost_per_day` would be passed.
    #[error(
        "budget.max_cost_per_day = {cap}: {spent} is spent or reserved and the next job may cost {cost}: \
         submitting continues tomorrow; raise the limit to continue now"
    )]
    CostPerDay {
        /// The cap.
        cap: Money,
        /// Spent or reserved today.
        spent: Money,
        /// Of the job that waits.
        cost: Money,
    },
    /// The job alone would pass `budget.max_cost_per_day`: no day lets it through.
    #[error(
        "this job may cost {cost}, more than budget.max_cost_per_day = {cap}: raise the limit or cancel the job"
    )]
    TooDear {
        /// The cap.
        cap: Money,
        /// Of the job.
        cost: Money,
    },
    /// A cap on cost is set, but there is no price to count with.
    #[error(
        "a cap on cost is set, but budget.price_per_second.\"{0}\" is missing: nothing is submitted until it is set"
    )]
    NoPrice(Size),
    /// The batch has a cap, but there is no price to count with.
    #[error(
        "the batch has a cap on cost, but budget.price_per_second.\"{0}\" is missing: its {0} jobs are not submitted"
    )]
    NoPriceForBatch(Size),
    /// The cap of the batch would be passed.
    #[error(
        "the batch may cost {cap}: {spent} is spent or reserved and this job may cost {cost}; \
             raise it with `reelq add --max-cost`"
    )]
    Batch {
        /// The cap.
        cap: Money,
        /// Spent or reserved by the batch.
        spent: Money,
        /// Of the job that waits.
        cost: Money,
    },
}

/// Whom a [`Hold`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody.
    Queue,
    /// Jobs of this batch that cost as much.
    Batch,
    /// Jobs of any batch that cost as much.
    AsDear,
}

impl Hold {
    /// Whom it holds; others may go.
    pub const fn scope(&self) -> Scope {
        match self {
            Hold::JobsPerDay(_) | Hold::CostPerDay { .. } | Hold::NoPrice(_) => Scope::Queue,
            Hold::NoPriceForBatch(_) | Hold::Batch { .. } => Scope::Batch,
            Hold::TooDear { .. } => Scope::AsDear,
        }
    }
}

impl Budget {
    /// The price of a job; `None` where no price is configured for its size.
    pub fn price(&self, spec: &JobSpec) -> Option<Money> {
        self.price_per_second[spec.size as usize].map(|price| price.times(spec.duration))
    }

    /// What is to be reserved for a job, or why it must wait.
    ///
    /// # Errors
    /// The first cap that the job would pass.
    pub fn admit(&self, spec: &JobSpec, spent: &Spent) -> Result<Money, Hold> {
        if let Some(max) = self.max_jobs_per_day
            && spent.jobs_today >= max
        {
            return Err(Hold::JobsPerDay(max));
        }
        let cost = match self.price(spec) {
            Some(cost) => cost,
            None if self.max_cost_per_day.is_some() => return Err(Hold::NoPrice(spec.size)),
            None if spent.batch_cap.is_some() => return Err(Hold::NoPriceForBatch(spec.size)),
            None => Money::ZERO,
        };
        if let Some(cap) = self.max_cost_per_day.filter(|cap| cost > *cap) {
            return Err(Hold::TooDear { cap, cost });
        }
        if let Some(cap) = self.max_cost_per_day
            && spent.cost_today + cost > cap
        {
            return Err(Hold::CostPerDay {
                cap,
                spent: spent.cost_today,
                cost,
            });
        }
        if let Some(cap) = spent.batch_cap
            && spent.cost_of_batch + cost > cap
        {
            return Err(Hold::Batch {
                cap,
                spent: spent.cost_of_batch,
                cost,
            });
        }
        Ok(cost)
    }
}

/// How many jobs of each size there are, and their seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    jobs: [u64; 3],
    seconds: [u64; 3],
}

impl Tally {
    /// One job more.
    pub fn count(&mut self, spec: &JobSpec) {
        self.jobs[spec.size as usize] += 1;
        self.seconds[spec.size as usize] += u64::from(spec.duration);
    }

    /// What is left without these, which are among them.
    pub fn without(mut self, other: &Tally) -> Tally {
        for size in Size::ALL {
            self.jobs[size as usize] -= other.jobs[size as usize];
            self.seconds[size as usize] -= other.seconds[size as usize];
        }
        self
    }

    /// Each size that occurs, with its price if that is known.
    pub fn priced(&self, budget: &Budget) -> Vec<Priced> {
        Size::ALL
            .into_iter()
            .filter(|size| self.jobs[*size as usize] > 0)
            .map(|size| {
                let seconds = self.seconds[size as usize];
                let price = budget.price_per_second[size as usize];
                Priced {
                    size,
                    jobs: self.jobs[size as usize],
                    seconds,
                    cost: price.map(|price| {
                        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                        Money::from_micros(price.micros().saturating_mul(seconds))
                    }),
                }
            })
            .collect()
    }
}

/// What the jobs of one size may cost.
#[derive(Clone, Copy, Debug)]
pub struct Priced {
    /// Their size.
    pub size: Size,
    /// How many there are.
    pub jobs: u64,
    /// Their seconds in all.
    pub seconds: u64,
    /// `None`: no price is configured for the size.
    pub cost: Option<Money>,
}

/// The whole cost, if every price is known.
pub fn total(priced: &[Priced]) -> Option<Money> {
    priced.iter().map(|priced| priced.cost).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn a_cap_of_three_at_sixty_cents_lets_exactly_five_through() {
        let budget = Budget {
            max_cost_per_day: Some(money("3.00")),
            price_per_second: [None, Some(money("0.10")), None],
            ..Budget::default()
        };
        let spec = JobSpec::new("p", "https://example.com/a.jpg");
        let mut spent = Spent::default();
        let mut through = 0;
        while let Ok(cost) = budget.admit(&spec, &spent) {
            spent.cost_today += cost;
            through += 1;
        }
        assert_eq!(through, 5);
    }

    #[test]
    fn a_cap_without_a_price_lets_nothing_through() {
        let budget = Budget {
            max_cost_per_day: Some(money("3.00")),
            ..Budget::default()
        };
        let spec = JobSpec::new("p", "https://example.com/a.jpg");
        assert_eq!(
            budget.admit(&spec, &Spent::default()),
            Err(Hold::NoPrice(Size::P720))
        );
    }

    #[test]
    fn a_cost_is_known_only_if_every_price_is() {
        let budget = Budget {
            price_per_second: [None, Some(Money::from_micros(100_000)), None],
            ..Budget::default()
        };
        let mut tally = Tally::default();
        let mut spec = JobSpec::new("p", "https://example.com");
        tally.count(&spec);
        tally.count(&spec);
        let priced = tally.priced(&budget);
        assert_eq!(
            total(&priced).map(|cost| cost.to_string()).as_deref(),
            Some("1.20")
        );
        spec.size = Size::P480;
        tally.count(&spec);
        assert_eq!(total(&tally.priced(&budget)), None);
        let mut other = Tally::default();
        other.count(&spec);
        assert_eq!(tally.without(&other).priced(&budget).len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_reserved_never_passes_a_cap(
            cap in 0i64..20_000_000,
            price in 1i64..3_000_000,
            durations in proptest::collection::vec(1u32..=15, 0..60),
        ) {
            let budget = Budget {
                max_cost_per_day: Some(Money::from_micros(cap)),
                price_per_second: [None, Some(Money::from_micros(price)), None],
                ..Budget::default()
            };
            let mut spent = Spent::default();
            for duration in durations {
                let mut spec = JobSpec::new("p", "https://example.com/a.jpg");
                spec.duration = duration;
                match budget.admit(&spec, &spent) {
                    Ok(cost) => spent.cost_today += cost,
                    Err(_) => prop_assert!(
                        spent.cost_today.micros() + price * i64::from(duration) > cap
                    ),
                }
                prop_assert!(spent.cost_today.micros() <= cap);
            }
        }
    }
}
