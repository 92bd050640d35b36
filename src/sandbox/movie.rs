//! The MP4 around the pictures: ISO 14496-12 boxes with `moov` before `mdat`, so that a player
//! can start before the file has ended. Deterministic: the same order gives the same bytes.

use super::order::Order;
use super::scene::{FRAME_RATE, Scene};

/// Ticks of the media clock in a second, and in a picture.
const MEDIA_TIMESCALE: u32 = FRAME_RATE * 512;
const FRAME_TICKS: u32 = 512;
/// Ticks of the movie clock in a second.
const MOVIE_TIMESCALE: u32 = 1000;
/// Characters of the prompt that go into the file's title.
const TITLE_CHARS: usize = 200;

/// Makes the MP4 for `order`, a few megabytes at most. The file's title is the prompt and its
/// comment the task id, so that a mix-up of files can be seen.
pub fn render(order: &Order, task_id: &str) -> Vec<u8> {
    let theme = format!("{}\n{}", order.prompt, order.image_url);
    let scene = Scene::new(order.size, order.duration, &theme);
    let mut samples = Samples::default();
    for (nal, key) in scene.pictures() {
        samples.push(&nal, key);
    }
    let title: String = order.prompt.chars().take(TITLE_CHARS).collect();
    let moov = |offset| movie(&scene, &samples, order.duration, &title, task_id, offset);

    let ftyp = boxed(
        b"ftyp",
        &[b"isom", &512_u32.to_be_bytes(), b"isomiso2avc1mp41"],
    );
    // The length of `moov` does not depend on the offset in it.
    let offset = ftyp.len() + moov(0).len() + 8;
    let mut file = Vec::with_capacity(offset + samples.data.len());
    file.extend(ftyp);
    file.extend(moov(offset as u32));
    file.extend((8 + samples.data.len() as u32).to_be_bytes());
    file.extend(b"mdat");
    file.extend(samples.data);
    file
}

/// The coded pictures one after the other, and what the sample table says of them.
#[derive(Default)]
struct Samples {
    data: Vec<u8>,
    sizes: Vec<u32>,
    /// Numbers, from 1, of the key pictures.
    keys: Vec<u32>,
}

impl Samples {
    fn push(&mut self, nal: &[u8], key: bool) {
        self.data.extend((nal.len() as u32).to_be_bytes());
        self.data.extend(nal);
        self.sizes.push(4 + nal.len() as u32);
        if key {
            self.keys.push(self.sizes.len() as u32);
        }
    }
}

fn movie(
    scene: &Scene,
    samples: &Samples,
    seconds: u32,
    title: &str,
    comment: &str,
    offset: u32,
) -> Vec<u8> {
    let trak = boxed(
        b"trak",
        &[
            &track_header(scene, seconds),
            &media(scene, samples, seconds, offset),
        ],
    );
    let header = movie_header(seconds);
    boxed(b"moov", &[&header, &trak, &user_data(title, comment)])
}

fn movie_header(seconds: u32) -> Vec<u8> {
    full(
        b"mvhd",
        0,
        &[
            &words(&[
                0,
                0,
                MOVIE_TIMESCALE,
                seconds * MOVIE_TIMESCALE,
                0x0001_0000,
            ]), // rate 1.0
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // volume 1.0, reserved
            &words(&UNITY_MATRIX),
            &words(&[0; 6]),
            &words(&[2]), // next_track_ID
        ],
    )
}

fn track_header(scene: &Scene, seconds: u32) -> Vec<u8> {
    let format = scene.format();
    full(
        b"tkhd",
        3, // enabled, in movie
        &[
            &words(&[0, 0, 1, 0, seconds * MOVIE_TIMESCALE, 0, 0]),
            &[0; 8], // layer, group, volume
            &words(&UNITY_MATRIX),
            &words(&[format.width << 16, format.height << 16]),
        ],
    )
}

