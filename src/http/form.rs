//! The parameters of a multipart form. SDKs flatten nested values into names
//! such as `metadata[film][scene]` and `images[]`; here they are put together again.

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};
use super::input::{MAX_BODY, broken_off, patient, too_long};
use super::params::Given;

/// The most fields of a form.
const FIELDS: usize = 512;

/// The deepest nesting of a name.
const DEPTH: usize = 16;

/// Why no file is taken, and what to do.
const NO_FILES: &str = "is an uploaded file, but the provider fetches the image itself and needs its URL: \
     put the image where the provider can reach it, such as a web server or object storage, and pass \
     that http(s) URL as image_url";

/// Reads a form to its end.
pub(super) async fn read(request: Request) -> ApiResult<Vec<Given>> {
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|_| ApiError::bad("invalid_form", "the form's Content-Type has no boundary"))?;
    let mut given = Vec::new();
    let mut length = 0;
    let mut fields = 0;
    while let Some(field) = patient(form.next_field()).await?.map_err(broken)? {
        fields += 1;
        if fields > FIELDS {
            let message = format!("the form has more than {FIELDS} fields");
            return Err(ApiError::bad("invalid_form", message));
        }
        let Some(name) = field.name().map(str::to_owned) else {
            return Err(ApiError::bad(
                "invalid_form",
                "a field of the form has no name",
            ));
        };
        if is_file(&field) {
            let message = format!("{name} {NO_FILES}");
            return Err(ApiError::param(name, "file_not_supported", message));
        }
        let text = text(&name, field, &mut length).await?;
        let (base, path) = split(&name)?;
        place(&mut given, base, &path, text)?;
    }
    Ok(given)
}

/// Text fields have no file name, and no type but a text's.
fn is_file(field: &Field<'_>) -> bool {
    let of_text = |kind: &str| kind.starts_with("text/") || kind.starts_with("application/json");
    field.file_name().is_some() || field.content_type().is_some_and(|kind| !of_text(kind))
}

async fn text(name: &str, mut field: Field<'_>, length: &mut usize) -> ApiResult<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = patient(field.chunk()).await?.map_err(broken)? {
        *length += chunk.len();
        if *length > MAX_BODY {
            return Err(too_long(MAX_BODY));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| {
        let message = format!("{name} is not UTF-8 text");
        ApiError::param(name.to_owned(), "invalid_value", message)
    })
}

fn broken(error: MultipartError) -> ApiError {
    match error.status().is_server_error() {
        true => broken_off(),
        false => ApiError::bad("invalid_form", format!("the form cannot be read: {error}")),
    }
}

/// `a[b][]` is `a` and `["b", ""]`.
fn split(name: &str) -> ApiResult<(&str, Vec<&str>)> {
    let fault = || {
        let message = format!("{name} is not a name such as prompt or metadata[scene]");
        ApiError::param(name.to_owned(), "unknown_parameter", message)
    };
    let Some((base, rest)) = name.split_once('[') else {
        return Ok((name, Vec::new()));
    };
    let inner = rest.strip_suffix(']').ok_or_else(fault)?;
    let path: Vec<&str> = inner.split("][").collect();
    if path.len() > DEPTH || path.iter().any(|part| part.contains(['[', ']'])) {
        return Err(fault());
    }
    Ok((base, path))
}

fn place(given: &mut Vec<Given>, base: &str, path: &[&str], text: String) -> ApiResult<()> {
    let there = given.iter_mut().find(|given| given.name == base);
    let taken = match there {
        Some(there) => !put(&mut there.value, path, text),
        None => {
            let mut value = Value::Null;
            let done = put(&mut value, path, text);
            given.push(Given {
                name: base.to_owned(),
                value,
                source: None,
                loose: true,
            });
            !done
        }
    };
    if taken {
        let message = format!("{base} is given twice");
        return Err(ApiError::param(base.to_owned(), "invalid_value", message));
    }
    Ok(())
}

/// False where something else is there already.
fn put(at: &mut Value, path: &[&str], text: String) -> bool {
    let Some((part, rest)) = path.split_first() else {
        let free = at.is_null();
        if free {
            *at = Value::String(text);
        }
        return free;
    };
    if at.is_null() {
        *at = match *part {
            "" => Value::Array(Vec::new()),
            _ => Value::Object(Map::new()),
        };
    }
    match at {
        Value::Array(list) if part.is_empty() => {
            let mut element = Value::Null;
            let done = put(&mut element, rest, text);
            list.push(element);
            done
        }
        Value::Object(map) if !part.is_empty() => {
            put(map.entry(*part).or_insert(Value::Null), rest, text)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_names_are_put_together() {
        let mut given = Vec::new();
        for (name, text) in [
            ("prompt", "p"),
            ("metadata[a]", "1"),
            ("metadata[b][c][]", "x"),
            ("metadata[b][c][]", "y"),
            ("input_reference[image_url]", "u"),
        ] {
            let (base, path) = split(name).unwrap();
            place(&mut given, base, &path, text.to_owned()).unwrap();
        }
        let values: Vec<_> = given.iter().map(|given| given.value.clone()).collect();
        assert_eq!(
            values,
            [
                json!("p"),
                json!({"a": "1", "b": {"c": ["x", "y"]}}),
                json!({"image_url": "u"})
            ]
        );
        for twice in [
            "prompt",
            "prompt[x]",
            "metadata",
            "metadata[a]",
            "metadata[]",
        ] {
            let (base, path) = split(twice).unwrap();
            assert!(
                place(&mut given, base, &path, String::new()).is_err(),
                "{twice}"
            );
        }
        for bad in ["a[", "a[b", "a[b]c", "a]b[", "a[[b]]"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
