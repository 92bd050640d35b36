//! Signed links to videos, as content networks make them: the link itself says what it opens and
//! until when, and a keyed hash keeps others from making one. Nothing is stored.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Makes and opens links; each `Links` has a secret of its own.
#[derive(Default)]
pub struct Links {
    secret: RandomState,
}

/// Why a link opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It was never made here.
    Unknown,
    /// It was, but its time is over.
    Expired,
}

impl Links {
    /// The link to video `number`, good until `expires` after the start, or for ever.
    pub fn make(&self, number: u64, expires: Option<Duration>) -> String {
        // 0 stands for never, so times are counted from 1.
        self.sign(
            number,
            expires.map_or(0, |expires| expires.as_millis() as u64 + 1),
        )
    }

    /// The video that `link` opens `now`.
    ///
    /// # Errors
    /// [`Closed`] says why it opens none.
    pub fn open(&self, link: &str, now: Duration) -> Result<u64, Closed> {
        let mut parts = link
            .split('-')
            .map(|part| u64::from_str_radix(part, 16).ok());
        let (Some(Some(number)), Some(Some(expires))) = (parts.next(), parts.next()) else {
            return Err(Closed::Unknown);
        };
        if self.sign(number, expires) != link {
            Err(Closed::Unknown)
        } else if expires != 0 && now.as_millis() + 1 >= u128::from(expires) {
            Err(Closed::Expired)
        } else {
            Ok(number)
        }
    }

    fn sign(&self, number: u64, expires: u64) -> String {
        format!(
            "{number:x}-{expires:x}-{:016x}",
            self.secret.hash_one((number, expires))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_link_opens_its_video_until_it_expires() {
        let links = Links::default();
        let link = links.make(7, Some(at(10)));
        assert_eq!(links.open(&link, at(9)), Ok(7));
        assert_eq!(links.open(&link, at(10)), Err(Closed::Expired));
        assert_eq!(links.open(&links.make(7, None), at(1_000_000)), Ok(7));
        assert_eq!(
            links.open(&links.make(7, Some(at(0))), at(0)),
            Err(Closed::Expired)
        );
    }

    #[test]
    fn a_link_cannot_be_made_up() {
        let links = Links::default();
        let link = links.make(7, None);
        let other = Links::default().make(7, None);
        for forged in [
            link.replacen('7', "8", 1),
            format!("+{link}"),
            link[..5].to_owned(),
            other,
            String::new(),
        ] {
            assert_eq!(links.open(&forged, at(0)), Err(Closed::Unknown), "{forged}");
        }
    }
}