fn media(scene: &Scene, samples: &Samples, seconds: u32, offset: u32) -> Vec<u8> {
    let undetermined = 0x55C4; // "und", packed
    let header = full(
        b"mdhd",
        0,
        &[&words(&[
            0,
            0,
            MEDIA_TIMESCALE,
            seconds * MEDIA_TIMESCALE,
            undetermined << 16,
        ])],
    );
    let handler = full(
        b"hdlr",
        0,
        &[&words(&[0]), b"vide", &words(&[0; 3]), b"VideoHandler\0"],
    );
    let itself = full(b"url ", 1, &[]); // the data is in this file
    let data = boxed(b"dinf", &[&full(b"dref", 0, &[&words(&[1]), &itself])]);
    let video = full(b"vmhd", 1, &[&[0; 8]]);
    let info = boxed(
        b"minf",
        &[&video, &data, &sample_table(scene, samples, offset)],
    );
    boxed(b"mdia", &[&header, &handler, &info])
}

fn sample_table(scene: &Scene, samples: &Samples, offset: u32) -> Vec<u8> {
    let count = samples.sizes.len() as u32;
    boxed(
        b"stbl",
        &[
            &full(b"stsd", 0, &[&words(&[1]), &sample_entry(scene)]),
            &full(b"stts", 0, &[&words(&[1, count, FRAME_TICKS])]),
            &full(
                b"stss",
                0,
                &[&words(&[samples.keys.len() as u32]), &words(&samples.keys)],
            ),
            &full(b"stsc", 0, &[&words(&[1, 1, count, 1])]), // all samples are one chunk
            &full(b"stsz", 0, &[&words(&[0, count]), &words(&samples.sizes)]),
            &full(b"stco", 0, &[&words(&[1, offset])]),
        ],
    )
}

fn sample_entry(scene: &Scene) -> Vec<u8> {
    let format = scene.format();
    let (sps, pps) = (format.sequence_parameters(), format.picture_parameters());
    let config = boxed(
        b"avcC",
        &[
            &[1],
            &format.profile_bytes(),
            &[0xFF, 0xE1], // lengths take 4 bytes; one SPS
            &(sps.len() as u16).to_be_bytes(),
            &sps,
            &[1], // one PPS
            &(pps.len() as u16).to_be_bytes(),
            &pps,
        ],
    );
    boxed(
        b"avc1",
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1], // data_reference_index
            &[0; 16],
            &(format.width as u16).to_be_bytes(),
            &(format.height as u16).to_be_bytes(),
            &words(&[0x0048_0000, 0x0048_0000, 0]), // 72 dpi
            &[0, 1],                                // frame_count
            &[0; 32],                               // compressorname
            &[0, 24, 0xFF, 0xFF],                   // depth, pre_defined
            &config,
        ],
    )
}

/// Title and comment where players look for them: the iTunes list.
fn user_data(title: &str, comment: &str) -> Vec<u8> {
    let item = |kind: &[u8; 4], text: &str| {
        let value = boxed(b"data", &[&words(&[1, 0]), text.as_bytes()]); // 1: UTF-8
        boxed(kind, &[&value])
    };
    let list = boxed(
        b"ilst",
        &[&item(b"\xA9nam", title), &item(b"\xA9cmt", comment)],
    );
    let handler = full(
        b"hdlr",
        0,
        &[&words(&[0]), b"mdirappl", &words(&[0, 0]), &[0]],
    );
    boxed(b"udta", &[&full(b"meta", 0, &[&handler, &list])])
}

