//! Small MP4s, made box by box. Nothing of `src/mp4/` is used: the tests must
//! not believe a file for the same wrong reason as the daemon does.

/// How a film is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The description first, as for the web.
    MoovFirst,
    /// The description last, as a camera writes it.
    MoovLast,
    /// 64-bit box size and chunk offsets.
    Wide,
    /// Movie fragments that say how long they are altogether.
    Fragmented,
    /// Movie fragments and nothing that says where they end.
    OpenEnded,
}

/// Samples, one a chunk, or one a fragment.
const SAMPLES: u32 = 12;

/// A film of `seconds` at 1280x720 with about `length` bytes of picture, which
/// differ from seed to seed.
pub fn film(layout: Layout, seed: &str, seconds: u32, length: usize) -> Vec<u8> {
    let picture = noise(seed, length.max(SAMPLES as usize));
    let ftyp = boxed(b"ftyp", &[b"isom", &u32s(&[512]), b"isomiso2mp41"]);
    match layout {
        Layout::MoovFirst => {
            let head = ftyp.len() + moov(seconds, &picture, 0, false).len() + 8;
            [
                ftyp,
                moov(seconds, &picture, head as u64, false),
                boxed(b"mdat", &[&picture]),
            ]
            .concat()
        }
        Layout::MoovLast => {
            let first = ftyp.len() as u64 + 8;
            let free = boxed(b"free", &[&[0; 24]]);
            let mdat = boxed(b"mdat", &[&picture]);
            [ftyp, mdat, free, moov(seconds, &picture, first, false)].concat()
        }
        Layout::Wide => {
            let first = ftyp.len() as u64 + 16;
            let size = (16 + picture.len() as u64).to_be_bytes();
            let mdat = [&u32s(&[1])[..], b"mdat", &size, &picture].concat();
            [ftyp, mdat, moov(seconds, &picture, first, true)].concat()
        }
        Layout::Fragmented => [
            ftyp,
            fragmented_moov(seconds, Some(seconds * 1000)),
            fragments(seconds, &picture),
            boxed(b"mfra", &[&boxed(b"mfro", &[&u32s(&[0, 24])])]),
        ]
        .concat(),
        Layout::OpenEnded => [
            ftyp,
            fragmented_moov(seconds, None),
            fragments(seconds, &picture),
        ]
        .concat(),
    }
}

/// Bytes that look like compressed pictures: no two seeds share a run of them.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut x = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&u32s(&[8 + body.len() as u32])[..], kind, &body].concat()
}

fn u32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// Where each sample begins and how long it is, within the picture.
fn samples(picture: &[u8]) -> Vec<(usize, usize)> {
    let each = picture.len() / SAMPLES as usize;
    (0..SAMPLES as usize)
        .map(|n| {
            let last = n + 1 == SAMPLES as usize;
            let length = if last { picture.len() - n * each } else { each };
            (n * each, length)
        })
        .collect()
}

const MATRIX: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

fn mvhd(duration: u32) -> Vec<u8> {
    boxed(
        b"mvhd",
        &[
            &u32s(&[0, 0, 0, 1000, duration, 0x10000, 0x0100_0000, 0, 0]),
            &u32s(&MATRIX),
            &u32s(&[0, 0, 0, 0, 0, 0, 2]),
        ],
    )
}

fn trak(duration: u32, stbl: &[u8]) -> Vec<u8> {
    let tkhd = boxed(
        b"tkhd",
        &[
            &u32s(&[3, 0, 0, 1, 0, duration, 0, 0, 0, 0]),
            &u32s(&MATRIX),
            &u32s(&[1280 << 16, 720 << 16]),
        ],
    );
    let mdhd = boxed(b"mdhd", &[&u32s(&[0, 0, 0, 1000, duration, 0x55c4_0000])]);
    let hdlr = boxed(b"hdlr", &[&u32s(&[0, 0]), b"vide", &[0; 13]]);
    let vmhd = boxed(b"vmhd", &[&u32s(&[1, 0, 0])]);
    let url = boxed(b"url ", &[&u32s(&[1])]);
    let dinf = boxed(b"dinf", &[&boxed(b"dref", &[&u32s(&[0, 1]), &url])]);
    let minf = boxed(b"minf", &[&vmhd, &dinf, stbl]);
    boxed(b"trak", &[&tkhd, &boxed(b"mdia", &[&mdhd, &hdlr, &minf])])
}

