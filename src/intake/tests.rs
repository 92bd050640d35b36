use std::io::{self, BufReader, Read};

use proptest::prelude::*;

use super::*;
use crate::job::DEFAULT_BATCH;

use Format::{Csv, Json, Jsonl};

/// Reads it all, as one chunk and byte by byte: both must say the same.
fn all(format: Format, text: &[u8]) -> Vec<Result<Entry, LineFault>> {
    let collect = |input: &mut dyn BufRead| -> Vec<Result<Entry, LineFault>> {
        read(format, input, &Defaults::default())
            .map(|item| {
                item.map_err(|error| match error {
                    ReadError::Line(fault) => fault,
                    ReadError::Io { .. } => unreachable!("memory does not break"),
                })
            })
            .collect()
    };
    let whole = collect(&mut &text[..]);
    let bytewise = collect(&mut BufReader::with_capacity(1, text));
    assert_eq!(whole, bytewise);
    whole
}

/// `2 ok` or `2 what is wrong; and more`, an item a line.
fn outline(format: Format, text: impl AsRef<[u8]>) -> String {
    let lines: Vec<String> = all(format, text.as_ref())
        .into_iter()
        .map(|item| match item {
            Ok(entry) => format!("{} ok", entry.line),
            Err(fault) => fault.to_string()["line ".len()..].replacen(':', "", 1),
        })
        .collect();
    lines.join("\n")
}

fn only(format: Format, text: impl AsRef<[u8]>) -> JobSpec {
    let mut items = all(format, text.as_ref());
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0).unwrap().spec
}

