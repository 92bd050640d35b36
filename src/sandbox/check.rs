//! The rules a create request must keep, each with the answer its breach gets. Pure.
//!
//! Where the documentation is silent: `null` counts as not passed, a parameter it does not name
//! is ignored, and the two spellings of one thing must not contradict each other.

use serde_json::{Map, Value};
use url::Url;

use super::order::{MODEL, Order, Size};

/// The largest request body, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Seconds of a video when neither `duration` nor `seconds` says it, as the upstream service does.
const DEFAULT_DURATION: u32 = 8;
/// The resolution when neither `size` nor `resolution` says it, as the upstream service does.
const DEFAULT_SIZE: Size = Size::P480;

/// Why a request was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: &'static str,
    /// `error.param`: the parameter at fault, where there is one.
    pub param: Option<&'static str>,
    /// `error.message`, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal that is the request's own fault and names no parameter.
    pub fn request(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            message: message.into(),
        }
    }

    /// A refusal by the gateway itself: a key, a limit, an outage.
    pub fn gateway(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "new_api_error",
            code,
            param: None,
            message: message.into(),
        }
    }

    /// A 400 that names the parameter at fault.
    pub fn param(code: &'static str, param: &'static str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param),
            ..Self::request(400, code, message)
        }
    }
}

/// Parameters that must not be passed, and why not.
const FORBIDDEN: [(&[&str], &str); 4] = [
    (
        &["images", "image_urls", "reference_image_urls"],
        "takes one input image: pass it as image or image_url, not as images, image_urls or reference_image_urls",
    ),
    (
        &["video", "video_url", "videos", "video_urls"],
        "takes no video input: do not pass video, video_url, videos or video_urls",
    ),
    (
        &["aspect_ratio"],
        "has no aspect_ratio: the orientation is that of the input image, so pass a landscape or a portrait image",
    ),
    // SDKs merge `extra_body` into the body itself, so the operation may arrive here as well.
    (&["operation"], EDITING),
];

const EDITING: &str =
    "neither edits nor extends videos, and makes none from text alone: do not pass operation";

/// Checks the body of `POST /v1/videos` and returns what it orders.
///
/// # Errors
/// The first rule that is broken, in the order of the documentation's parameter table.
pub fn order(body: &[u8]) -> Result<Order, Refusal> {
    let body = object(body)?;
    check_model(&body)?;
    for (names, why) in FORBIDDEN {
        if let Some(name) = names.iter().find(|name| given(&body, name).is_some()) {
            return Err(Refusal::param(
                "unsupported_parameter",
                name,
                format!("{MODEL} {why}."),
            ));
        }
    }
    check_extra_body(&body)?;
    Ok(Order {
        prompt: prompt(&body)?,
        image_url: image(&body)?,
        duration: duration(&body)?,
        size: size(&body)?,
    })
}

/// Checks the body of `POST /v1/images/generations`, which cannot succeed here.
pub fn image_generation(body: &[u8]) -> Refusal {
    match object(body).and_then(|body| check_model(&body)) {
        Err(refusal) => refusal,
        Ok(()) => Refusal::param(
            "model_not_supported",
            "model",
            format!("{MODEL} is a video model: call /v1/videos, not /v1/images/generations."),
        ),
    }
}

type Body = Map<String, Value>;

fn object(body: &[u8]) -> Result<Body, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::request(
            400,
            "invalid_json",
            "The body must be a JSON object.",
        )),
        Err(error) => Err(Refusal::request(
            400,
            "invalid_json",
            format!("The body is not JSON: {error}."),
        )),
    }
}

/// The parameter's value, if it was passed.
fn given<'a>(body: &'a Body, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

