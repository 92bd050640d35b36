//! The producers' files: any bytes, read as each of the three formats.
//!
//! What is let through breaks no rule of the table and means the same when it
//! is written down and read again; what is refused has a line and a reason that
//! a terminal can show. Where the input's chunks end makes no difference.

#![no_main]

use std::io::{BufRead, BufReader, Read as _};

use libfuzzer_sys::fuzz_target;
use reelq::intake::{Defaults, Format, LineFault, MAX_FAULTS, ReadError, read, spec_from_json};
use reelq::job::JobSpec;
use serde_json::value::RawValue;

fuzz_target!(|data: &[u8]| {
    let lines = data.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    for format in [Format::Jsonl, Format::Json, Format::Csv] {
        let whole = gather(format, data);
        let pieces = gather(format, BufReader::with_capacity(3, data));
        assert_eq!(whole, pieces, "{format:?} depends on the input's chunks");
        assert!(
            whole.len() as u64 <= lines || format == Format::Json,
            "{format:?}: more entries than lines"
        );
        let mut last = 1;
        for entry in &whole {
            let line = match entry {
                Ok((line, spec)) => {
                    let faults = spec.faults();
                    assert!(faults.is_empty(), "{format:?} let {faults:?} through");
                    let texts = [&spec.batch, &spec.prompt, &spec.image_url];
                    assert!(
                        !texts
                            .into_iter()
                            .chain(&spec.key)
                            .any(|text| text.contains('\0')),
                        "{format:?} let a NUL byte through"
                    );
                    assert_eq!(Ok(spec), again(spec).as_ref());
                    *line
                }
                Err(fault) => {
                    is_shown(fault);
                    fault.line
                }
            };
            assert!(
                (last..=lines).contains(&line),
                "{format:?}: line {line} after line {last}, of {lines}"
            );
            last = line;
        }
    }
    let (_, rest) = Format::sniff(data).unwrap();
    assert_eq!(
        rest.bytes().collect::<Result<Vec<_>, _>>().unwrap(),
        data,
        "looking for the format lost something"
    );
});

type Judged = Result<(u64, JobSpec), LineFault>;

fn gather(format: Format, input: impl BufRead) -> Vec<Judged> {
    read(format, input, &Defaults::default())
        .map(|entry| match entry {
            Ok(entry) => Ok((entry.line, entry.spec)),
            Err(ReadError::Line(fault)) => Err(fault),
            Err(ReadError::Io { source, .. }) => panic!("memory cannot fail: {source}"),
        })
        .collect()
}

/// The job, written down as JSON and read again.
fn again(spec: &JobSpec) -> Result<JobSpec, Vec<reelq::job::FieldFault>> {
    let mut text = serde_json::json!({
        "key": spec.key,
        "batch": spec.batch,
        "prompt": spec.prompt,
        "image_url": spec.image_url,
        "duration": spec.duration,
        "size": spec.size,
        "priority": spec.priority,
        // As a time: as a number, some years count as a slip.
        "not_before": null,
    })
    .to_string();
    text.pop();
    if let Some(metadata) = &spec.metadata {
        // Its own text, byte by byte.
        let raw: &RawValue = serde_json::from_str(metadata).unwrap();
        text.push_str(",\"metadata\":");
        text.push_str(raw.get());
    }
    text.push('}');
    let mut read = spec_from_json(text.as_bytes(), &Defaults::default())?;
    read.not_before = spec.not_before;
    if let (Some(read), Some(given)) = (&mut read.metadata, &spec.metadata) {
        // Only the blanks around it may differ.
        assert_eq!(read.trim(), given.trim());
        read.clone_from(given);
    }
    Ok(read)
}

fn is_shown(fault: &LineFault) {
    assert!(
        (1..=MAX_FAULTS + 1).contains(&fault.faults.len()),
        "{} faults",
        fault.faults.len()
    );
    let text = fault.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}
