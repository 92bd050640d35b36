//! What is ordered, and what it costs.

use std::fmt;
use std::str::FromStr;

/// The one model there is.
pub const MODEL: &str = "grok-video-1.5";

/// A resolution tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// 854×480.
    P480,
    /// 1280×720.
    P720,
    /// 1920×1080.
    P1080,
}

impl Size {
    /// All tiers, smallest first.
    pub const ALL: [Self; 3] = [Self::P480, Self::P720, Self::P1080];

    /// The name the API gives it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P480 => "480p",
            Self::P720 => "720p",
            Self::P1080 => "1080p",
        }
    }

    /// Width and height of the video. Always landscape: the sandbox fetches no image, so it
    /// cannot know the image's orientation.
    pub const fn pixels(self) -> (u32, u32) {
        match self {
            Self::P480 => (854, 480),
            Self::P720 => (1280, 720),
            Self::P1080 => (1920, 1080),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    /// Takes exactly the names of [`Size::as_str`].
    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|size| size.as_str() == name);
        found.ok_or_else(|| format!("\"{name}\" is not one of 480p, 720p, 1080p"))
    }
}

/// A request that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the video is to show; not blank.
    pub prompt: String,
    /// The one input image, an http(s) URL. It is never fetched.
    pub image_url: String,
    /// Seconds, 1..=15.
    pub duration: u32,
    /// The resolution tier.
    pub size: Size,
}

/// An amount of money in millionths of the account's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl FromStr for Micros {
    type Err = String;

    /// Takes a decimal like `0.14` with at most six places, up to a million.
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("\"{text}\" is not a price like 0.14");
        let (whole, places) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || whole.len() > 6
            || places.len() > 6
            || !digits(whole)
            || !digits(places)
        {
            return Err(error());
        }
        format!("{whole}{places:0<6}")
            .parse()
            .map(Self)
            .map_err(|_| error())
    }
}

impl fmt::Display for Micros {
    /// At least two places, and as many more as it takes to be exact.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = format!("{:06}", self.0 % 1_000_000);
        let more = places[2..].trim_end_matches('0');
        write!(out, "{}.{}{more}", self.0 / 1_000_000, &places[..2])
    }
}

/// What a second of video costs, by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// A second of 480p.
    pub p480: Micros,
    /// A second of 720p.
    pub p720: Micros,
    /// A second of 1080p.
    pub p1080: Micros,
}

impl Default for Prices {
    /// The list prices of the model's maker in 2026: 0.08, 0.14 and 0.25 US dollars.
    fn default() -> Self {
        Self {
            p480: Micros(80_000),
            p720: Micros(140_000),
            p1080: Micros(250_000),
        }
    }
}

impl Prices {
    /// Sets the price of a second of `size`.
    pub const fn set(&mut self, size: Size, price: Micros) {
        match size {
            Size::P480 => self.p480 = price,
            Size::P720 => self.p720 = price,
            Size::P1080 => self.p1080 = price,
        }
    }

    /// What `order` costs.
    pub fn of(&self, order: &Order) -> Micros {
        let second = match order.size {
            Size::P480 => self.p480,
            Size::P720 => self.p720,
            Size::P1080 => self.p1080,
        };
        Micros(second.0.saturating_mul(u64::from(order.duration)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact() {
        for (text, micros, shown) in [
            ("0.14", 140_000, "0.14"),
            ("3", 3_000_000, "3.00"),
            ("0.000001", 1, "0.000001"),
            ("12.5", 12_500_000, "12.50"),
        ] {
            assert_eq!(text.parse(), Ok(Micros(micros)));
            assert_eq!(Micros(micros).to_string(), shown);
        }
        for bad in ["", ".5", "-1", "1e3", "0.0000001", "1,5", "+1", "9999999"] {
            assert!(bad.parse::<Micros>().is_err(), "{bad}");
        }
    }

    #[test]
    fn price_is_by_the_second_and_the_size() {
        let order = Order {
            prompt: "p".into(),
            image_url: "u".into(),
            duration: 6,
            size: Size::P720,
        };
        assert_eq!(Prices::default().of(&order), Micros(840_000));
    }
}
