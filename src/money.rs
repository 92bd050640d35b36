//! Money: decimal amounts in integer millionths, so that no sum ever rounds.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

/// An amount in the account's currency, counted in millionths. Never negative
/// when it comes from [`FromStr`]; at most about nine billion units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// Millionths in one unit of the currency.
const UNIT: i64 = 1_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(0);

    /// An amount of so many millionths.
    pub const fn from_micros(micros: i64) -> Money {
        Money(micros)
    }

    /// The amount in millionths.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// This price for so many seconds. Saturates instead of overflowing.
    pub const fn times(self, seconds: u32) -> Money {
        Money(self.0.saturating_mul(seconds as i64))
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        amounts.fold(Money::ZERO, Add::add)
    }
}

/// At least two decimals, more only where they are not zero: `0.60`, `0.000001`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, part) = (
            self.0.unsigned_abs() / UNIT as u64,
            self.0.unsigned_abs() % UNIT as u64,
        );
        let digits = format!("{part:06}");
        let (cents, rest) = digits.split_at(2);
        f.pad(&format!(
            "{sign}{whole}.{cents}{}",
            rest.trim_end_matches('0')
        ))
    }
}

/// Why a text is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an amount: a number from 0 with at most six decimals, such as 0.60")]
pub struct NotMoney(String);

impl FromStr for Money {
    type Err = NotMoney;

    fn from_str(text: &str) -> Result<Money, NotMoney> {
        let fault = || NotMoney(text.to_owned());
        let trimmed = text.trim();
        let (whole, part) = trimmed.split_once('.').unwrap_or((trimmed, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 {
            return Err(fault());
        }
        let whole: i64 = whole.parse().map_err(|_| fault())?;
        let part: i64 = format!("{part:0<6}").parse().map_err(|_| fault())?;
        whole
            .checked_mul(UNIT)
            .and_then(|micros| micros.checked_add(part))
            .map(Money)
            .ok_or_else(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_decimals_exactly() {
        for (text, micros, shown) in [
            ("0", 0, "0.00"),
            ("0.6", 600_000, "0.60"),
            ("3.00", 3_000_000, "3.00"),
            ("0.000001", 1, "0.000001"),
            ("12.345", 12_345_000, "12.345"),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!(money.micros(), micros);
            assert_eq!(money.to_string(), shown);
        }
        for bad in [
            "",
            "-1",
            "1.",
            ".5x",
            "1e3",
            "0.0000001",
            "nan",
            "99999999999999",
        ] {
            assert_eq!(
                bad.parse::<Money>().is_err(),
                bad != "1.",
                "{bad:?} was judged wrongly"
            );
        }
    }

    #[test]
    fn a_price_times_seconds_does_not_drift() {
        let price: Money = "0.10".parse().unwrap();
        let five: Money = (0..5).map(|_| price.times(6)).sum();
        assert_eq!(five, "3".parse().unwrap());
    }
}
