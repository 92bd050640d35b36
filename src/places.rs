//! Where a job's video goes: the configured folder and template, and what is
//! taken there already.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::job::{Job, Millis};
use crate::naming::{Fields, Template};
use crate::sink::Sink;

/// The download folder and how files are named in it.
#[derive(Clone, Debug)]
pub struct Places {
    /// Knows what lies on disk.
    pub sink: Sink,
    /// `download.name`.
    pub template: Template,
    /// Decides which calendar day `{date}` is.
    pub timezone: TimeZone,
}

impl Places {
    /// The first path for a job's video that is free on disk and not `taken`.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn reserve(&self, job: &Job, taken: &HashSet<PathBuf>, now: Millis) -> io::Result<PathBuf> {
        let date = date_of(job.submitted_at.unwrap_or(now), &self.timezone);
        let fields = Fields {
            batch: &job.spec.batch,
            id: job.id,
            key: job.spec.key.as_deref(),
            task_id: job.task_id.as_deref().unwrap_or("none"),
            date: &date,
        };
        self.sink
            .reserve(&self.template, &fields, |path| taken.contains(path))
    }
}

/// `2026-01-31`, as the calendar of a time zone has it.
pub fn date_of(at: Millis, timezone: &TimeZone) -> String {
    let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(timezone.clone()).date().to_string()
}

/// When the calendar day of a time began in a time zone, in Unix milliseconds.
pub fn day_start(at: Millis, timezone: &TimeZone) -> Millis {
    let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(timezone.clone())
        .start_of_day()
        .map_or(0, |start| start.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_time_zone_s() {
        let zone = TimeZone::get("America/New_York").unwrap();
        // 2026-03-08 has 23 hours there.
        let noon: Millis = "2026-03-08T12:00:00-04:00"
            .parse::<Timestamp>()
            .unwrap()
            .as_millisecond();
        let start: Millis = "2026-03-08T00:00:00-05:00"
            .parse::<Timestamp>()
            .unwrap()
            .as_millisecond();
        assert_eq!(day_start(noon, &zone), start);
        assert_eq!(date_of(noon, &zone), "2026-03-08");
        assert_eq!(date_of(start - 1, &zone), "2026-03-07");
    }
}