const UNITY_MATRIX: [u32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(size);
    out.extend((size as u32).to_be_bytes());
    out.extend(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A box of version 0 with flags.
fn full(kind: &[u8; 4], flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    let head = flags.to_be_bytes();
    let parts: Vec<&[u8]> = std::iter::once(&head[..])
        .chain(parts.iter().copied())
        .collect();
    boxed(kind, &parts)
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::order::Size;
    use super::*;

    fn order(size: Size, duration: u32) -> Order {
        Order {
            prompt: "A calm scene, ünïcode too".into(),
            image_url: "https://example.com/a.jpg".into(),
            duration,
            size,
        }
    }

    /// The boxes directly in `bytes`, which they must fill exactly: kind and content.
    fn boxes(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let size = word(bytes, 0) as usize;
            found.push((&bytes[4..8], &bytes[8..size]));
            bytes = &bytes[size..];
        }
        found
    }

    fn inside<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> &'a [u8] {
        path.iter().fold(bytes, |bytes, kind| {
            boxes(bytes)
                .into_iter()
                .find(|(found, _)| found == kind)
                .unwrap()
                .1
        })
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_tables_describe_the_data() {
        for size in Size::ALL {
            for seconds in [1, 15] {
                let file = render(&order(size, seconds), "task_1");
                assert!(
                    file.len() <= 4 << 20,
                    "{size:?} {seconds} s: {} bytes",
                    file.len()
                );
                let kinds: Vec<&[u8]> = boxes(&file).iter().map(|(kind, _)| *kind).collect();
                assert_eq!(kinds, [b"ftyp", b"moov", b"mdat"]);
                let data = inside(&file, &[b"mdat"]);
                let table = inside(&file, &[b"moov", b"trak", b"mdia", b"minf", b"stbl"]);

                let offset = word(inside(table, &[b"stco"]), 8) as usize;
                assert_eq!(offset, file.len() - data.len());
                let sizes = inside(table, &[b"stsz"]);
                let count = word(sizes, 8);
                assert_eq!(count, seconds * FRAME_RATE);
                let mut rest = data;
                for sample in 0..count as usize {
                    let size = word(sizes, 12 + 4 * sample) as usize;
                    assert_eq!(word(rest, 0) as usize + 4, size, "sample {sample}");
                    rest = &rest[size..];
                }
                assert!(rest.is_empty());
                let ticks =
                    word(inside(table, &[b"stts"]), 8) * word(inside(table, &[b"stts"]), 12);
                assert_eq!(ticks, seconds * MEDIA_TIMESCALE);
            }
        }
    }

    #[test]
    fn headers_have_the_length_and_the_matrix_of_the_standard() {
        let file = render(&order(Size::P720, 2), "task_1");
        let moov = inside(&file, &[b"moov"]);
        let track = inside(moov, &[b"trak"]);
        let media = inside(track, &[b"mdia"]);
        // Content without the 8 bytes of size and kind, for version 0.
        for (name, content, len) in [
            ("mvhd", inside(moov, &[b"mvhd"]), 100),
            ("tkhd", inside(track, &[b"tkhd"]), 84),
            ("mdhd", inside(media, &[b"mdhd"]), 24),
            ("vmhd", inside(media, &[b"minf", b"vmhd"]), 12),
        ] {
            assert_eq!(content.len(), len, "{name}");
        }
        let matrix = words(&UNITY_MATRIX);
        assert_eq!(inside(moov, &[b"mvhd"])[36..72], matrix);
        assert_eq!(inside(track, &[b"tkhd"])[40..76], matrix);
        assert_eq!(
            inside(track, &[b"tkhd"])[76..],
            words(&[1280 << 16, 720 << 16])
        );
    }

    #[test]
    fn a_task_has_one_video_and_no_other_task_has_it() {
        let one = order(Size::P480, 1);
        let other = Order {
            prompt: "Another".into(),
            ..one.clone()
        };
        assert_eq!(render(&one, "task_1"), render(&one, "task_1"));
        assert_ne!(render(&one, "task_1"), render(&one, "task_2"));
        assert_ne!(render(&one, "task_1"), render(&other, "task_1"));
    }

    #[test]
    fn the_prompt_is_the_title_within_bounds() {
        let long = Order {
            prompt: "é".repeat(5000),
            ..order(Size::P480, 1)
        };
        let file = render(&long, "task_1");
        let items = &inside(&file, &[b"moov", b"udta", b"meta"])[4..];
        let title = inside(items, &[b"ilst", b"\xA9nam", b"data"]);
        assert_eq!(&title[8..], "é".repeat(TITLE_CHARS).as_bytes());
    }
}