fn text<'a>(body: &'a Body, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    match given(body, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Refusal::param(
            "invalid_type",
            name,
            format!("{name} must be a string, not {}.", kind_of(other)),
        )),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn check_model(body: &Body) -> Result<(), Refusal> {
    match text(body, "model")? {
        Some(MODEL) => Ok(()),
        Some(other) => {
            let message = format!("The model \"{other}\" does not exist; always pass {MODEL}.");
            Err(Refusal::param("model_not_found", "model", message))
        }
        None => Err(missing(
            "model",
            format!("model is required: always pass {MODEL}."),
        )),
    }
}

fn missing(param: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::param("missing_required_parameter", param, message)
}

fn check_extra_body(body: &Body) -> Result<(), Refusal> {
    match given(body, "extra_body") {
        None => Ok(()),
        Some(Value::Object(extra)) if given(extra, "operation").is_none() => Ok(()),
        Some(Value::Object(_)) => {
            let message = format!("{MODEL} {EDITING}.");
            Err(Refusal::param(
                "unsupported_parameter",
                "extra_body.operation",
                message,
            ))
        }
        Some(other) => {
            let message = format!("extra_body must be an object, not {}.", kind_of(other));
            Err(Refusal::param("invalid_type", "extra_body", message))
        }
    }
}

fn prompt(body: &Body) -> Result<String, Refusal> {
    match text(body, "prompt")? {
        Some(prompt) if !prompt.trim().is_empty() => Ok(prompt.to_owned()),
        Some(_) => Err(Refusal::param(
            "invalid_value",
            "prompt",
            "prompt must not be blank.",
        )),
        None => Err(missing("prompt", "prompt is required.")),
    }
}

fn image(body: &Body) -> Result<String, Refusal> {
    let (name, link) = match (text(body, "image")?, text(body, "image_url")?) {
        (Some(image), None) => ("image", image),
        (None, Some(image_url)) => ("image_url", image_url),
        (Some(_), Some(_)) => {
            let message = "Pass only one of image and image_url.";
            return Err(Refusal::param(
                "conflicting_parameters",
                "image_url",
                message,
            ));
        }
        (None, None) => {
            let message = format!(
                "{MODEL} needs an input image: pass image or image_url; a prompt alone will not do."
            );
            return Err(missing("image_url", message));
        }
    };
    match Url::parse(link) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(link.to_owned()),
        _ => {
            let message =
                format!("{name} must be an http or https URL that the platform can reach.");
            Err(Refusal::param("invalid_value", name, message))
        }
    }
}

fn duration(body: &Body) -> Result<u32, Refusal> {
    let in_range = |name: &'static str, seconds: Option<u64>| match seconds {
        Some(seconds @ 1..=15) => Ok(seconds as u32),
        _ => {
            let message = format!("{name} must be a whole number of seconds from 1 to 15.");
            Err(Refusal::param("invalid_value", name, message))
        }
    };
    let duration = match given(body, "duration") {
        None => None,
        Some(Value::Number(number)) => Some(in_range("duration", number.as_u64())?),
        Some(other) => {
            let message = format!("duration must be an integer, not {}.", kind_of(other));
            return Err(Refusal::param("invalid_type", "duration", message));
        }
    };
    let seconds = match text(body, "seconds")? {
        None => None,
        // `parse` would take a plus sign as well.
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(in_range("seconds", text.parse().ok())?)
        }
        Some(_) => Some(in_range("seconds", None)?),
    };
    agreed("seconds", "duration", seconds, duration, DEFAULT_DURATION)
}

fn size(body: &Body) -> Result<Size, Refusal> {
    let tier = |name| match text(body, name)?.map(str::parse).transpose() {
        Ok(tier) => Ok(tier),
        Err(error) => Err(Refusal::param(
            "invalid_value",
            name,
            format!("{name}: {error}."),
        )),
    };
    let (size, resolution) = (tier("size")?, tier("resolution")?);
    agreed("resolution", "size", resolution, size, DEFAULT_SIZE)
}

