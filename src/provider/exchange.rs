//! One request and its whole answer.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;

use crate::job::Millis;
use crate::verdict::{Answer, Reply};

/// The most that is read of an answer that is not a video, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

pub(super) async fn exchange(request: RequestBuilder) -> Reply {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() || error.is_builder() => {
            return Reply::NotSent(chain(error));
        }
        Err(error) => {
            return Reply::Lost {
                symptom: if error.is_timeout() {
                    "timeout"
                } else {
                    "broken"
                },
                error: if error.is_timeout() {
                    "the request was sent, at least in part, but no answer came in time".to_owned()
                } else {
                    format!(
                        "the request was sent, at least in part, but the connection broke: {}",
                        chain(error)
                    )
                },
            };
        }
    };
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after: retry_after(response.headers()),
        request_id: request_ids(response.headers()),
        ..Answer::default()
    };
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if answer.body.len() + chunk.len() <= MAX_ANSWER => {
                answer.body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                answer.broken = Some(format!("longer than {MAX_ANSWER} bytes"));
                break;
            }
            Ok(None) => break,
            Err(error) => {
                answer.broken = Some(chain(error));
                break;
            }
        }
    }
    answer.body = unzipped(answer.body, MAX_ANSWER);
    Reply::Answer(answer)
}

/// Some gateways compress unasked, and some say that they do and do not: the bytes decide. What
/// cannot be unpacked, or not to at most so many bytes, stays as it is.
pub(crate) fn unzipped(body: Vec<u8>, most: usize) -> Vec<u8> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return body;
    }
    let mut plain = Vec::new();
    let limit = most as u64 + 1;
    match MultiGzDecoder::new(body.as_slice())
        .take(limit)
        .read_to_end(&mut plain)
    {
        Ok(length) if length <= most => plain,
        _ => body,
    }
}

/// The causes of an error in one line, without the address, which may be signed.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        source = cause.source();
    }
    words
}

/// Seconds, or a date: that is compared with the answer's own, so no two clocks need to agree.
fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let date = |name| jiff::fmt::rfc2822::parse(text(name)?).ok();
    let seconds = ["retry-after", "llm_provider-retry-after"]
        .iter()
        .find_map(|name| text(name)?.parse::<f64>().ok())
        .or_else(|| {
            let (until, now) = (date("retry-after")?, date("date")?);
            Some((until.timestamp().as_second() - now.timestamp().as_second()) as f64)
        })?;
    (seconds.is_finite() && seconds >= 0.0).then_some((seconds * 1_000.0) as Millis)
}

fn request_ids(headers: &HeaderMap) -> Option<String> {
    let ids: Vec<String> = [
        "x-oneapi-request-id",
        "x-request-id",
        "x-litellm-call-id",
        "cf-ray",
    ]
    .iter()
    .filter_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        Some(format!("{name}: {}", crate::verdict::shorten(value, 200)))
    })
    .collect();
    (!ids.is_empty()).then(|| ids.join(", "))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_a_date() {
        let asked = |headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            retry_after(&headers.collect())
        };
        let now = ("date", "Wed, 25 Nov 2026 03:50:00 GMT");
        assert_eq!(asked(&[("retry-after", "7")]), Some(7_000));
        assert_eq!(asked(&[("llm_provider-retry-after", "0.5")]), Some(500));
        let later = ("retry-after", "Wed, 25 Nov 2026 03:50:20 GMT");
        assert_eq!(asked(&[now, later]), Some(20_000));
        assert_eq!(asked(&[later]), None, "compared with nothing");
        let before = ("retry-after", "Wed, 25 Nov 2026 03:49:00 GMT");
        assert_eq!(asked(&[now, before]), None);
        assert_eq!(asked(&[now, ("retry-after", "soon")]), None);
    }

    #[test]
    fn an_answer_is_unpacked_if_it_is_packed() {
        let pack = |bytes: &[u8]| {
            let mut packer = GzEncoder::new(Vec::new(), Compression::default());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        };
        let packed = pack(b"{}");
        assert_eq!(unzipped(packed.clone(), 2), b"{}");
        assert_eq!(unzipped(b"{}".to_vec(), 2), b"{}");
        // Too long, cut, or no gzip after all: as it came.
        for odd in [pack(b"abc"), packed[..12].to_vec(), b"\x1f\x8bodd".to_vec()] {
            assert_eq!(unzipped(odd.clone(), 2), odd);
        }
        assert_eq!(
            unzipped(pack(&[b' '; 1 << 20]), 9).len(),
            pack(&[b' '; 1 << 20]).len()
        );
    }
}
