//! Where gateways write what: the task's id, its video's links, their words.

use serde_json::Value;

use super::reply::shorten;
use crate::job::is_task_id;

/// The objects that may speak of the task, best first: gateways wrap it in `data`, some in a
/// list of one there. What that holds in a `data` of its own is another gateway's answer, and
/// may be of an earlier poll.
pub(super) fn layers(json: &Value) -> Vec<&Value> {
    let mut layers = vec![json];
    while let Some(inner) = layers.last().and_then(|layer| layer.get("data")) {
        let inner = match inner.as_array().map(Vec::as_slice) {
            Some([only]) => only,
            _ => inner,
        };
        if !inner.is_object() || layers.len() >= 3 {
            break;
        }
        layers.push(inner);
    }
    layers.rotate_left(1);
    layers
}

/// The id to poll with: the POST's `id`, else `task_id`; a number is the
/// gateway's row, so a text beside it goes first.
pub(super) fn task_id(json: &Value) -> Option<String> {
    let text = |layer: &Value, name: &str| match layer.get(name) {
        Some(Value::String(id)) => Some(id.trim().to_owned()),
        _ => None,
    };
    let number = |layer: &Value, name: &str| match layer.get(name) {
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    // A sentence where an id should be says something else.
    let usable = |id: &String| is_task_id(id);
    let mut layers = layers(json);
    // Outermost first.
    layers.rotate_right(1);
    let found = layers.iter().find_map(|layer| {
        text(layer, "id")
            .filter(usable)
            .or_else(|| text(layer, "task_id").filter(usable))
            .or_else(|| number(layer, "id"))
            .or_else(|| number(layer, "task_id"))
    });
    let complains = ["/error/message", "/error"].iter().any(|place| {
        let words = json.pointer(place).and_then(Value::as_str);
        words.is_some_and(|words| !words.trim().is_empty())
    });
    // What else may name a task, if it is not the id of a request that failed.
    if found.is_some() || complains || !layers.iter().all(|layer| has_good_code(layer)) {
        return found;
    }
    text(json, "data").filter(usable).or_else(|| {
        layers.iter().find_map(|layer| {
            text(layer, "request_id")
                .filter(usable)
                .or_else(|| text(layer, "video_id").filter(usable))
        })
    })
}

/// `code` says nothing, or that it went well.
fn has_good_code(layer: &Value) -> bool {
    let code = match layer.get("code") {
        None | Some(Value::Null) => return true,
        Some(Value::String(code)) => code.trim().to_lowercase(),
        Some(code) => code.to_string(),
    };
    ["", "0", "200", "20000", "success", "ok"].contains(&code.as_str())
}

pub(super) fn progress(value: &Value) -> Option<u8> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().trim_end_matches('%').trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then(|| number.clamp(0.0, 100.0) as u8)
}

/// Every place where a finished video's URL was seen, best first. Only http(s)
/// and relative ones; anything else is never fetched.
pub fn urls(json: &Value) -> Vec<String> {
    const PLACES: &[&str] = &[
        "/video_url",
        "/result/video_url",
        "/result/outputs",
        "/result/url",
        "/result_url",
        "/url",
        "/video/url",
        "/output/url",
        "/output/video_url",
        "/output",
        "/outputs",
        "/output_url",
        "/metadata/url",
        "/content/video_url",
        "/content/url",
        "/fail_reason",
    ];
    let mut found: Vec<String> = Vec::new();
    let mut take = |value: &Value| {
        if let Some(url) = value.as_str().map(str::trim)
            && is_fetchable(url)
            && !found.iter().any(|known| known == url)
        {
            found.push(url.to_owned());
        }
    };
    for layer in layers(json) {
        for place in PLACES {
            match layer.pointer(place) {
                Some(Value::Array(items)) => {
                    for item in items {
                        take(item);
                        for name in ["url", "video_url"] {
                            item.get(name).into_iter().for_each(&mut take);
                        }
                    }
                }
                Some(value) => take(value),
                None => {}
            }
        }
    }
    found
}

fn is_fetchable(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    (lower.starts_with("http://") || lower.starts_with("https://") || lower.starts_with('/'))
        && url.len() <= 8_192
}

/// The provider's own words about what is wrong.
pub(super) fn said(json: &Value) -> Option<String> {
    const PLACES: &[&str] = &[
        "/error/message",
        "/error",
        "/fail_reason",
        "/error_message",
        "/message",
        "/msg",
        "/detail",
    ];
    let layers = layers(json);
    let message = layers.iter().find_map(|layer| {
        PLACES.iter().find_map(|place| {
            let text = match layer.pointer(place)? {
                Value::String(text) => text.trim().to_owned(),
                value @ Value::Array(_) => value.to_string(),
                _ => return None,
            };
            (!text.is_empty()).then_some(text)
        })
    })?;
    let code = layers.iter().find_map(|layer| {
        let code = layer.pointer("/error/code")?.as_str()?.trim();
        (!code.is_empty() && !message.contains(code)).then(|| code.to_owned())
    });
    Some(shorten(
        &match code {
            Some(code) => format!("{message} ({code})"),
            None => message,
        },
        500,
    ))
}

pub(super) fn code_words(json: &Value) -> String {
    ["/error/code", "/error/type", "/code", "/type"]
        .iter()
        .filter_map(|place| json.pointer(place)?.as_str())
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join(" ")
}