/// One value from a compatibility field and the preferred one.
fn agreed<T: PartialEq>(
    compatible: &'static str,
    preferred: &'static str,
    old: Option<T>,
    new: Option<T>,
    default: T,
) -> Result<T, Refusal> {
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let message = format!(
                "{compatible} contradicts {preferred}; pass {preferred} alone, or the same value twice."
            );
            Err(Refusal::param(
                "conflicting_parameters",
                compatible,
                message,
            ))
        }
        (old, new) => Ok(new.or(old).unwrap_or(default)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The documentation's minimum request with `change` laid over it; `null` takes away.
    fn with(change: &Value) -> Result<Order, Refusal> {
        let mut body = json!({
            "model": MODEL,
            "prompt": "A calm product video, slow camera movement, soft light, no text.",
            "image_url": "https://example.com/source.jpg",
            "duration": 6,
            "size": "720p",
        });
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        order(body.to_string().as_bytes())
    }

    #[test]
    fn every_breach_is_a_400_that_names_its_parameter() {
        for (change, param, code) in [
            (
                json!({"model": null}),
                "model",
                "missing_required_parameter",
            ),
            (json!({"model": 1}), "model", "invalid_type"),
            (json!({"model": "grok-imagine"}), "model", "model_not_found"),
            (
                json!({"prompt": null}),
                "prompt",
                "missing_required_parameter",
            ),
            (json!({"prompt": " \n"}), "prompt", "invalid_value"),
            (json!({"prompt": ["a"]}), "prompt", "invalid_type"),
            (
                json!({"image_url": null}),
                "image_url",
                "missing_required_parameter",
            ),
            (
                json!({"image": "https://example.com/a.jpg"}),
                "image_url",
                "conflicting_parameters",
            ),
            (json!({"image_url": ""}), "image_url", "invalid_value"),
            (
                json!({"image_url": "source.jpg"}),
                "image_url",
                "invalid_value",
            ),
            (
                json!({"image_url": "file:///etc/passwd"}),
                "image_url",
                "invalid_value",
            ),
            (
                json!({"image_url": "data:image/png;base64,AAAA"}),
                "image_url",
                "invalid_value",
            ),
            (
                json!({"image_url": "https://"}),
                "image_url",
                "invalid_value",
            ),
            (
                json!({"image_url": {"url": "https://example.com/a.jpg"}}),
                "image_url",
                "invalid_type",
            ),
            (
                json!({"image_url": null, "image": "ftp://example.com/a.jpg"}),
                "image",
                "invalid_value",
            ),
            (
                json!({"images": ["https://example.com/a.jpg"]}),
                "images",
                "unsupported_parameter",
            ),
            (json!({"images": []}), "images", "unsupported_parameter"),
            (
                json!({"image_urls": []}),
                "image_urls",
                "unsupported_parameter",
            ),
            (
                json!({"reference_image_urls": []}),
                "reference_image_urls",
                "unsupported_parameter",
            ),
            (
                json!({"video": "https://example.com/a.mp4"}),
                "video",
                "unsupported_parameter",
            ),
            (
                json!({"video_url": "https://example.com/a.mp4"}),
                "video_url",
                "unsupported_parameter",
            ),
            (json!({"videos": []}), "videos", "unsupported_parameter"),
            (
                json!({"video_urls": []}),
                "video_urls",
                "unsupported_parameter",
            ),
            (
                json!({"aspect_ratio": "16:9"}),
                "aspect_ratio",
                "unsupported_parameter",
            ),
            (
                json!({"operation": "edit_video"}),
                "operation",
                "unsupported_parameter",
            ),
            (
                json!({"extra_body": {"operation": "edit_video"}}),
                "extra_body.operation",
                "unsupported_parameter",
            ),
            (
                json!({"extra_body": {"operation": "video_extend"}}),
                "extra_body.operation",
                "unsupported_parameter",
            ),
            (
                json!({"extra_body": "edit_video"}),
                "extra_body",
                "invalid_type",
            ),
            (json!({"duration": 0}), "duration", "invalid_value"),
            (json!({"duration": 16}), "duration", "invalid_value"),
            (json!({"duration": -1}), "duration", "invalid_value"),
            (json!({"duration": 6.5}), "duration", "invalid_value"),
            (json!({"duration": 6.0}), "duration", "invalid_value"),
            (json!({"duration": u64::MAX}), "duration", "invalid_value"),
            (json!({"duration": "6"}), "duration", "invalid_type"),
            (json!({"duration": true}), "duration", "invalid_type"),
            (json!({"seconds": 6}), "seconds", "invalid_type"),
            (json!({"seconds": "6s"}), "seconds", "invalid_value"),
            (json!({"seconds": "+6"}), "seconds", "invalid_value"),
            (json!({"seconds": ""}), "seconds", "invalid_value"),
            (json!({"seconds": "16"}), "seconds", "invalid_value"),
            (json!({"seconds": "7"}), "seconds", "conflicting_parameters"),
            (json!({"size": "1920x1080"}), "size", "invalid_value"),
            (json!({"size": "1280x720"}), "size", "invalid_value"),
            (json!({"size": "4k"}), "size", "invalid_value"),
            (json!({"size": "720P"}), "size", "invalid_value"),
            (json!({"size": 720}), "size", "invalid_type"),
            (json!({"resolution": "4k"}), "resolution", "invalid_value"),
            (
                json!({"resolution": "480p"}),
                "resolution",
                "conflicting_parameters",
            ),
        ] {
            let refusal = with(&change).unwrap_err();
            assert_eq!(
                (refusal.param, refusal.code),
                (Some(param), code),
                "{change}"
            );
            assert_eq!(
                (refusal.status, refusal.kind),
                (400, "invalid_request_error"),
                "{change}"
            );
            // The message tells a person which parameter it is about.
            let name = param.rsplit('.').next().unwrap();
            assert!(
                refusal.message.contains(name),
                "{change}: {}",
                refusal.message
            );
        }
    }

    #[test]
    fn what_is_documented_passes() {
        let order = with(&json!({})).unwrap();
        assert_eq!((order.duration, order.size), (6, Size::P720));
        for change in [
            json!({"image_url": null, "image": "https://example.com/landscape.png"}),
            json!({"seconds": "6", "resolution": "720p"}),
            json!({"duration": null, "seconds": "6", "size": null, "resolution": "720p"}),
            json!({"images": null, "aspect_ratio": null, "extra_body": null}),
            json!({"extra_body": {}, "user": "someone"}),
        ] {
            let order = with(&change).unwrap_or_else(|refusal| panic!("{change}: {refusal:?}"));
            assert_eq!((order.duration, order.size), (6, Size::P720), "{change}");
        }
        for duration in 1..=15 {
            assert_eq!(
                with(&json!({"duration": duration})).unwrap().duration,
                duration
            );
        }
        let default = with(&json!({"duration": null, "size": null})).unwrap();
        assert_eq!((default.duration, default.size), (8, Size::P480));
    }

    #[test]
    fn a_body_must_be_a_json_object() {
        for body in ["", "{", "[]", "null", "\"text\"", "model=grok-video-1.5"] {
            let refusal = order(body.as_bytes()).expect_err(body);
            assert_eq!(
                (refusal.status, refusal.code, refusal.param),
                (400, "invalid_json", None),
                "{body}"
            );
        }
    }

    #[test]
    fn the_image_endpoint_gives_the_hint() {
        let refusal = image_generation(br#"{"model": "grok-video-1.5", "prompt": "a cat"}"#);
        assert_eq!((refusal.status, refusal.param), (400, Some("model")));
        assert!(
            refusal.message.contains("call /v1/videos"),
            "{}",
            refusal.message
        );
        assert_eq!(
            image_generation(br#"{"model": "other"}"#).code,
            "model_not_found"
        );
    }
}
