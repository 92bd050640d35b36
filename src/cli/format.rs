//! Times, spans, amounts and tables as people read and write them.

use std::fmt;
use std::io;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::intake;
use crate::job::{Job, Millis, State};

/// The widest table where the terminal does not say its width.
const USUAL_WIDTH: usize = 100;

/// A point in time on the clock of this machine: `2026-01-31 18:00:00`.
pub fn time(at: Millis) -> String {
    zoned(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A point in time for programs: `2026-01-31T10:00:00Z`.
pub fn rfc3339(at: Millis) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}

fn zoned(at: Millis) -> Zoned {
    Timestamp::from_millisecond(at)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_zoned(TimeZone::system())
}

/// How long something takes, in its two largest units: `45s`, `3m 20s`, `2d 4h`.
pub fn span(millis: Millis) -> String {
    let seconds = millis.max(0) / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes:02}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// How long ago something was.
pub fn ago(at: Millis, now: Millis) -> String {
    format!("{} ago", span(now - at))
}

/// `1 job`, `2 jobs`.
pub fn counted(count: u64, one: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {one}s")
    }
}

/// A text on one line of a terminal: no control character gets through, so that
/// no prompt or answer can move the cursor; at most so many columns.
pub fn one_line(text: &str, columns: usize) -> String {
    let mut line = String::new();
    let mut used = 0;
    let mut chars = text
        .chars()
        .map(|c| if is_unsafe(c) { ' ' } else { c })
        .peekable();
    while let Some(c) = chars.next() {
        let width = width_of(c);
        let rest = usize::from(chars.peek().is_some());
        if used + width + rest > columns {
            line.push('…');
            return line;
        }
        used += width;
        line.push(c);
    }
    line
}

/// Control characters, and those that turn the direction of a line.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How many columns a character takes, closely enough to cut a line.
fn width_of(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// How wide a line may be on the terminal behind standard output.
pub fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(USUAL_WIDTH)
}

/// A table without lines around its cells.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    // Lines up with the text above and below.
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Puts the numbers of these columns at the right.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A table as text, without blanks at the ends of its lines.
pub fn table_text(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What is most worth knowing about a job beside its state.
pub fn remark(job: &Job) -> String {
    let said = match job.state {
        State::Done => job.file.as_ref().map(|file| file.path.clone()),
        State::Failed | State::Unconfirmed => {
            job.failure.as_ref().map(|failure| failure.message.clone())
        }
        _ => job.note.clone(),
    };
    said.or_else(|| {
        let at = job.due_at.filter(|_| job.state == State::Pending)?;
        Some(format!("not before {}", time(at)))
    })
    .unwrap_or_else(|| job.spec.prompt.clone())
}

/// The state with its progress, where there is some.
pub fn state(job: &Job) -> String {
    match job.state {
        State::Generating if job.progress > 0 => format!("generating {}%", job.progress),
        state => state.to_string(),
    }
}

/// Reads a span such as `90s`, `24h` or `30d`.
///
/// # Errors
/// What is allowed, as a sentence.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|error| format!("{text:?} is not a span such as 90s, 24h or 30d: {error}"))
}

/// A point in the past as a person says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// At this time.
    At(Millis),
    /// At the beginning of a day, or at a time of day, where the days are counted.
    Local(DateTime),
}

impl Since {
    /// The time that is meant.
    ///
    /// # Errors
    /// The time does not exist in that zone.
    pub fn resolve(&self, now: Millis, timezone: &TimeZone) -> Result<Millis, String> {
        match self {
            Since::Ago(span) => Ok(now - millis(*span)),
            Since::At(at) => Ok(*at),
            Since::Local(local) => timezone
                .to_zoned(*local)
                .map(|zoned| zoned.timestamp().as_millisecond())
                .map_err(|error| error.to_string()),
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        let text = text.trim();
        if let Ok(span) = humantime::parse_duration(text) {
            return Ok(Since::Ago(span));
        }
        // A bare number is a slip, unless it is long enough to be milliseconds of our days.
        let is_short = text.len() < 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        if let Ok(at) = intake::parse_time(text)
            && !is_short
        {
            return Ok(Since::At(at));
        }
        text.parse::<DateTime>().map(Since::Local).map_err(|_| {
            format!(
                "{text:?} is not a time: allowed are 2026-01-31, 2026-01-31T18:00:00+08:00, \
                 and 24h or 30d for that long ago"
            )
        })
    }
}

/// A time to come as a person says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Later {
    /// So long from now.
    In(Duration),
    /// At this time.
    At(Millis),
}

