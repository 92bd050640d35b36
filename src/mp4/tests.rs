//! Which files count as whole, and which do not.

use std::io::{Cursor, SeekFrom};

use proptest::prelude::*;

use super::boxes::{Header, u32_at};
use super::sample::*;
use super::tracks::Column;
use super::*;

fn judge(bytes: &[u8]) -> Result<Movie, Defect> {
    inspect(&mut Cursor::new(bytes), bytes.len() as u64)
}

fn words(bytes: &[u8]) -> String {
    judge(bytes).unwrap_err().to_string()
}

#[test]
fn every_kind_of_whole_file_is_accepted() {
    for (name, file) in every_kind() {
        let fragmented = name.contains("mehd") || name.contains("sidx");
        let movie = judge(&file).unwrap_or_else(|defect| panic!("{name}: {defect}"));
        let expected = Movie {
            duration_ms: Some(if fragmented { 3000 } else { 6000 }),
            width: Some(1280),
            height: Some(720),
            has_track: true,
            fragmented,
            open_ended: false,
        };
        assert_eq!(movie, expected, "{name}");
    }
}

#[test]
fn a_movie_without_a_track_is_odd_and_whole() {
    for inside in [mvhd(6000), vec![0; 100], vec![0xff; 100], Vec::new()] {
        let file = [ftyp(), moov(&[inside]), boxed(b"mdat", &[1])].concat();
        assert!(!judge(&file).unwrap().has_track);
    }
}

/// All cuts, not a sample of them: the files are small.
#[test]
fn every_cut_of_every_kind_is_refused_as_one() {
    for (name, file) in every_kind() {
        for length in 0..file.len() {
            match judge(&file[..length]) {
                Ok(movie) => panic!("{name} cut to {length} of {}: {movie:?}", file.len()),
                Err(defect) => assert!(defect.is_truncation(), "{name} at {length}: {defect}"),
            }
        }
    }
}

#[test]
fn a_cut_inside_what_follows_the_video_is_refused_too() {
    for tail in [boxed(b"free", &[0; 30]), wide(b"uuid", &[7; 30])] {
        let whole = video();
        let file = [whole.clone(), tail].concat();
        judge(&file).unwrap();
        // At the boundary itself nothing is lost.
        judge(&file[..whole.len()]).unwrap();
        for length in whole.len() + 1..file.len() {
            assert!(judge(&file[..length]).unwrap_err().is_truncation());
        }
    }
}

#[test]
fn a_cut_between_fragments_shows_where_the_file_promised_more() {
    let starts = |file: &[u8]| -> Vec<usize> {
        let found = file.windows(4).enumerate().filter(|(_, w)| w == b"moof");
        found.map(|(at, _)| at - 4).collect()
    };
    let file = fragmented(Promise::Mehd, false, false);
    assert_eq!(
        words(&file[..starts(&file)[2]]),
        "cut off: the movie promises 3000 ms, its fragments hold 2000 ms"
    );
    let file = fragmented(Promise::Sidx, false, false);
    let cut = &file[..starts(&file)[2]];
    assert!(words(cut).starts_with("cut off: the segment index covers bytes up to"));
    // Without a promise there is no telling but by the duration.
    let file = fragmented(Promise::Nothing, false, false);
    let whole = judge(&file).unwrap();
    assert_eq!((whole.duration_ms, whole.open_ended), (Some(3000), true));
    let movie = judge(&file[..starts(&file)[2]]).unwrap();
    assert_eq!((movie.duration_ms, movie.open_ended), (Some(2000), true));
    let ended = judge(&[&file[..], &boxed(b"mfra", &[])].concat()).unwrap();
    assert!(!ended.open_ended);
}

#[test]
fn what_is_appended_does_not_cost_the_video() {
    let whole = video();
    let with = |tail: &[u8]| judge(&[&whole[..], tail].concat());
    for tail in [
        &[0; 4][..],
        &[0; 7],
        &[0; 8],
        &[0; 512],
        &[0, 0, 0, 3, 9, 9, 9, 9, 9],
    ] {
        with(tail).unwrap_or_else(|defect| panic!("{tail:?}: {defect}"));
    }
    for tail in [
        &[0; 1][..],
        &[0; 3],
        b"\n",
        b"\0\0\0\x20fre",
        b"<!-- end -->",
    ] {
        assert!(with(tail).unwrap_err().is_truncation(), "{tail:?}");
    }
}

