//! What `moov` says of its tracks, and whether their chunks lie inside the file.

use std::io::{Read, Seek};

use super::Defect;
use super::boxes::{Header, Source, u32_at, u64_at};
use super::description::{Defaults, Description, Track, millis};

/// Tracks beyond these are walked but not remembered.
const MAX_TRACKS: usize = 64;

/// A multiple of every entry width in use (4, 8, 12 and 16 bytes).
const BUFFER: usize = 4080;

pub(super) fn read_moov<R: Read + Seek>(
    source: &mut Source<'_, R>,
    moov: &Header,
) -> Result<Description, Defect> {
    let mut movie = Description::default();
    let mut timescale = 0;
    let mut promised = 0;
    let mut at = moov.body;
    while let Some(header) = source.child(at, moov)? {
        at = header.end;
        match &header.kind {
            b"mvhd" => {
                let (scale, duration) = read_clock(source, &header)?;
                timescale = scale;
                movie.duration_ms = duration.and_then(|ticks| millis(ticks, scale));
            }
            b"trak" => {
                movie.has_track = true;
                let track = read_trak(source, &header)?;
                if movie.tracks.len() < MAX_TRACKS {
                    movie.tracks.push(track);
                } else {
                    movie.unsure = true;
                }
            }
            // A compressed `moov` of old QuickTime: the tracks are inside.
            b"cmov" => {
                movie.has_track = true;
                movie.unsure = true;
            }
            b"mvex" => {
                movie.extends = true;
                promised = read_mvex(source, &header, &mut movie)?;
            }
            _ => {}
        }
    }
    // Of a size that is written down, it is odd and no cut.
    if !movie.has_track && moov.open {
        return Err(Defect::NoTrack);
    }
    movie.promised_ms = millis(promised, timescale);
    Ok(movie)
}

/// The time scale and the duration of an `mvhd` or `mdhd`; `None` for "not
/// known", which is written as all ones.
fn read_clock<R: Read + Seek>(
    source: &mut Source<'_, R>,
    header: &Header,
) -> Result<(u32, Option<u64>), Defect> {
    let Some(short) = source.head::<20>(header)? else {
        return Ok((0, None));
    };
    if short[0] == 0 {
        let duration = u32_at(&short, 16);
        let known = duration != u32::MAX;
        return Ok((u32_at(&short, 12), known.then_some(u64::from(duration))));
    }
    let Some(long) = source.head::<32>(header)? else {
        return Ok((0, None));
    };
    let duration = u64_at(&long, 24);
    Ok((
        u32_at(&long, 20),
        (duration != u64::MAX).then_some(duration),
    ))
}

/// Reads the `trex` boxes; answers the duration in `mehd`, in units of the
/// movie's time scale.
fn read_mvex<R: Read + Seek>(
    source: &mut Source<'_, R>,
    mvex: &Header,
    movie: &mut Description,
) -> Result<u64, Defect> {
    let mut promised = 0;
    let mut at = mvex.body;
    while let Some(header) = source.child(at, mvex)? {
        at = header.end;
        match &header.kind {
            b"mehd" => {
                if let Some(bytes) = source.head::<8>(&header)? {
                    promised = match bytes[0] {
                        0 => {
                            Some(u64::from(u32_at(&bytes, 4))).filter(|d| *d != u64::from(u32::MAX))
                        }
                        _ => source
                            .head::<12>(&header)?
                            .map(|bytes| u64_at(&bytes, 4))
                            .filter(|d| *d != u64::MAX),
                    }
                    .unwrap_or(0);
                }
            }
            b"trex" => {
                if let Some(bytes) = source.head::<24>(&header)?
                    && movie.defaults.len() < MAX_TRACKS
                {
                    movie.defaults.push(Defaults {
                        track: u32_at(&bytes, 4),
                        duration: u32_at(&bytes, 12),
                        size: u32_at(&bytes, 16),
                    });
                }
            }
            _ => {}
        }
    }
    Ok(promised)
}

fn read_trak<R: Read + Seek>(source: &mut Source<'_, R>, trak: &Header) -> Result<Track, Defect> {
    let mut track = Track::default();
    let mut tables = Tables::default();
    let mut at = trak.body;
    while let Some(header) = source.child(at, trak)? {
        at = header.end;
        match &header.kind {
            b"tkhd" => read_tkhd(source, &header, &mut track)?,
            b"mdia" => read_mdia(source, &header, &mut track, &mut tables)?,
            _ => {}
        }
    }
    let matters = matches!(&track.handler, b"vide" | b"soun");
    if matters && !track.external {
        check_chunks(source, &tables, &track)?;
    }
    Ok(track)
}

