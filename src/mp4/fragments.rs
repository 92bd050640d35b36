//! What the fragments add, and whether their runs lie inside the file.

use std::io::{Read, Seek};

use super::Defect;
use super::boxes::{Found, Header, Source, u32_at, u64_at};
use super::description::{Description, Track};
use super::tracks::Column;

/// The second pass: `moof` and `sidx`, as far as the walk went.
pub(super) fn read_fragments<R: Read + Seek>(
    source: &mut Source<'_, R>,
    movie: &mut Description,
    end: u64,
) -> Result<(), Defect> {
    let mut at = 0;
    while let Found::Box(header) = source.look(at, end, true)? {
        at = header.end;
        match &header.kind {
            b"moof" => read_moof(source, &header, movie)?,
            b"sidx" => movie.has_index |= check_index(source, &header)? > 1,
            _ => {}
        }
    }
    Ok(())
}

/// Whatever it refers to must lie inside the file. Answers how many references
/// it has.
fn check_index<R: Read + Seek>(source: &mut Source<'_, R>, sidx: &Header) -> Result<u32, Defect> {
    let Some(short) = source.head::<24>(sidx)? else {
        return Ok(0);
    };
    let (first, count, entries) = if short[0] == 0 {
        (u64::from(u32_at(&short, 16)), u32_at(&short, 20), 24)
    } else {
        let Some(long) = source.head::<32>(sidx)? else {
            return Ok(0);
        };
        (u64_at(&long, 20), u32_at(&long, 28), 32)
    };
    let mut references = Column::new(sidx, entries, 12, u64::from(count & 0xffff));
    let mut needs = sidx.end.saturating_add(first);
    while let Some(entry) = references.pull(source)? {
        needs = needs.saturating_add(u64::from(u32_at(entry, 0) & 0x7fff_ffff));
    }
    if needs > source.length {
        return Err(Defect::CutIndex {
            needs,
            length: source.length,
        });
    }
    Ok(count & 0xffff)
}

/// What holds for the runs of one `traf`.
#[derive(Default)]
struct Fragment {
    track: Option<usize>,
    /// Where offsets count from, and where the next run begins if it does not
    /// say.
    base: u64,
    next: u64,
    duration: Option<u32>,
    size: Option<u32>,
    /// From `tfdt`.
    begins: Option<u64>,
    length: u64,
}

fn read_moof<R: Read + Seek>(
    source: &mut Source<'_, R>,
    moof: &Header,
    movie: &mut Description,
) -> Result<(), Defect> {
    let mut after_last = moof.start;
    let mut at = moof.body;
    while let Some(traf) = source.child(at, moof)? {
        at = traf.end;
        if traf.kind != *b"traf" {
            continue;
        }
        let mut fragment = Fragment {
            base: after_last,
            next: after_last,
            ..Fragment::default()
        };
        let mut inside = traf.body;
        while let Some(header) = source.child(inside, &traf)? {
            inside = header.end;
            match &header.kind {
                b"tfhd" => read_tfhd(source, &header, moof, movie, &mut fragment)?,
                b"tfdt" => {
                    if let Some(bytes) = source.head::<8>(&header)? {
                        fragment.begins = match bytes[0] {
                            0 => Some(u64::from(u32_at(&bytes, 4))),
                            _ => source.head::<12>(&header)?.map(|bytes| u64_at(&bytes, 4)),
                        };
                    }
                }
                b"trun" => read_trun(source, &header, movie, &mut fragment)?,
                _ => {}
            }
        }
        after_last = fragment.next;
        match fragment.track.and_then(|index| movie.tracks.get_mut(index)) {
            Some(track) => {
                track.fragments = track.fragments.saturating_add(fragment.length);
                if let Some(begins) = fragment.begins {
                    let end = begins.saturating_add(fragment.length);
                    track.latest = track.latest.max(end);
                }
            }
            None => movie.unsure = true,
        }
    }
    Ok(())
}