#[test]
fn odd_but_whole_is_accepted() {
    let change = |from: &[u8], to: &[u8]| {
        let mut file = video();
        let at = file.windows(from.len()).position(|w| w == from).unwrap();
        file[at..at + to.len()].copy_from_slice(to);
        file
    };
    for (name, file) in [
        ("no sizes", change(b"stsz", b"xxxx")),
        ("no runs", change(b"stsc", b"xxxx")),
        ("no chunks", change(b"stco", b"xxxx")),
        ("no data reference", change(b"dinf", b"xxxx")),
        (
            "too many entries",
            change(b"stsz\0\0\0\0\0\0\0\0\0\0", b"stsz\0\0\0\0\0\0\0\0\x7f\xff"),
        ),
        (
            "a child that overruns",
            change(b"\0\0\0\x10stsd", b"\0\x10\0\0stsd"),
        ),
    ] {
        judge(&file).unwrap_or_else(|defect| panic!("{name}: {defect}"));
    }
}

#[test]
fn a_track_that_lies_in_another_file_is_not_looked_for_here() {
    let mut file = video();
    let at = file.windows(4).position(|w| w == b"stco").unwrap();
    file[at + 12] = 0x7f;
    assert!(matches!(
        judge(&file),
        Err(Defect::CutSamples {
            track: "picture",
            ..
        })
    ));
    let url = file.windows(4).position(|w| w == b"url ").unwrap();
    file[url + 7] = 0;
    judge(&file).unwrap();
}

#[test]
fn the_words_say_what_is_wrong() {
    let whole = video();
    let ftyp = ftyp();
    for (file, expected) in [
        (&b""[..], "empty: not one byte came"),
        (b"OK", "not an MP4: begins with `OK`"),
        (b"\0\0\0\x20fty", "cut off: there are only 7 bytes"),
        (
            b"<!DOCTYPE html>\n<html>",
            r"not an MP4: begins with `<!DOCTYPE html>\n<html>`",
        ),
        (
            "\u{feff}{\"error\":\"没有\"}".as_bytes(),
            "not an MP4: begins with `{\"error\":\"没有\"}`",
        ),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            r"not an MP4: begins with `\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR`",
        ),
        (
            &boxed(b"moov", &[]),
            r"not an MP4: begins with `\x00\x00\x00\x08moov`",
        ),
        (
            &ftyp,
            "no `moov` box: the file holds no description of the movie",
        ),
        (
            &[&ftyp[..], &boxed(b"mdat", &[1])].concat(),
            "no `moov` box: the file holds no description of the movie",
        ),
        (
            &[&ftyp[..], &moov(&[mvhd(1)])].concat(),
            "no `mdat` box: the file holds no picture data",
        ),
        (
            &[&ftyp[..], &moov(&[mvhd(1)]), &boxed(b"mdat", &[])].concat(),
            "no picture data: `mdat` is empty",
        ),
        (
            &[&ftyp[..], &boxed(b"mdat", &[1]), &open(b"moov", &mvhd(1))].concat(),
            "cut off: the file ends inside `moov`, before its first track",
        ),
        (
            &[&ftyp[..], b"\0\0\0\x05abcd"].concat(),
            "broken: the box `abcd` at offset 32 claims 5 bytes, fewer than its header",
        ),
        (
            &whole[..whole.len() - 9],
            "cut off: box `mdat` at offset 822 claims 208 bytes, the file ends 9 bytes earlier",
        ),
        (
            &whole[..827],
            "cut off: the file ends 5 bytes into the header of the box at offset 822",
        ),
        (
            &moov_first(Table::Each, open)[..1029],
            "cut off: the sample table of the sound refers to bytes up to 1030, the file has 1029",
        ),
    ] {
        assert_eq!(words(file), expected);
    }
}

#[test]
fn a_quarter_turn_swaps_the_sides() {
    let mut file = video();
    let tkhd = file.windows(4).position(|w| w == b"tkhd").unwrap() + 4;
    file[tkhd + 40..tkhd + 48].copy_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0]);
    let movie = judge(&file).unwrap();
    assert_eq!((movie.width, movie.height), (Some(720), Some(1280)));
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_no_verdict_on_the_video() {
    let file = video();
    let result = inspect(&mut Cursor::new(&file[..100]), file.len() as u64);
    assert!(matches!(result, Err(Defect::Unreadable(_))));
}