fn read_tkhd<R: Read + Seek>(
    source: &mut Source<'_, R>,
    header: &Header,
    track: &mut Track,
) -> Result<(), Defect> {
    let Some(short) = source.head::<84>(header)? else {
        return Ok(());
    };
    let mut fields = [0; 96];
    let (id, matrix) = if short[0] == 0 {
        fields[..84].copy_from_slice(&short);
        (12, 40)
    } else {
        let Some(long) = source.head::<96>(header)? else {
            return Ok(());
        };
        fields = long;
        (20, 52)
    };
    track.id = u32_at(&fields, id);
    track.width = u32_at(&fields, matrix + 36) >> 16;
    track.height = u32_at(&fields, matrix + 40) >> 16;
    // A quarter turn: what is stored as width is shown as height.
    if u32_at(&fields, matrix) == 0 && u32_at(&fields, matrix + 4) != 0 {
        std::mem::swap(&mut track.width, &mut track.height);
    }
    Ok(())
}

/// Where the sample tables of a track are.
#[derive(Default)]
struct Tables {
    offsets: Option<Header>,
    runs: Option<Header>,
    sizes: Option<Header>,
}

fn read_mdia<R: Read + Seek>(
    source: &mut Source<'_, R>,
    mdia: &Header,
    track: &mut Track,
    tables: &mut Tables,
) -> Result<(), Defect> {
    let mut at = mdia.body;
    while let Some(header) = source.child(at, mdia)? {
        at = header.end;
        match &header.kind {
            b"mdhd" => (track.timescale, track.duration) = read_clock(source, &header)?,
            b"hdlr" => {
                if let Some([.., a, b, c, d]) = source.head::<12>(&header)? {
                    track.handler = [a, b, c, d];
                }
            }
            b"minf" => read_minf(source, &header, track, tables)?,
            _ => {}
        }
    }
    Ok(())
}

