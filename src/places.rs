//! Where a job's video goes: the configured folder and template, and what is
//! taken there already.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::job::{Job, Millis};
use crate::naming::{Fields, Template};

/// The download folder and how files are named in it.
#[derive(Clone, Debug)]
pub struct Places {
    /// Absolute.
    pub dir: PathBuf,
    /// `download.name`.
    pub template: Template,
    /// Decides which calendar day `{date}` is.
    pub timezone: TimeZone,
}

impl Places {
    /// The path that the template gives, and for `nth > 0` one with a suffix that
    /// tells it from other jobs' and earlier files.
    pub fn candidate(&self, job: &Job, nth: u32, now: Millis) -> PathBuf {
        let date = date_of(job.submitted_at.unwrap_or(now), &self.timezone);
        let fields = Fields {
            batch: &job.spec.batch,
            id: job.id,
            key: job.spec.key.as_deref(),
            task_id: job.task_id.as_deref().unwrap_or("none"),
            date: &date,
        };
        let name = self.template.render(&fields);
        match nth {
            0 => self.dir.join(name),
            n => self.dir.join(crate::naming::with_suffix(&name, job.id, n)),
        }
    }

    /// Whether something lies at a path, or a download towards it.
    pub fn is_taken(&self, path: &Path) -> bool {
        crate::sink::is_taken(path)
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
