//! Small files of every kind, for the tests of this room and of its callers.

/// A box with a 32-bit size.
pub fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes()[..], kind, body].concat()
}

/// A box with a 64-bit size.
pub fn wide(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = body.len() as u64 + 16;
    [&[0, 0, 0, 1], &kind[..], &size.to_be_bytes(), body].concat()
}

/// A box that runs to the end of the file.
pub fn open(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&[0; 4], &kind[..], body].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

pub fn ftyp() -> Vec<u8> {
    boxed(b"ftyp", b"isom\0\0\x02\0isomiso2avc1mp41")
}

/// How the sample tables of a track are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `stco` and a size for each sample.
    Each,
    /// `stco` and one size for all.
    Same,
    /// `co64` and a size for each sample.
    Wide,
    /// No chunks: the samples are in fragments.
    Empty,
}

/// All samples of a track together; the first two are in one chunk.
pub const BYTES: u32 = 100;

/// A track of six seconds at time scale 600 with its samples at `at`.
pub fn trak(id: u32, handler: &[u8; 4], table: Table, at: u32) -> Vec<u8> {
    let (width, height) = if handler == b"vide" {
        (1280, 720)
    } else {
        (0, 0)
    };
    let mut tkhd = words(&[3, 0, 0, id, 0, 6000, 0, 0, 0, 0]);
    tkhd.extend(words(&[1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]));
    tkhd.extend(words(&[width << 16, height << 16]));
    let long = table != Table::Empty;
    let mdhd = words(&[0, 0, 0, 600, if long { 3600 } else { 0 }, 0]);
    let mut hdlr = words(&[0, 0]);
    hdlr.extend(handler);
    hdlr.extend([0; 13]);
    let url = boxed(b"url ", &words(&[1]));
    let dref = boxed(b"dref", &[words(&[0, 1]), url].concat());
    let (offsets, runs, sizes) = match table {
        Table::Each => (
            boxed(b"stco", &words(&[0, 2, at, at + 64])),
            words(&[0, 2, 1, 2, 1, 2, 1, 1]),
            words(&[0, 0, 3, 40, 24, 36]),
        ),
        Table::Same => (
            boxed(b"stco", &words(&[0, 2, at, at + 50])),
            words(&[0, 1, 1, 5, 1]),
            words(&[0, 10, 10]),
        ),
        Table::Wide => (
            boxed(b"co64", &words(&[0, 2, 0, at, 0, at + 64])),
            words(&[0, 2, 1, 2, 1, 2, 1, 1]),
            words(&[0, 0, 3, 40, 24, 36]),
        ),
        Table::Empty => (
            boxed(b"stco", &words(&[0, 0])),
            words(&[0, 0]),
            words(&[0, 0, 0]),
        ),
    };
    let stbl = [
        boxed(b"stsd", &words(&[0, 0])),
        boxed(b"stsc", &runs),
        boxed(b"stsz", &sizes),
        offsets,
    ];
    let minf = [boxed(b"dinf", &dref), boxed(b"stbl", &stbl.concat())];
    let mdia = [
        boxed(b"mdhd", &mdhd),
        boxed(b"hdlr", &hdlr),
        boxed(b"minf", &minf.concat()),
    ];
    boxed(
        b"trak",
        &[boxed(b"tkhd", &tkhd), boxed(b"mdia", &mdia.concat())].concat(),
    )
}

pub fn mvhd(duration: u32) -> Vec<u8> {
    let mut body = words(&[0, 0, 0, 1000, duration]);
    body.extend([0; 80]);
    boxed(b"mvhd", &body)
}

pub fn moov(parts: &[Vec<u8>]) -> Vec<u8> {
    boxed(b"moov", &parts.concat())
}

/// Samples that cannot be taken for boxes.
pub fn media(length: u32) -> Vec<u8> {
    (0..length).map(|n| 0x80 | n as u8).collect()
}

/// A `moof` for two tracks with two samples of 40 bytes each, its `mdat`
/// to follow at once: one second.
fn moof(nth: u32, explicit: Option<u32>) -> Vec<u8> {
    let build = |first: u32| {
        let traf = |id: u32, offset: u32, sized: bool| {
            let mut tfhd = match explicit {
                Some(start) => words(&[1, id, 0, start]),
                None => words(&[0x2_0000, id]),
            };
            if sized {
                // Duration and size of all samples, in place of the run's.
                tfhd[3] |= 0x18;
                tfhd.extend(words(&[300, 40]));
            }
            let trun = match sized {
                true => words(&[1, 2, offset]),
                false => words(&[0x301, 2, offset, 300, 40, 300, 40]),
            };
            let tfdt = words(&[0, nth * 600]);
            boxed(
                b"traf",
                &[
                    boxed(b"tfhd", &tfhd),
                    boxed(b"tfdt", &tfdt),
                    boxed(b"trun", &trun),
                ]
                .concat(),
            )
        };
        let mfhd = boxed(b"mfhd", &words(&[0, nth + 1]));
        boxed(
            b"moof",
            &[mfhd, traf(1, first, false), traf(2, first + 80, true)].concat(),
        )
    };
    let length = u32::try_from(build(0).len()).unwrap();
    build(length + 8)
}