fn stsd() -> Vec<u8> {
    let mut entry = vec![0; 78];
    entry[7] = 1;
    entry[24..28].copy_from_slice(&u32s(&[(1280 << 16) | 720]));
    boxed(b"stsd", &[&u32s(&[0, 1]), &boxed(b"avc1", &[&entry])])
}

fn moov(seconds: u32, picture: &[u8], first: u64, wide: bool) -> Vec<u8> {
    let samples = samples(picture);
    let sizes: Vec<u32> = samples.iter().map(|(_, length)| *length as u32).collect();
    let offsets: Vec<u64> = samples.iter().map(|(at, _)| first + *at as u64).collect();
    let chunks = if wide {
        let offsets: Vec<u8> = offsets.iter().flat_map(|at| at.to_be_bytes()).collect();
        boxed(b"co64", &[&u32s(&[0, SAMPLES]), &offsets])
    } else {
        let offsets: Vec<u32> = offsets.iter().map(|at| *at as u32).collect();
        boxed(b"stco", &[&u32s(&[0, SAMPLES]), &u32s(&offsets)])
    };
    let stbl = boxed(
        b"stbl",
        &[
            &stsd(),
            &boxed(
                b"stts",
                &[&u32s(&[0, 1, SAMPLES, seconds * 1000 / SAMPLES])],
            ),
            &boxed(b"stsc", &[&u32s(&[0, 1, 1, 1, 1])]),
            &boxed(b"stsz", &[&u32s(&[0, 0, SAMPLES]), &u32s(&sizes)]),
            &chunks,
        ],
    );
    let duration = seconds * 1000;
    boxed(b"moov", &[&mvhd(duration), &trak(duration, &stbl)])
}

fn fragmented_moov(seconds: u32, promised: Option<u32>) -> Vec<u8> {
    let empty = |kind: &[u8; 4]| boxed(kind, &[&u32s(&[0, 0])]);
    let stbl = boxed(
        b"stbl",
        &[
            &stsd(),
            &empty(b"stts"),
            &empty(b"stsc"),
            &boxed(b"stsz", &[&u32s(&[0, 0, 0])]),
            &empty(b"stco"),
        ],
    );
    let mehd = promised.map_or(Vec::new(), |ms| boxed(b"mehd", &[&u32s(&[0, ms])]));
    let each = seconds * 1000 / SAMPLES;
    let trex = boxed(b"trex", &[&u32s(&[0, 1, 1, each, 0, 0])]);
    boxed(
        b"moov",
        &[&mvhd(0), &trak(0, &stbl), &boxed(b"mvex", &[&mehd, &trex])],
    )
}

fn fragments(seconds: u32, picture: &[u8]) -> Vec<u8> {
    let each = seconds * 1000 / SAMPLES;
    let mut bytes = Vec::new();
    for (n, (at, length)) in samples(picture).into_iter().enumerate() {
        let moof = |offset: u32| {
            let mfhd = boxed(b"mfhd", &[&u32s(&[0, n as u32 + 1])]);
            // The base is the fragment itself.
            let tfhd = boxed(b"tfhd", &[&u32s(&[0x02_0000, 1])]);
            let tfdt = boxed(b"tfdt", &[&u32s(&[0, n as u32 * each])]);
            // With the data's offset and the samples' sizes.
            let trun = boxed(b"trun", &[&u32s(&[0x201, 1, offset, length as u32])]);
            boxed(b"moof", &[&mfhd, &boxed(b"traf", &[&tfhd, &tfdt, &trun])])
        };
        let head = moof(0).len() as u32 + 8;
        bytes.extend(moof(head));
        bytes.extend(boxed(b"mdat", &[&picture[at..at + length]]));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use reelq::mp4;

    #[test]
    fn every_layout_is_a_whole_film_and_every_cut_shows() {
        for layout in [
            Layout::MoovFirst,
            Layout::MoovLast,
            Layout::Wide,
            Layout::Fragmented,
        ] {
            let whole = film(layout, "a", 6, 5_000);
            let judge =
                |bytes: &[u8]| mp4::inspect(&mut std::io::Cursor::new(bytes), bytes.len() as u64);
            let movie = judge(&whole).unwrap();
            assert_eq!(movie.duration_ms, Some(6_000), "{layout:?}");
            assert_eq!((movie.width, movie.height), (Some(1280), Some(720)));
            for at in (0..whole.len()).step_by(97) {
                assert!(judge(&whole[..at]).is_err(), "{layout:?} cut at {at}");
            }
        }
    }
}