impl Later {
    /// The time that is meant.
    pub fn resolve(&self, now: Millis) -> Millis {
        match self {
            Later::In(span) => now.saturating_add(millis(*span)),
            Later::At(at) => *at,
        }
    }
}

impl std::str::FromStr for Later {
    type Err = String;

    fn from_str(text: &str) -> Result<Later, String> {
        match text.trim().strip_prefix('+') {
            Some(span) => parse_span(span).map(Later::In),
            None => intake::parse_time(text.trim())
                .map(Later::At)
                .map_err(|reason| format!("the time {reason}; +2h is two hours from now")),
        }
    }
}

/// A span in milliseconds.
pub fn millis(span: Duration) -> Millis {
    Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX)
}

/// A text as one word of a shell's command line, for a command that is proposed.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Shows the first few of a list, and how many there are more.
pub fn listed<T: fmt::Display>(items: &[T], most: usize) -> String {
    let mut text = items
        .iter()
        .take(most)
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > most {
        text.push_str(&format!(" and {} more", items.len() - most));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 00s"),
            (200, "3m 20s"),
            (3_599, "59m 59s"),
            (3_720, "1h 02m"),
            (86_399, "23h 59m"),
            (187_200, "2d 4h"),
        ] {
            assert_eq!(span(seconds * 1_000), text);
        }
        assert_eq!(span(-5_000), "0s");
    }

    #[test]
    fn a_line_is_cut_by_its_columns_and_holds_no_control_character() {
        for (text, columns, line) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("abcd", 4, "abcd"),
            ("雪雪雪", 6, "雪雪雪"),
            ("雪雪雪", 5, "雪雪…"),
            ("雪雪雪雪", 6, "雪雪…"),
            ("a\u{1b}[2Jb\nc\td", 20, "a [2Jb c d"),
            ("a\u{202e}b", 20, "a b"),
            ("", 3, ""),
        ] {
            assert_eq!(one_line(text, columns), line, "{text:?} in {columns}");
        }
    }

    #[test]
    fn times_in_the_past() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let now = 1_769_940_000_000; // 2026-02-01T10:00:00Z
        let hour = 3_600_000;
        for (text, at) in [
            ("24h", now - 24 * hour),
            ("30d", now - 30 * 24 * hour),
            ("1h 30m", now - hour - hour / 2),
            ("2026-02-01T10:00:00Z", now),
            ("1769940000000", now),
            ("2026-02-01", now - 18 * hour),
            ("2026-02-01 18:00", now),
            ("2026-02-01T18:00:00", now),
        ] {
            let since: Since = text.parse().unwrap();
            assert_eq!(since.resolve(now, &zone), Ok(at), "{text}");
        }
        for bad in ["", "yesterday", "24", "2026-13-01", "-5h"] {
            assert!(bad.parse::<Since>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_to_come() {
        for (text, at) in [
            ("+2h", 7_200_001),
            (" 1769940000000 ", 1_769_940_000_000),
            ("2026-02-01T10:00:00Z", 1_769_940_000_000),
        ] {
            assert_eq!(text.parse::<Later>().unwrap().resolve(1), at, "{text}");
        }
        for bad in ["2h", "+", "+soon", "2026-02-01"] {
            assert!(bad.parse::<Later>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proposed_command_survives_its_shell() {
        for (text, word) in [
            ("spring-1", "spring-1"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$(x)", "'$(x)'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn lists_are_cut() {
        assert_eq!(listed(&[1, 2, 3], 3), "1, 2, 3");
        assert_eq!(listed(&[1, 2, 3], 2), "1, 2 and 1 more");
    }
}