/// What a fragmented file tells of its own length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    Nothing,
    Mehd,
    Sidx,
}

/// Three fragments of a second each.
pub fn fragmented(promise: Promise, explicit: bool, last_open: bool) -> Vec<u8> {
    let mut mvex = Vec::new();
    if promise == Promise::Mehd {
        mvex.extend(boxed(b"mehd", &words(&[0, 3000])));
    }
    for id in [1, 2] {
        mvex.extend(boxed(b"trex", &words(&[0, id, 1, 0, 0, 0])));
    }
    let mut file = ftyp();
    file.extend(moov(&[
        mvhd(0),
        trak(1, b"vide", Table::Empty, 0),
        trak(2, b"soun", Table::Empty, 0),
        boxed(b"mvex", &mvex),
    ]));
    let one = moof(0, explicit.then_some(0)).len() as u32 + 8 + 160;
    if promise == Promise::Sidx {
        let mut sidx = words(&[0, 1, 600, 0, 0, 3]);
        for _ in 0..3 {
            sidx.extend(words(&[one, 600, 0x9000_0000]));
        }
        file.extend(boxed(b"sidx", &sidx));
    }
    for nth in 0..3 {
        file.extend(moof(nth, explicit.then_some(file.len() as u32)));
        let body = media(160);
        file.extend(match last_open && nth == 2 {
            true => open(b"mdat", &body),
            false => boxed(b"mdat", &body),
        });
    }
    file
}

/// `moov` first, then an `mdat` written by `write`.
pub fn moov_first(table: Table, write: impl Fn(&[u8; 4], &[u8]) -> Vec<u8>) -> Vec<u8> {
    let media = media(2 * BYTES);
    let mdat = write(b"mdat", &media);
    let build = |at: u32| {
        moov(&[
            mvhd(6000),
            trak(1, b"vide", table, at),
            trak(2, b"soun", table, at + BYTES),
        ])
    };
    let header = mdat.len() - media.len();
    let at = ftyp().len() + build(0).len() + header;
    [ftyp(), build(at as u32), mdat].concat()
}

/// `mdat` first, then a `moov`.
pub fn moov_last(write: impl Fn(&[u8; 4], &[u8]) -> Vec<u8>) -> Vec<u8> {
    let mdat = boxed(b"mdat", &media(BYTES));
    let at = ftyp().len() as u32 + 8;
    let body = [mvhd(6000), trak(1, b"vide", Table::Each, at)].concat();
    [ftyp(), mdat, write(b"moov", &body)].concat()
}

/// The plainest whole video.
pub fn video() -> Vec<u8> {
    moov_first(Table::Each, boxed)
}

/// One of each kind.
pub fn every_kind() -> Vec<(&'static str, Vec<u8>)> {
    let mut padded = video();
    padded.extend(open(b"\0\0\0\0", &[0; 20]));
    vec![
        ("moov first", video()),
        ("one size for all", moov_first(Table::Same, boxed)),
        ("co64", moov_first(Table::Wide, boxed)),
        ("64-bit mdat", moov_first(Table::Each, wide)),
        ("mdat to the end", moov_first(Table::Each, open)),
        ("mdat to the end, one size", moov_first(Table::Same, open)),
        ("mdat to the end, co64", moov_first(Table::Wide, open)),
        ("moov last", moov_last(boxed)),
        ("64-bit moov last", moov_last(wide)),
        ("moov to the end", moov_last(open)),
        ("mehd", fragmented(Promise::Mehd, false, false)),
        (
            "mehd, absolute offsets",
            fragmented(Promise::Mehd, true, false),
        ),
        (
            "mehd, mdat to the end",
            fragmented(Promise::Mehd, false, true),
        ),
        ("sidx", fragmented(Promise::Sidx, false, false)),
        (
            "sidx, mdat to the end",
            fragmented(Promise::Sidx, true, true),
        ),
    ]
}