#[test]
fn boxes_without_end_are_given_up_on() {
    let mut file = ftyp();
    file.extend(boxed(b"free", &[]).repeat(MAX_BOXES as usize));
    assert!(matches!(judge(&file), Err(Defect::TooManyBoxes)));
}

#[test]
fn a_table_is_read_no_further_than_the_budget_and_its_box() {
    let file: Vec<u8> = (0..4000_u32).flat_map(u32::to_be_bytes).collect();
    let table = Header {
        kind: *b"stco",
        start: 0,
        body: 0,
        end: file.len() as u64,
        open: false,
    };
    for (count, budget, expected) in [(4000, 5000, 4000), (9999, 5000, 4000), (9999, 1500, 1500)] {
        let mut source = Source {
            input: &mut Cursor::new(&file),
            length: file.len() as u64,
            boxes: 0,
            entries: budget,
        };
        let mut column = Column::new(&table, 0, 4, count);
        let mut seen = 0;
        while let Some(entry) = column.pull(&mut source).unwrap() {
            assert_eq!(u32_at(entry, 0), seen);
            seen += 1;
        }
        assert_eq!(seen, expected);
    }
}

/// Counts what is asked of the input.
struct Counting<'a> {
    inner: Cursor<&'a [u8]>,
    reads: u64,
    bytes: u64,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.reads += 1;
        self.bytes += count as u64;
        Ok(count)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

/// No mutation may cost more than a small multiple of the file's length.
fn bounded(file: &[u8]) -> Result<(), TestCaseError> {
    let mut input = Counting {
        inner: Cursor::new(file),
        reads: 0,
        bytes: 0,
    };
    let _ = inspect(&mut input, file.len() as u64);
    let length = file.len() as u64;
    prop_assert!(input.reads <= 64 + length, "{} reads", input.reads);
    prop_assert!(input.bytes <= 256 + 12 * length, "{} bytes", input.bytes);
    Ok(())
}

fn kinds() -> impl Strategy<Value = Vec<u8>> {
    let files: Vec<_> = every_kind().into_iter().map(|(_, file)| file).collect();
    prop::sample::select(files)
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(judge(&bytes).is_err());
        bounded(&bytes)?;
        bounded(&[&ftyp()[..], &bytes].concat())?;
    }

    #[test]
    fn a_mutation_costs_no_more_than_the_file(
        mut file in kinds(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        bounded(&file)?;
        bounded(&file[..cut.index(file.len())])?;
    }

    /// Sizes and counts are the fields that hurt.
    #[test]
    fn absurd_numbers_cost_no_more_either(
        mut file in kinds(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        number in prop::sample::select(vec![0, 1, 2, 7, 8, 9, 0x7fff_ffff, 0xffff_fff0, u32::MAX]),
    ) {
        for place in places {
            let at = place.index(file.len() / 4) * 4;
            file[at..at + 4].copy_from_slice(&u32::to_be_bytes(number));
        }
        bounded(&file)?;
    }

    /// What stands between the boxes does not change the verdict on a cut.
    #[test]
    fn any_cut_of_any_layout_is_refused(
        free in prop::collection::vec(0_usize..40, 3),
        is_wide in any::<bool>(),
        at in any::<prop::sample::Index>(),
    ) {
        let write = if is_wide { wide } else { boxed };
        let filler: Vec<_> = free.iter().map(|n| boxed(b"free", &vec![0; *n])).collect();
        let before = [ftyp(), filler[0].clone()].concat();
        let body = media(BYTES);
        let mdat = write(b"mdat", &body);
        let offset = before.len() + mdat.len() - body.len();
        let track = trak(1, b"vide", Table::Each, offset as u32);
        let file = [before, mdat, filler[1].clone(), moov(&[mvhd(6000), track])].concat();
        prop_assert!(judge(&file).is_ok());
        let cut = judge(&file[..at.index(file.len())]);
        prop_assert!(cut.is_err_and(|defect| defect.is_truncation()));
    }
}