fn read_tfhd<R: Read + Seek>(
    source: &mut Source<'_, R>,
    header: &Header,
    moof: &Header,
    movie: &Description,
    fragment: &mut Fragment,
) -> Result<(), Defect> {
    let Some(bytes) = source.head::<8>(header)? else {
        return Ok(());
    };
    let flags = u32_at(&bytes, 0);
    let id = u32_at(&bytes, 4);
    fragment.track = movie.tracks.iter().position(|track| track.id == id);
    if let Some(defaults) = movie.defaults.iter().find(|defaults| defaults.track == id) {
        fragment.duration = Some(defaults.duration);
        fragment.size = Some(defaults.size);
    }
    // At most 8 + 4 + 4 + 4 + 4 bytes of optional fields.
    let mut optional = [0; 24];
    let there = (header.end - header.body - 8).min(24) as usize;
    source.read(header.body + 8, &mut optional[..there])?;
    let mut at = 0;
    let mut take = |flag: u32, width: usize| {
        let from = at;
        let present = flags & flag != 0 && from + width <= there;
        if flags & flag != 0 {
            at += width;
        }
        present.then_some(from)
    };
    let base = take(0x1, 8);
    take(0x2, 4);
    let duration = take(0x8, 4);
    let size = take(0x10, 4);
    if let Some(at) = base {
        fragment.base = u64_at(&optional, at);
    } else if flags & 0x2_0000 != 0 {
        fragment.base = moof.start;
    }
    fragment.next = fragment.base;
    if let Some(at) = duration {
        fragment.duration = Some(u32_at(&optional, at));
    }
    if let Some(at) = size {
        fragment.size = Some(u32_at(&optional, at));
    }
    Ok(())
}

fn read_trun<R: Read + Seek>(
    source: &mut Source<'_, R>,
    header: &Header,
    movie: &mut Description,
    fragment: &mut Fragment,
) -> Result<(), Defect> {
    let Some(bytes) = source.head::<8>(header)? else {
        movie.unsure = true;
        return Ok(());
    };
    let flags = u32_at(&bytes, 0);
    let count = u64::from(u32_at(&bytes, 4));
    let mut skip = 8;
    if flags & 0x1 != 0 {
        if let Some(bytes) = source.head::<12>(header)? {
            let offset = u32_at(&bytes, 8).cast_signed();
            fragment.next = fragment.base.saturating_add_signed(i64::from(offset));
        }
        skip += 4;
    }
    if flags & 0x4 != 0 {
        skip += 4;
    }
    let field = |flag: u32| usize::from(flags & flag != 0) * 4;
    let width = field(0x100) + field(0x200) + field(0x400) + field(0x800);
    let (mut ticks, mut bytes) = (0_u64, 0_u64);
    if flags & 0x300 != 0 {
        let mut column = Column::new(header, skip, width, count);
        let mut seen = 0;
        while let Some(entry) = column.pull(source)? {
            seen += 1;
            if flags & 0x100 != 0 {
                ticks += u64::from(u32_at(entry, 0));
            }
            if flags & 0x200 != 0 {
                bytes += u64::from(u32_at(entry, field(0x100)));
            }
        }
        movie.unsure |= seen < count;
    }
    if flags & 0x100 == 0 {
        match fragment.duration {
            Some(duration) => ticks = count * u64::from(duration),
            None => movie.unsure = true,
        }
    }
    if flags & 0x200 == 0 {
        bytes = count * u64::from(fragment.size.unwrap_or(0));
    }
    fragment.length = fragment.length.saturating_add(ticks);
    fragment.next = fragment.next.saturating_add(bytes);
    let track = fragment.track.and_then(|index| movie.tracks.get(index));
    if bytes > 0 && fragment.next > source.length && track.is_none_or(|track| !track.external) {
        return Err(Defect::CutSamples {
            table: "fragment",
            track: track.map_or("track", Track::name),
            needs: fragment.next,
            length: source.length,
        });
    }
    Ok(())
}