/// A JSON object with these members behind a good prompt and image.
fn with(members: &str) -> String {
    format!(r#"{{"prompt":"p","image_url":"https://i/1.png",{members}}}"#)
}

const GOOD: &str = r#"{"prompt":"p","image_url":"https://i/1.png"}"#;

#[test]
fn a_bare_job_has_every_default() {
    let spec = JobSpec::new("p", "https://i/1.png");
    assert_eq!(only(Jsonl, GOOD), spec);
    assert_eq!(only(Json, format!("[{GOOD}]")), spec);
    assert_eq!(only(Csv, "prompt,image_url\np,https://i/1.png"), spec);
    assert_eq!(spec.batch, DEFAULT_BATCH);
}

#[test]
fn every_field_is_read_from_every_format() {
    let spec = JobSpec {
        key: Some("k-1".into()),
        batch: "spring".into(),
        prompt: "雪, \"quoted\"\nsecond line".into(),
        image_url: "https://i/1.png?a=b&c=d".into(),
        duration: 10,
        size: Size::P1080,
        priority: -3,
        not_before: Some(1_769_853_600_000),
        metadata: Some(r#"{ "scene" :  1e2, "ref": "a\u0041" }"#.into()),
    };
    let object = r#"{"metadata": { "scene" :  1e2, "ref": "a\u0041" } , "not_before":"2026-01-31T18:00:00+08:00",
        "priority":-3,"size":"1080p","duration":10,"image_url":"https://i/1.png?a=b&c=d",
        "prompt":"雪, \"quoted\"\nsecond line","batch":"spring","key":"k-1"}"#;
    assert_eq!(only(Json, format!("\n[ {object} ]\n")), spec);
    assert_eq!(only(Jsonl, object.replace('\n', " ")), spec);
    let table = "size,not_before,key,batch,priority,duration,metadata,image_url,prompt\r\n\
                 1080p,1769853600000,k-1,spring,-3,10,\"{ \"\"scene\"\" :  1e2, \"\"ref\"\": \"\"a\\u0041\"\" }\",\
                 https://i/1.png?a=b&c=d,\"雪, \"\"quoted\"\"\nsecond line\"\r\n";
    assert_eq!(only(Csv, table), spec);
    assert_eq!(only(Csv, format!("\u{feff}{table}")), spec);
    // Separators of other countries and of the clipboard.
    for other in [";", "\t"] {
        assert_eq!(
            only(
                Csv,
                format!("key{other}prompt{other}image_url\nk{other}a, b{other}https://i/1.png")
            )
            .prompt,
            "a, b"
        );
    }
}

#[test]
fn defaults_apply_where_nothing_is_said() {
    let defaults = Defaults {
        batch: Some("b".into()),
        priority: Some(7),
        not_before: Some(1_769_853_600_000),
        duration: Some(3),
        size: Some(Size::P480),
    };
    let spec = spec_from_json(GOOD.as_bytes(), &defaults).unwrap();
    assert_eq!(
        (spec.batch.as_str(), spec.priority, spec.duration, spec.size),
        ("b", 7, 3, Size::P480)
    );
    assert_eq!(spec.not_before, defaults.not_before);
    let said =
        with(r#""batch":"own","priority":0,"duration":6,"size":"720p","not_before":0,"key":null"#);
    let spec = spec_from_json(said.as_bytes(), &defaults).unwrap();
    assert_eq!(
        (spec.batch.as_str(), spec.priority, spec.duration, spec.size),
        ("own", 0, 6, Size::P720)
    );
    assert_eq!(spec.not_before, Some(0));
    let table = "prompt,image_url,batch,duration\np,https://i/1.png,,\n";
    let entry = read(Csv, table.as_bytes(), &defaults).next().unwrap();
    assert_eq!(entry.unwrap().spec.batch, "b");
    // A bad default is a fault of the entry, never a job.
    let defaults = Defaults {
        duration: Some(99),
        ..Defaults::default()
    };
    let faults = spec_from_json(GOOD.as_bytes(), &defaults).unwrap_err();
    assert!(faults[0].reason.ends_with("found 99"), "{faults:?}");
}

#[test]
#[rustfmt::skip] // One line a case.
fn json_values_are_judged_strictly() {
    let long = "x".repeat(201);
    let deep = |times: usize| "[".repeat(times) + &"]".repeat(times);
    for (members, expected) in [
        // Numbers.
        (r#""duration":6.0"#, "1 ok"),
        (r#""duration":0"#, "1 duration must be a whole number of seconds from 1 to 15, found 0"),
        (r#""duration":16"#, "1 duration must be a whole number of seconds from 1 to 15, found 16"),
        (r#""duration":6.5"#, "1 duration must be a whole number of seconds from 1 to 15, found 6.5"),
        (r#""duration":-6"#, "1 duration must be a whole number of seconds from 1 to 15, found -6"),
        (r#""duration":4294967302"#, "1 duration must be a whole number of seconds from 1 to 15, found 4294967302"),
        (r#""duration":true"#, "1 duration must be a whole number of seconds from 1 to 15, found true"),
        (r#""duration":"6""#, "1 duration must be a whole number of seconds from 1 to 15, found \"6\": write it without quotes"),
        (r#""duration":"6s""#, "1 duration must be a whole number of seconds from 1 to 15, found \"6s\""),
        (r#""priority":-9223372036854775808"#, "1 ok"),
        (r#""priority":9223372036854775808"#, "1 priority must be a whole number of 64 bits, found 9223372036854775808"),
        (r#""priority":1e3"#, "1 priority must be a whole number of 64 bits, found 1e3"),
        (r#""priority":[1]"#, "1 priority must be a whole number of 64 bits, found [1]"),
        // Strings.
        (r#""key":7"#, "1 key must be a text in quotes, found 7"),
        (r#""key":"  ""#, "1 key must not be blank and must be at most 200 bytes, found \"  \""),
        (r#""key":"a\u0000b""#, "1 key must not hold a NUL byte, found \"a\\0b\""),
        (r#""key":"\ud800""#, "1 key has half of a surrogate pair (\\uD800 to \\uDFFF), found \"\\ud800\""),
        (r#""batch":"\ud83d\ude00""#, "1 ok"),
        (&format!("\"batch\":\"{long}\""), &format!("1 batch must not be blank and must be at most 200 bytes, found \"{}\"… of 201 bytes", &long[..60])),
        // Sizes.
        (r#""size":"720P""#, "1 size must be \"480p\", \"720p\" or \"1080p\", found \"720P\""),
        (r#""size":720"#, "1 size must be \"480p\", \"720p\" or \"1080p\", found 720"),
        // Times.
        (r#""not_before":1769853600000.0"#, "1 ok"),
        (r#""not_before":"1769853600000""#, "1 ok"),
        (r#""not_before":{}"#, "1 not_before must be Unix milliseconds or a time with an offset such as 2026-01-31T18:00:00+08:00, found {}"),
        // Metadata.
        (r#""metadata":{}"#, "1 ok"),
        (r#""metadata":[]"#, "1 metadata must be a JSON object, found []"),
        (r#""metadata":"{\"a\":1}""#, "1 metadata must be a JSON object, found \"{\\\"a\\\":1}\": write the object itself, not a text of it"),
        (&format!(r#""metadata":{{"a":{}}}"#, deep(999)), "1 ok"),
        (&format!(r#""metadata":{{"a":{}}}"#, deep(1_000)), "1 metadata must not be nested deeper than 1000"),
        (&format!(r#""metadata":{{"a":"\\\"{}"}}"#, "[".repeat(2_000)), "1 ok"),
        (r#""metadata":{"a":"\udead"}"#, "1 ok"),
        (r#""metadata":{"a":1e999}"#, "1 ok"),
        // Nothing said.
        (r#""key":null,"batch":null,"duration":null,"size":null,"priority":null,"not_before":null,"metadata":null"#, "1 ok"),
        // Names.
        (r#""promt":"x""#, "1 promt is not a field of a job: did you mean prompt?"),
        (r#""image":"x""#, "1 image is not a field of a job: did you mean image_url?"),
        (r#""imageUrl":"x""#, "1 imageUrl is not a field of a job: did you mean image_url?"),
        (r#""resolution":"x""#, "1 resolution is not a field of a job: did you mean size?"),
        (r#""seconds":"x""#, "1 seconds is not a field of a job: did you mean duration?"),
        (r#""Prompt":"x""#, "1 Prompt is not a field of a job: did you mean prompt?"),
        (r#""kye":"x""#, "1 kye is not a field of a job: did you mean key?"),
        (r#""metadata.a":"x""#, "1 metadata.a is not a field of a job: did you mean metadata?"),
        (r#""":"x""#, "1 \"\" is not a field of a job, which are: key, batch, prompt, image_url, duration, size, priority, not_before, metadata"),
        (r#""aspect_ratio":"x""#, "1 aspect_ratio is not a field of a job, which are: key, batch, prompt, image_url, duration, size, priority, not_before, metadata"),
        (r#""\u001b[31m":"x""#, "1 \\u{1b}[31m is not a field of a job, which are: key, batch, prompt, image_url, duration, size, priority, not_before, metadata"),
        (r#""prompt":"x""#, "1 prompt is given twice"),
        (r#""key":null,"key":"x""#, "1 key is given twice"),
        // Several at once.
        (r#""duration":99,"sise":1,"key":"","priority":"a""#, "1 duration must be a whole number of seconds from 1 to 15, found 99; sise is not a field of a job: did you mean size?; priority must be a whole number of 64 bits, found \"a\"; key must not be blank and must be at most 200 bytes, found \"\""),
    ] {
        assert_eq!(outline(Jsonl, with(members)), expected, "{members}");
        assert_eq!(
            outline(Json, format!("[{}]", with(members))).replacen(", job 1", "", 1),
            expected,
            "{members}"
        );
    }
}

#[test]
#[rustfmt::skip] // One line a case.
fn prompts_and_urls_are_required_and_judged() {
    for (line, expected) in [
        ("{}", "1 prompt is missing; image_url is missing"),
        (r#"{"prompt":null,"image_url":"https://i"}"#, "1 prompt is missing"),
        (
            r#"{"prompt":" \t\n","image_url":"ftp://i"}"#,
            "1 prompt must not be blank and must be at most 100000 bytes, found \" \\t\\n\"; image_url must be an \
             http:// or https:// URL without spaces, at most 8192 bytes, found \"ftp://i\"",
        ),
        (
            r#"{"promt":"p","image":"https://i"}"#,
            "1 promt is not a field of a job: did you mean prompt?; image is not a field of a job: did you \
             mean image_url?; prompt is missing; image_url is missing",
        ),
    ] {
        assert_eq!(outline(Jsonl, line), expected, "{line}");
    }
}

#[test]
#[rustfmt::skip] // One line a case.
fn lines_of_json_go_on_behind_a_bad_one() {
    for (text, expected) in [
        ("".to_owned(), ""),
        ("\n \r\n\t\n".to_owned(), ""),
        (format!("\u{feff}{GOOD}\r\n\r\n{GOOD}\r\n"), "1 ok\n3 ok"),
        (format!("  {GOOD}  \n{GOOD}"), "1 ok\n2 ok"),
        (format!("{{\"prompt\": \"a\" \"key\"\n{GOOD}"), "1 not valid JSON: expected `,` or `}` near {\"prompt\": \"a\" \"\n2 ok"),
        (format!("{GOOD}{GOOD}\n{GOOD}"), "1 not valid JSON: trailing characters near image_url\":\"https://i/1.png\"}{\n2 ok"),
        (format!("{GOOD},\n{GOOD}"), "1 not valid JSON: trailing characters near image_url\":\"https://i/1.png\"},\n2 ok"),
        (
            format!("7\n\"x\"\nnull\n# no comments\n{GOOD}"),
            "1 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found 7\n\
             2 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found \"x\"\n\
             3 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found null\n\
             4 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found # no comments\n\
             5 ok",
        ),
        (format!("[\n{GOOD}\n]"), "1 an object a line is needed, found an array: name it .json to have it read as one"),
        (
            format!("{{\"key\":01}}\n{{\"key\":\"a\0\"}}\n{GOOD}"),
            "1 not valid JSON: invalid number near {\"key\":01\n\
             2 not valid JSON: control character (\\u0000-\\u001F) found while parsing a string near {\"key\":\"a\n\
             3 ok",
        ),
    ] {
        assert_eq!(outline(Jsonl, &text), expected, "{text}");
    }
}

#[test]
fn broken_encodings_are_named() {
    let bad = b"{\"prompt\":\"caf\xE9\"}";
    let mut lines = bad.to_vec();
    lines.extend_from_slice(b"\n");
    lines.extend_from_slice(GOOD.as_bytes());
    assert_eq!(
        outline(Jsonl, &lines),
        "1 not UTF-8: byte 0xE9 after {\"prompt\":\"caf\n2 ok"
    );
    let array = [b"[", &bad[..], b",\n", GOOD.as_bytes(), b"]"].concat();
    assert_eq!(
        outline(Json, array),
        "1, job 1 not UTF-8: byte 0xE9 after {\"prompt\":\"caf\n2 ok"
    );
    // 雪 cut in two by a separator is no 雪.
    assert_eq!(
        outline(Csv, b"prompt,image_url\n\xE9\x9B,\xAA\na,https://i\n"),
        "2 prompt is not UTF-8, found \"\u{fffd}\": save the file as UTF-8; \
         image_url is not UTF-8, found \"\u{fffd}\": save the file as UTF-8\n3 ok"
    );
    for format in [Jsonl, Json, Csv] {
        for mark in [b"\xFF\xFEp\0,\0", b"\xFE\xFF\0p\0,"] {
            assert_eq!(
                outline(format, mark),
                "1 the input is UTF-16: save it as UTF-8"
            );
        }
    }
}

#[test]
#[rustfmt::skip] // One line a case.
fn arrays_are_cut_at_their_elements() {
    let needed = "a JSON array [{…}, {…}] is needed, found";
    for (text, expected) in [
        ("[]".to_owned(), String::new()),
        (" [ \n ] \n".to_owned(), String::new()),
        (format!("\u{feff}[{GOOD}\n,\n{GOOD},{GOOD}\n]"), "1 ok\n3 ok\n3 ok".to_owned()),
        ("".to_owned(), "1 a JSON array is needed, found nothing".to_owned()),
        (format!("\n{GOOD}\n{GOOD}"), format!("2 {needed} an object: name a file with one object a line .jsonl")),
        ("prompt,image_url".to_owned(), format!("1 {needed} p")),
        // What can be read on behind.
        (format!("[{GOOD}\n{GOOD},\n{GOOD}]"), "1 ok\n2, job 2 not valid JSON: a comma is missing before this element\n2 ok\n3 ok".to_owned()),
        (format!("[{GOOD},\n]"), "1 ok\n2 not valid JSON: no comma may stand before the closing ]".to_owned()),
        (format!("[{GOOD},\n,{GOOD}]"), "1 ok\n2, job 2 not valid JSON: an element is missing before this comma\n2 ok".to_owned()),
        (format!("[7, null ,\n\"a,]\", [1,[2]],\n{GOOD}]"), "1, job 1 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found 7\n1, job 2 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found null\n2, job 3 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found \"a,]\"\n2, job 4 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found [1,[2]]\n3 ok".to_owned()),
        (format!("[{{\n\"prompt\":\"a\"\n\"key\":1}},\n{GOOD}]"), "1, job 1 not valid JSON: expected `,` or `}` 2 lines further near {\\n\"prompt\":\"a\"\\n\"\n4 ok".to_owned()),
        // What ends it.
        (format!("[{GOOD},"), "1 ok\n1 the array is not closed: ] is missing at the end".to_owned()),
        (format!("[{GOOD}"), "1 ok\n1 the array is not closed: ] is missing at the end".to_owned()),
        ("[".to_owned(), "1 the array is not closed: ] is missing at the end".to_owned()),
        (format!("[\n{GOOD},\n{{\"prompt\":\"a\""), "2 ok\n3, job 2 not valid JSON: this element is not closed".to_owned()),
        ("[nul".to_owned(), "1, job 1 a JSON object such as {\"prompt\": …, \"image_url\": …} is needed, found nul\n1 the array is not closed: ] is missing at the end".to_owned()),
        (format!("[{GOOD}]\n{GOOD}"), "1 ok\n2 nothing may follow the array, found {".to_owned()),
        (format!("[\n{{\n\"prompt\":\"a,\n\"key\":\"b\"}},{GOOD}]"), "2, job 1 not valid JSON: a text is not closed at the end of its line (line 3), nothing is read behind it".to_owned()),
        (format!("[{{\"key\":[1}},{GOOD}]"), "1, job 1 not valid JSON: } closes nothing, nothing is read behind it".to_owned()),
        (format!("[{GOOD}}},{GOOD}]"), "1 ok\n1 not valid JSON: } has no place here behind job 1, nothing is read behind it".to_owned()),
    ] {
        assert_eq!(outline(Json, &text), expected, "{text}");
    }
}

#[test]
fn an_element_is_found_by_its_number_where_the_line_says_nothing() {
    let array = format!("[{GOOD},{{\"prompt\":\"\",\"size\":1}},{GOOD},7]");
    let found: Vec<(u64, Option<u64>, bool)> = all(Json, array.as_bytes())
        .into_iter()
        .map(|item| match item {
            Ok(entry) => (entry.line, entry.element, true),
            Err(fault) => (fault.line, fault.element, false),
        })
        .collect();
    let numbered = [(1, true), (2, false), (3, true), (4, false)];
    assert_eq!(found, numbered.map(|(n, good)| (1, Some(n), good)));
    // For programs, too; where the line tells all, there is no number.
    let fault = |format, text: &str| {
        let mut items = all(format, text.as_bytes());
        serde_json::to_value(items.remove(0).unwrap_err()).unwrap()
    };
    assert_eq!(fault(Json, "[7]")["element"], 1);
    for (format, text) in [(Jsonl, "7"), (Csv, "prompt"), (Json, "7")] {
        assert_eq!(fault(format, text).get("element"), None, "{text}");
    }
}

#[test]
#[rustfmt::skip] // One line a case.
fn tables_are_read_as_spreadsheets_write_them() {
    for (text, expected) in [
        ("", "1 a header row with the names of the columns is needed, found nothing"),
        ("prompt,image_url\n", ""),
        // The line of a record is the one it begins on.
        ("prompt,image_url\r\n\"two\r\nlines\",https://i/1\r\n\r\n,\r\nthree,https://i/2\r\n\"a\n\n\nb\",x\r\nfive,https://i/3", "2 ok\n6 ok\n7 image_url must be an http:// or https:// URL without spaces, at most 8192 bytes, found \"x\"\n11 ok"),
        ("\n\nprompt;image_url\n\n\"a;b\"; https://i/1 \n", "5 ok"),
        (" prompt , image_url \np,https://i/1\n", "2 ok"),
        ("\"prompt\",\"image_url\"\n\"p\",\"https://i/1\"\n", "2 ok"),
        ("prompt,image_url,duration,priority,size\np,https://i/1, 6.0 ,+1, 480p\n", "2 ok"),
        ("prompt,image_url,duration\np,https://i/1,6s\np,https://i/1,1e0\n", "2 duration must be a whole number of seconds from 1 to 15, found \"6s\"\n3 duration must be a whole number of seconds from 1 to 15, found \"1e0\""),
        // Numbers of cells.
        (
            "prompt,image_url\na, b,https://i/1\nonly\np,https://i/1\n",
            "2 the header row has 2 columns, this row 3: a cell with a separator, a quote or a line end in it must be in quotes\n\
             3 the header row has 2 columns, this row 1\n4 ok",
        ),
        // Quotes.
        ("prompt,image_url\nsay \"hi\",https://i/1\n\"say \"\"hi\"\"\",https://i/1\n", "2 ok\n3 ok"),
        (
            "prompt,image_url\n\"say \"hi\"\",https://i/1\np, \"https://i/1\"\np,https://i/1\n",
            "2 cell 1: text stands behind a closing quote; a quote inside of quotes is written twice\n\
             3 cell 2: a blank stands before an opening quote; a quote inside of quotes is written twice\n4 ok",
        ),
        ("prompt,image_url\np,https://i/1\n\"p,https://i/1\np,https://i/1\n", "2 ok\n3 a quote is opened and never closed"),
        ("prompt,image_url\n\"p\",\"https://i/1\"", "2 ok"),
        ("prompt,image_url\na\0b,https://i/1", "2 prompt must not hold a NUL byte, found \"a\\0b\""),
        // Headers: told once; the rows are checked, and none is a job.
        (
            "promt,image_url,image,\np,https://i/1,,\np,nowhere,,\n",
            "1 promt in the header row is not a field of a job: did you mean prompt?; image in the header row is not a field of a \
             job: did you mean image_url?; column 4 has no name in the header row\n\
             3 image_url must be an http:// or https:// URL without spaces, at most 8192 bytes, found \"nowhere\"",
        ),
        ("prompt,size\np,720p\np,4k\n", "1 image_url is missing in the header row\n3 size must be \"480p\", \"720p\" or \"1080p\", found \"4k\""),
        ("prompt,image_url,prompt\np,https://i/1,q\n", "1 prompt is the name of two columns"),
        ("prompt,image_url,metadata.a,metadata.a\np,https://i/1,q,r\n", "1 metadata.a is the name of two columns"),
        ("prompt,image_url,metadata.\np,https://i/1,q\n", "1 metadata. in the header row is not a field of a job: did you mean metadata?"),
        ("prompt,image_url\rp,https://i/1\r", "1 the lines end with a carriage return alone: save it with line feeds"),
        (
            "p,https://i/1\nq,https://i/2,and\n",
            "1 a header row with the names of the columns is needed (prompt and image_url, and of the rest what is used: \
             key, batch, prompt, image_url, duration, size, priority, not_before, metadata), found p, https://i/1",
        ),
    ] {
        assert_eq!(outline(Csv, text), expected, "{text}");
    }
}

#[test]
#[rustfmt::skip] // One line a case.
fn columns_become_members_of_the_metadata() {
    let read = |header: &str, row: &str| {
        only(
            Csv,
            format!("prompt,image_url,{header}\np,https://i,{row}\n"),
        )
        .metadata
    };
    for (header, row, expected) in [
        ("metadata", "", None),
        ("metadata", r#""{""a"" : 1}""#, Some(r#"{"a" : 1}"#)),
        ("metadata.a,metadata.b", "1,", Some(r#"{"a":"1"}"#)),
        ("metadata.a,metadata.b", ",", None),
        ("metadata.a b", r#""x""y""#, Some(r#"{"a b":"x\"y"}"#)),
        ("metadata.a.b", " x ", Some(r#"{"a.b":" x "}"#)),
        ("metadata.z,metadata,metadata.b", r#"1," { ""a"" : 1.0 } ",2"#, Some(r#"{ "a" : 1.0 ,"z":"1","b":"2"}"#)),
        ("metadata.z,metadata", "1,{}", Some(r#"{"z":"1"}"#)),
        ("metadata.z,metadata", r#"1,"{""a"":[1e999,""\udead""]}""#, Some(r#"{"a":[1e999,"\udead"],"z":"1"}"#)),
    ] {
        assert_eq!(read(header, row).as_deref(), expected, "{header} {row}");
    }
    for (header, row, expected) in [
        ("metadata,metadata.a", r#""{""a"":1}",2"#, "2 metadata.a is given twice: the metadata column has this name too"),
        ("metadata,metadata.a", "{a:1},2", "2 metadata must be a JSON object of at most 65536 bytes, found {a:1}: key must be a string"),
        ("metadata,metadata.a", r#""{""\udead"":1}",2"#, "2 metadata has a name that a column's may equal: lone leading surrogate in hex escape"),
        ("metadata", "[]", "2 metadata must be a JSON object of at most 65536 bytes, found []"),
    ] {
        let text = format!("prompt,image_url,{header}\np,https://i,{row}\n");
        assert_eq!(outline(Csv, text), expected, "{header} {row}");
    }
}

#[test]
#[rustfmt::skip] // One line a case.
fn times_are_points_in_time() {
    let such = "must be Unix milliseconds or a time with an offset such as 2026-01-31T18:00:00+08:00, found";
    for (text, expected) in [
        ("0", Ok(0)),
        ("1769853600000", Ok(1_769_853_600_000)),
        (" 1769853600000.0 ", Ok(1_769_853_600_000)),
        ("253402300799999", Ok(253_402_300_799_999)),
        ("2026-01-31T18:00:00+08:00", Ok(1_769_853_600_000)),
        ("2026-01-31T10:00:00Z", Ok(1_769_853_600_000)),
        ("2026-01-31t10:00:00z", Ok(1_769_853_600_000)),
        ("2026-01-31 10:00:00Z", Ok(1_769_853_600_000)),
        ("2026-01-31T10:00:00.0000001Z", Ok(1_769_853_600_001)),
        ("2026-01-31T18:00[Asia/Shanghai]", Ok(1_769_853_600_000)),
        ("2026-01-31T18:00:00+08:00[Asia/Shanghai]", Ok(1_769_853_600_000)),
        ("1969-12-31T23:59:59.9995Z", Ok(0)),
        ("-1", Err("-1, which is not within 1970 to 9999".to_owned())),
        ("253402300800000", Err("253402300800000, which is not within 1970 to 9999".to_owned())),
        ("1969-12-31T23:59:59Z", Err("\"1969-12-31T23:59:59Z\", which is not within 1970 to 9999".to_owned())),
        ("1769853600", Err("1769853600, which is in 1970 to 1973: seconds are not milliseconds".to_owned())),
        ("20260131", Err("20260131, which is in 1970 to 1973: seconds are not milliseconds".to_owned())),
        ("1.7698536E+12", Err("\"1.7698536E+12\"".to_owned())),
        ("1769853600000.5", Err("\"1769853600000.5\"".to_owned())),
        ("tomorrow", Err("\"tomorrow\"".to_owned())),
        ("", Err("\"\"".to_owned())),
        ("2026-01-31T18:00:00", Err("\"2026-01-31T18:00:00\": a time without an offset could be any zone's, add Z or +08:00".to_owned())),
        ("2026-01-31", Err("\"2026-01-31\": a time without an offset could be any zone's, add Z or +08:00".to_owned())),
    ] {
        let expected = expected.map_err(|found| format!("{such} {found}"));
        assert_eq!(parse_time(text), expected, "{text}");
    }
    for (text, part) in [
        ("2026-01-31T18:00[Nowhere/Atall]", "Nowhere/Atall"),
        ("2026-01-31T18:00:00+00:00[Asia/Shanghai]", "offset"),
    ] {
        assert!(parse_time(text).unwrap_err().contains(part), "{text}");
    }
}

#[test]
fn formats_are_known_by_name_and_by_content() {
    for (name, format) in [
        ("a/b.jsonl", Some(Jsonl)),
        ("b.NDJSON", Some(Jsonl)),
        ("b.json", Some(Json)),
        ("x.json.csv", Some(Csv)),
        ("b.txt", None),
        ("csv", None),
    ] {
        assert_eq!(Format::from_path(Path::new(name)), format, "{name}");
    }
    for (text, format) in [
        ("", Jsonl),
        (" \n ", Jsonl),
        ("\n [", Json),
        ("\u{feff}\r\n{", Jsonl),
        ("\u{feff}[", Json),
        ("\u{feff}prompt", Csv),
        ("prompt,", Csv),
        ("\"prompt\",", Csv),
        ("\u{fec0}{", Csv),
    ] {
        let text = text.as_bytes();
        for capacity in [1, 2, 100] {
            let (found, mut rest) =
                Format::sniff(BufReader::with_capacity(capacity, text)).unwrap();
            assert_eq!(found, format, "{text:?}");
            let mut all = Vec::new();
            rest.read_to_end(&mut all).unwrap();
            assert_eq!(all, text);
        }
    }
    let blanks = [b' '; MAX_ENTRY + 10];
    assert_eq!(Format::sniff(&blanks[..]).unwrap().0, Jsonl);
}

#[test]
fn too_long_an_entry_is_refused_without_being_held() {
    let long = "x".repeat(3 * MAX_ENTRY);
    let why = "this is longer than 1 MiB, the most that one job may take";
    assert_eq!(
        outline(Jsonl, format!("{{\"prompt\":\"{long}\"}}\n{GOOD}")),
        format!("1 {why}\n2 ok")
    );
    assert_eq!(
        outline(Json, format!("[{{\"prompt\":\"{long}\"}},\n{GOOD}]")),
        format!("1, job 1 {why}\n2 ok")
    );
    assert_eq!(
        outline(
            Csv,
            format!(
                "prompt,image_url\n{long},x\np,https://i\n\"{}\",x\np,https://i\n",
                "y\n".repeat(MAX_ENTRY)
            )
        ),
        format!(
            "2 {why}\n3 ok\n4 {why} (is a quote not closed?)\n{} ok",
            5 + MAX_ENTRY
        )
    );
    // A prompt that is too long for a job only is told as such.
    let prompt = "y".repeat(100_001);
    assert!(
        outline(
            Jsonl,
            format!("{{\"prompt\":\"{prompt}\",\"image_url\":\"https://i\"}}")
        )
        .ends_with("… of 100001 bytes")
    );
}

#[test]
fn memory_is_bounded_by_one_entry() {
    // 12 MiB of one quote, one text, one nest of brackets.
    for (format, head, byte) in [
        (Jsonl, "{\"prompt\":\"", b'x'),
        (Json, "[{\"prompt\":\"", b'x'),
        (Json, "[", b'['),
        (Csv, "prompt,image_url\n\"", b'\n'),
        (Csv, "prompt,image_url\n", b','),
    ] {
        let input = BufReader::new(head.as_bytes().chain(io::repeat(byte).take(12 << 20)));
        let mut reader = read(format, input, &Defaults::default());
        assert!(matches!(reader.next(), Some(Err(ReadError::Line(_)))));
        let held = match reader.source.as_ref() {
            Some(Source::Jsonl(lines)) => lines.buffer.capacity(),
            Some(Source::Json(array)) => array.buffer.capacity() + array.open.capacity(),
            Some(Source::Csv(table)) => table.held(),
            None => 0,
        };
        assert!(held < 24 * MAX_ENTRY, "{format:?} {head} held {held}");
    }
}

#[test]
fn many_faults_are_counted_in_the_end() {
    let members: Vec<String> = (0..100).map(|n| format!("\"x{n}\":1")).collect();
    let faults =
        spec_from_json(with(&members.join(",")).as_bytes(), &Defaults::default()).unwrap_err();
    assert_eq!(faults.len(), MAX_FAULTS + 1);
    assert_eq!(faults[MAX_FAULTS].to_string(), "and 68 more faults");
}

#[test]
fn an_input_that_breaks_is_told_apart_from_bad_text() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    for (format, head) in [
        (Jsonl, format!("{GOOD}\n{{")),
        (Json, format!("[{GOOD},\n{{")),
        (Csv, "prompt,image_url\n\"p\",".to_owned()),
    ] {
        let mut reader = read(
            format,
            BufReader::new(head.as_bytes().chain(Broken)),
            &Defaults::default(),
        );
        let error = reader.find_map(Result::err).unwrap();
        assert_eq!(error.to_string(), "line 2: the disk is gone");
        assert!(reader.next().is_none());
    }
}

/// Text that gets past the first checks.
fn almost() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\n",
        "\r\n",
        ";",
        "\0",
        " ",
        "null",
        "6",
        "-1.0",
        "\\u0000",
        "\\ud800",
        "prompt",
        "image_url",
        "\"prompt\":",
        "\"key\":\"a\"",
        "\"metadata\":{",
        "metadata",
        "metadata.a",
        "https://i",
        "prompt,image_url\n",
        "\u{feff}",
        "雪",
        "2026-01-31T10:00:00Z",
        GOOD,
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), almost()]) {
        for format in [Jsonl, Json, Csv] {
            let lines = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
            for item in all(format, &bytes) {
                match item {
                    Ok(entry) => {
                        prop_assert_eq!(entry.spec.faults(), vec![]);
                        prop_assert!((1..=lines).contains(&entry.line));
                    }
                    Err(fault) => {
                        prop_assert!(!fault.faults.is_empty());
                        prop_assert!((1..=lines).contains(&fault.line));
                        prop_assert!(!fault.to_string().contains(|c: char| c.is_control()));
                    }
                }
            }
        }
        let (_, mut rest) = Format::sniff(&bytes[..]).unwrap();
        let mut same = Vec::new();
        rest.read_to_end(&mut same).unwrap();
        prop_assert_eq!(&same, &bytes);
    }

    #[test]
    fn no_text_is_a_time_by_accident(text in "\\PC{0,40}|[-0-9T:.Z+\\[\\]]{0,30}") {
        if let Ok(time) = parse_time(&text) {
            prop_assert!((0..=crate::job::MAX_TIME).contains(&time));
        }
    }

    #[test]
    fn what_a_csv_writer_writes_is_read(
        rows in prop::collection::vec(("[a\",;\r\n 雪]{0,6}", "[a\",;\r\n]{0,6}"), 1..8),
        delimiter in prop::sample::select(vec![b',', b';', b'\t']),
        crlf in any::<bool>(),
    ) {
        let mut writer = ::csv::WriterBuilder::new();
        writer.delimiter(delimiter);
        if crlf {
            writer.terminator(::csv::Terminator::CRLF);
        }
        let mut writer = writer.from_writer(Vec::new());
        writer.write_record(["prompt", "image_url", "metadata.a"]).unwrap();
        let mut expected = Vec::new();
        let mut line = 2;
        for (prompt, member) in &rows {
            // Not blank, and no blank before what may be a quote.
            let prompt = format!("p{prompt}");
            let member = format!("m{member}");
            writer.write_record([prompt.as_str(), "https://i", member.as_str()]).unwrap();
            let metadata = serde_json::json!({ "a": member }).to_string();
            let inside = (prompt.clone() + &member).matches('\n').count() as u64;
            expected.push((line, prompt, Some(metadata)));
            line += 1 + inside;
        }
        let text = writer.into_inner().unwrap();
        let found: Vec<_> = all(Csv, &text)
            .into_iter()
            .map(|item| item.unwrap())
            .map(|entry| (entry.line, entry.spec.prompt, entry.spec.metadata))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_serde_writes_is_read(
        prompts in prop::collection::vec("\\PC{0,20}[\n\"\\\\]?x", 0..6),
        pretty in any::<bool>(),
    ) {
        let jobs: Vec<_> = prompts
            .iter()
            .map(|prompt| serde_json::json!({ "prompt": prompt, "image_url": "https://i" }))
            .collect();
        let text = if pretty {
            serde_json::to_string_pretty(&jobs).unwrap()
        } else {
            serde_json::to_string(&jobs).unwrap()
        };
        let found: Vec<_> = all(Json, text.as_bytes())
            .into_iter()
            .map(|item| item.unwrap())
            .map(|entry| (entry.line, entry.spec.prompt))
            .collect();
        let expected: Vec<_> = (0..)
            .map(|n| if pretty { 2 + 4 * n } else { 1 })
            .zip(prompts)
            .collect();
        prop_assert_eq!(found, expected);
    }
}
