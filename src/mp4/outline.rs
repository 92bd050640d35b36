//! The first pass: the top-level boxes, to the last byte.

use std::io::{Read, Seek};

use super::boxes::{Found, Header, Source};
use super::{Defect, Kind};

pub(super) fn check_start<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<(), Defect> {
    if source.length == 0 {
        return Err(Defect::Empty);
    }
    let mut bytes = [0; 48];
    let bytes = &mut bytes[..source.length.min(48) as usize];
    source.read(0, bytes)?;
    // No real `ftyp` has 16 MiB, so the first byte of its size is 0.
    let letters = bytes.get(4..8.min(bytes.len())).unwrap_or_default();
    if bytes[0] != 0 || !b"ftyp".starts_with(letters) {
        return Err(Defect::NotMp4 {
            beginning: printable(bytes),
        });
    }
    if source.length < 8 {
        return Err(Defect::TooShort {
            length: source.length,
        });
    }
    Ok(())
}

/// The first bytes in a form that fits into a log line: text as text, anything
/// else escaped.
fn printable(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // A character that the excerpt cuts in two.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => "",
    };
    if text.is_empty() || text.contains('\0') {
        return bytes[..bytes.len().min(16)].escape_ascii().to_string();
    }
    let mut out = String::new();
    for c in text.trim_start_matches('\u{feff}').trim().chars().take(40) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// What the first pass finds.
pub(super) struct Outline {
    pub moov: Option<Header>,
    pub has_mdat: bool,
    pub mdat_bytes: u64,
    pub has_fragments: bool,
    pub has_index: bool,
    pub has_random_access: bool,
    /// Where the last box ends.
    pub end: u64,
}

/// Walks the top-level boxes to the end of the file.
pub(super) fn walk<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<Outline, Defect> {
    let mut outline = Outline {
        moov: None,
        has_mdat: false,
        mdat_bytes: 0,
        has_fragments: false,
        has_index: false,
        has_random_access: false,
        end: 0,
    };
    loop {
        let at = outline.end;
        match source.look(at, source.length, true)? {
            Found::Box(header) => {
                match &header.kind {
                    b"moov" if outline.moov.is_none() => outline.moov = Some(header),
                    b"mdat" => {
                        outline.has_mdat = true;
                        outline.mdat_bytes += header.end - header.body;
                    }
                    b"moof" => outline.has_fragments = true,
                    b"sidx" => outline.has_index = true,
                    b"mfra" => outline.has_random_access = true,
                    _ => {}
                }
                outline.end = header.end;
            }
            Found::End => return Ok(outline),
            Found::Overrun(kind, claims, missing) => {
                return Err(Defect::CutBox {
                    kind: Kind(kind),
                    offset: at,
                    claims,
                    missing,
                });
            }
            Found::Stub(left) => {
                if source.is_padding(at, left)? {
                    return Ok(outline);
                }
                return Err(Defect::CutHeader { offset: at, left });
            }
            // A cut leaves headers as they were: this is something appended.
            Found::Senseless(..) if outline.moov.is_some() && outline.has_mdat => {
                return Ok(outline);
            }
            Found::Senseless(kind, size) => {
                return Err(Defect::BrokenBox {
                    kind: Kind(kind),
                    offset: at,
                    size,
                });
            }
        }
    }
}
