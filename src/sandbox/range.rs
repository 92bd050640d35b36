//! `Range` and `If-Range` (RFC 9110, section 14). Pure.

use std::ops::Range;

/// What part of a body a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it, with status 200.
    Whole,
    /// These bytes, with status 206; never empty.
    Bytes(Range<usize>),
    /// Bytes that are not there: status 416.
    Unsatisfiable,
}

/// Which part of `len` bytes the headers ask for. A `Range` that is malformed, that has several
/// ranges, or whose `If-Range` names another version than `etag` is ignored, as the RFC allows.
pub fn part(range: Option<&str>, if_range: Option<&str>, etag: &str, len: usize) -> Part {
    if if_range.is_some_and(|version| version != etag) {
        return Part::Whole;
    }
    let Some((first, last)) = range.and_then(parse) else {
        return Part::Whole;
    };
    let bytes = match (first, last) {
        (Some(first), Some(last)) if first > last => return Part::Whole,
        (Some(first), last) => first..last.map_or(len, |last| len.min(last.saturating_add(1))),
        (None, Some(suffix)) => len.saturating_sub(suffix)..len,
        (None, None) => return Part::Whole,
    };
    if bytes.is_empty() {
        Part::Unsatisfiable
    } else {
        Part::Bytes(bytes)
    }
}

fn parse(range: &str) -> Option<(Option<usize>, Option<usize>)> {
    let (unit, spec) = range.split_once('=')?;
    let (first, last) = spec.trim().split_once('-')?;
    unit.eq_ignore_ascii_case("bytes")
        .then_some((number(first)?, number(last)?))
}

/// Nothing, or digits; a number too large to count is as good as the largest.
fn number(text: &str) -> Option<Option<usize>> {
    match text {
        "" => Some(None),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(Some(text.parse().unwrap_or(usize::MAX)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        for (range, expected) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=0-99", Part::Bytes(0..100)),
            ("bytes=10-19", Part::Bytes(10..20)),
            ("bytes=10-", Part::Bytes(10..100)),
            ("bytes=90-1000", Part::Bytes(90..100)),
            ("bytes=90-99999999999999999999999", Part::Bytes(90..100)),
            ("bytes=-1", Part::Bytes(99..100)),
            ("bytes=-1000", Part::Bytes(0..100)),
            ("Bytes=5-6", Part::Bytes(5..7)),
            ("bytes=100-", Part::Unsatisfiable),
            ("bytes=100-200", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=7-3", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("items=0-1", Part::Whole),
            ("bytes", Part::Whole),
        ] {
            assert_eq!(part(Some(range), None, "\"v\"", 100), expected, "{range}");
        }
        assert_eq!(part(None, None, "\"v\"", 100), Part::Whole);
    }

    #[test]
    fn a_range_of_another_version_is_the_whole() {
        let asked = |if_range| part(Some("bytes=1-"), Some(if_range), "\"v\"", 100);
        assert_eq!(asked("\"v\""), Part::Bytes(1..100));
        assert_eq!(asked("\"w\""), Part::Whole);
        assert_eq!(asked("W/\"v\""), Part::Whole);
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), Part::Whole);
    }
}