fn read_minf<R: Read + Seek>(
    source: &mut Source<'_, R>,
    minf: &Header,
    track: &mut Track,
    tables: &mut Tables,
) -> Result<(), Defect> {
    let mut at = minf.body;
    while let Some(header) = source.child(at, minf)? {
        at = header.end;
        match &header.kind {
            b"dinf" => {
                let mut at = header.body;
                while let Some(inner) = source.child(at, &header)? {
                    at = inner.end;
                    if inner.kind == *b"dref" {
                        track.external = is_external(source, &inner)?;
                    }
                }
            }
            b"stbl" => {
                let mut at = header.body;
                while let Some(inner) = source.child(at, &header)? {
                    at = inner.end;
                    let slot = match &inner.kind {
                        b"stco" | b"co64" => &mut tables.offsets,
                        b"stsc" => &mut tables.runs,
                        b"stsz" | b"stz2" => &mut tables.sizes,
                        _ => continue,
                    };
                    slot.get_or_insert(inner);
                }
                if let Some(offsets) = &tables.offsets {
                    let head = source.head::<8>(offsets)?;
                    track.has_chunks = head.is_some_and(|bytes| u32_at(&bytes, 4) > 0);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Some data reference is not "in this file" (flag 1).
fn is_external<R: Read + Seek>(source: &mut Source<'_, R>, dref: &Header) -> Result<bool, Defect> {
    let list = Header {
        body: (dref.body + 8).min(dref.end),
        ..*dref
    };
    let mut at = list.body;
    while let Some(entry) = source.child(at, &list)? {
        at = entry.end;
        if let Some(bytes) = source.head::<4>(&entry)?
            && bytes[3] & 1 == 0
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A table that is read a buffer at a time.
pub(super) struct Column {
    at: u64,
    left: u64,
    width: usize,
    buffer: [u8; BUFFER],
    next: usize,
    filled: usize,
}

impl Column {
    /// `count` entries of `width` bytes from `skip` bytes into the body, or as
    /// many as fit.
    pub(super) fn new(of: &Header, skip: u64, width: usize, count: u64) -> Column {
        let at = of.body.saturating_add(skip).min(of.end);
        Column {
            at,
            left: count.min((of.end - at) / width as u64),
            width,
            buffer: [0; BUFFER],
            next: 0,
            filled: 0,
        }
    }

    /// The next entry; `None` at the end, also at the end of the budget.
    pub(super) fn pull<R: Read + Seek>(
        &mut self,
        source: &mut Source<'_, R>,
    ) -> Result<Option<&[u8]>, Defect> {
        if self.next == self.filled {
            let count = self
                .left
                .min((BUFFER / self.width) as u64)
                .min(source.entries);
            if count == 0 {
                return Ok(None);
            }
            source.entries -= count;
            self.left -= count;
            self.filled = count as usize * self.width;
            self.next = 0;
            source.read(self.at, &mut self.buffer[..self.filled])?;
            self.at += self.filled as u64;
        }
        let entry = self.next..self.next + self.width;
        self.next = entry.end;
        Ok(Some(&self.buffer[entry]))
    }
}

/// How large the samples of a track are.
enum Sizes {
    /// All alike, so many of them.
    Same(u64, u64),
    Each(Box<Column>),
    Unknown,
}

/// Every chunk must lie inside the file.
fn check_chunks<R: Read + Seek>(
    source: &mut Source<'_, R>,
    tables: &Tables,
    track: &Track,
) -> Result<(), Defect> {
    let Some(offsets) = &tables.offsets else {
        return Ok(());
    };
    let Some(head) = source.head::<8>(offsets)? else {
        return Ok(());
    };
    let width = if offsets.kind == *b"co64" { 8 } else { 4 };
    let mut offsets = Column::new(offsets, 8, width, u64::from(u32_at(&head, 4)));

    let mut sizes = Sizes::Unknown;
    if let Some(header) = &tables.sizes
        && header.kind == *b"stsz"
        && let Some(head) = source.head::<12>(header)?
    {
        let count = u64::from(u32_at(&head, 8));
        sizes = match u64::from(u32_at(&head, 4)) {
            0 => Sizes::Each(Box::new(Column::new(header, 12, 4, count))),
            // QuickTime writes 1 for sound that is packed differently.
            1 => Sizes::Unknown,
            size => Sizes::Same(size, count),
        };
    }
    let mut runs = None;
    if let Some(header) = &tables.runs
        && let Some(head) = source.head::<8>(header)?
    {
        runs = Some(Column::new(header, 8, 12, u64::from(u32_at(&head, 4))));
    } else {
        sizes = Sizes::Unknown;
    }

    let mut per_chunk = 0;
    let mut coming = pull_run(&mut runs, source)?;
    let mut chunk = 0_u64;
    let mut needs = 0;
    while let Some(entry) = offsets.pull(source)? {
        let offset = match entry.len() {
            8 => u64_at(entry, 0),
            _ => u64::from(u32_at(entry, 0)),
        };
        chunk += 1;
        while let Some((first, samples)) = coming
            && first <= chunk
        {
            per_chunk = samples;
            coming = pull_run(&mut runs, source)?;
        }
        let bytes = match &mut sizes {
            // At least its first byte.
            Sizes::Unknown => 1,
            Sizes::Same(size, left) => {
                let samples = per_chunk.min(*left);
                *left -= samples;
                samples.saturating_mul(*size)
            }
            Sizes::Each(column) => {
                let mut sum = 0_u64;
                for _ in 0..per_chunk {
                    let Some(entry) = column.pull(source)? else {
                        break;
                    };
                    sum += u64::from(u32_at(entry, 0));
                }
                sum
            }
        };
        if bytes > 0 {
            needs = needs.max(offset.saturating_add(bytes));
        }
    }
    if needs > source.length {
        return Err(Defect::CutSamples {
            table: "sample table",
            track: track.name(),
            needs,
            length: source.length,
        });
    }
    Ok(())
}

/// The next (first chunk, samples per chunk).
fn pull_run<R: Read + Seek>(
    runs: &mut Option<Column>,
    source: &mut Source<'_, R>,
) -> Result<Option<(u64, u64)>, Defect> {
    let Some(runs) = runs else {
        return Ok(None);
    };
    Ok(runs
        .pull(source)?
        .map(|entry| (u64::from(u32_at(entry, 0)), u64::from(u32_at(entry, 4)))))
}
