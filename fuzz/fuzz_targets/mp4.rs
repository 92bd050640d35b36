//! The videos: any bytes, judged as a file.
//!
//! No panic; work linear in the file; a disk that cannot be read is never taken
//! for a broken video. Half of the mutations know what a box is, so that what
//! lies deep in a valid file is reached.

#![no_main]

use std::io::{Cursor, Error, Read, Result, Seek, SeekFrom};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use reelq::mp4::{Defect, inspect};

fuzz_target!(|data: &[u8]| {
    let mut file = Meter::new(data, u64::MAX);
    let verdict = inspect(&mut file, data.len() as u64);
    let (reads, bytes) = (file.reads, file.bytes);
    let size = data.len() as u64;
    assert!(
        reads <= size + 64 && bytes <= 8 * size + 64,
        "{reads} reads and {bytes} bytes for a file of {size}"
    );
    match &verdict {
        Ok(movie) => {
            assert_eq!(movie.width.is_some(), movie.height.is_some());
            assert_ne!((movie.width, movie.height), (Some(0), Some(0)));
            assert!(movie.fragmented || !movie.open_ended);
        }
        Err(Defect::Unreadable(error)) => panic!("memory cannot fail: {error}"),
        Err(defect) => {
            let text = defect.to_string();
            assert!(text.len() < 1_000 && !text.contains(char::is_control));
        }
    }
    // The disk fails at one of these reads, whichever the bytes say.
    if reads > 0 {
        let at = data.iter().fold(0_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        }) % reads;
        let verdict = inspect(&mut Meter::new(data, at), size);
        assert!(
            matches!(verdict, Err(Defect::Unreadable(_))),
            "read {at} of {reads} failed, and yet: {verdict:?}"
        );
    }
});

/// Counts what is read, and fails at a certain read.
struct Meter<'a> {
    file: Cursor<&'a [u8]>,
    reads: u64,
    bytes: u64,
    fails_at: u64,
}

impl Meter<'_> {
    fn new(data: &[u8], fails_at: u64) -> Meter<'_> {
        Meter {
            file: Cursor::new(data),
            reads: 0,
            bytes: 0,
            fails_at,
        }
    }
}

impl Read for Meter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.reads == self.fails_at {
            return Err(Error::other("the disk is broken"));
        }
        let count = self.file.read(buffer)?;
        self.reads += 1;
        self.bytes += count as u64;
        Ok(count)
    }
}

impl Seek for Meter<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.file.seek(to)
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Dice(u64::from(seed));
    let boxes = boxes(&data[..size]);
    if dice.roll(2) == 0 || boxes.is_empty() {
        return fuzzer_mutate(data, size, max_size);
    }
    let chosen = boxes[dice.roll(boxes.len())];
    let length = chosen.end - chosen.start;
    match dice.roll(6) {
        // Its size.
        0 => {
            let claims = [0, 1, 7, 8, 15, 16, length - 1, length + 1, length * 2];
            put(data, chosen.start, claims[dice.roll(claims.len())] as u32);
            size
        }
        // A number in it: a count, an offset, a flag.
        1 => {
            let words = (length / 4).clamp(1, 32);
            let at = chosen.start + 4 * dice.roll(words);
            let value = match dice.roll(8) {
                0 => 0,
                1 => u32::MAX,
                2 => 1 << dice.roll(32),
                3 => size as u32,
                4 => size as u32 + 1,
                5 => chosen.start as u32,
                _ => dice.roll(32) as u32,
            };
            if at + 4 <= size {
                put(data, at, value);
            }
            size
        }
        // What it is.
        2 => {
            let kind = KINDS[dice.roll(KINDS.len())];
            data[chosen.start + 4..chosen.start + 8].copy_from_slice(kind);
            size
        }
        // Gone; what it was in shrinks.
        3 => {
            resize_parents(data, &boxes, chosen, -(length as i64));
            data.copy_within(chosen.end..size, chosen.start);
            size - length
        }
        // Twice; what it was in grows.
        4 if size + length <= max_size => {
            resize_parents(data, &boxes, chosen, length as i64);
            data.copy_within(chosen.start..size, chosen.end);
            size + length
        }
        // The file ends about there.
        _ => (chosen.end + dice.roll(17)).saturating_sub(8).min(size),
    }
});

const KINDS: [&[u8; 4]; 36] = [
    b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"mdia", b"mdhd", b"hdlr", b"minf", b"dinf",
    b"dref", b"url ", b"stbl", b"stsd", b"stts", b"stsc", b"stsz", b"stz2", b"stco", b"co64",
    b"mvex", b"mehd", b"trex", b"moof", b"mfhd", b"traf", b"tfhd", b"tfdt", b"trun", b"sidx",
    b"mfra", b"mdat", b"free", b"cmov", b"edts", b"udta",
];

const PARENTS: [&[u8; 4]; 8] = [
    b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf",
];

#[derive(Clone, Copy)]
struct Extent {
    start: usize,
    end: usize,
}

/// The boxes with a 32-bit size, parents before children.
fn boxes(data: &[u8]) -> Vec<Extent> {
    let mut found = Vec::new();
    let mut lists = vec![Extent {
        start: 0,
        end: data.len(),
    }];
    while let Some(Extent { start: mut at, end }) = lists.pop() {
        while at + 8 <= end && found.len() < 256 {
            let size = u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
            let size = size as usize;
            if size < 8 || size > end - at {
                break;
            }
            let this = Extent {
                start: at,
                end: at + size,
            };
            found.push(this);
            at = this.end;
            if PARENTS
                .iter()
                .any(|kind| data[this.start + 4..].starts_with(*kind))
            {
                lists.push(Extent {
                    start: this.start + 8,
                    end: this.end,
                });
            }
        }
    }
    found
}

fn resize_parents(data: &mut [u8], boxes: &[Extent], child: Extent, by: i64) {
    for parent in boxes {
        if parent.start < child.start && parent.end >= child.end {
            let size = (parent.end - parent.start) as i64 + by;
            put(data, parent.start, size as u32);
        }
    }
}

fn put(data: &mut [u8], at: usize, value: u32) {
    data[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Numbers that depend on the seed alone, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    /// Less than `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % sides as u64) as usize
    }
}
