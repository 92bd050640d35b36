//! What a rehearsal's video shows: a label that says it is one, a ball that bounces, and a bar
//! that is full when the video ends, so that a missing frame or a cut file can be seen.

use std::ops::{Range, RangeInclusive};

use super::dice;
use super::h264::{Format, Picture, SIDE, Samples};
use super::order::Size;

/// Pictures a second.
pub const FRAME_RATE: u32 = 24;

/// A key picture comes this often, so that players can seek.
const KEY_INTERVAL: u32 = 4 * FRAME_RATE;

const BALL_RADIUS: i32 = 20;
/// Luma samples the ball moves sideways with each picture.
const BALL_STEP: u32 = 6;
const BALL_BOUNCE_HEIGHT: i32 = 120;
/// Pictures from one touch of the ground to the next.
const BALL_BOUNCE_PERIOD: u32 = 36;

/// Luma, Cb and Cr, in limited range (16..=235 and 16..=240).
type Colour = [u8; 3];

const INK: Colour = [220, 128, 128];
/// Cb and Cr, twelve steps around the wheel; a task's prompt and image choose the place.
const WHEEL: [[u8; 2]; 12] = [
    [168, 128],
    [163, 148],
    [148, 163],
    [128, 168],
    [108, 163],
    [93, 148],
    [88, 128],
    [93, 108],
    [108, 93],
    [128, 88],
    [148, 93],
    [163, 108],
];

/// The pictures of one video.
pub struct Scene {
    format: Format,
    frames: u32,
    label: Label,
    ground: [u8; 2],
    ball: Colour,
    bar: Colour,
    /// The row of macroblocks that the bar fills.
    bar_row: u32,
}

/// What a macroblock shows, as far as coding it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The ground alone: the same from left to right.
    Ground,
    /// The bar alone.
    Bar,
    /// Anything that must be painted.
    Drawn,
}

impl Scene {
    /// The scene of a video of this size and length; `theme` chooses its colours.
    pub fn new(size: Size, seconds: u32, theme: &str) -> Self {
        let (width, height) = size.pixels();
        let format = Format {
            width,
            height,
            level: level(size),
        };
        let turn = dice::hash(theme) as usize % WHEEL.len();
        let [cb, cr] = WHEEL[(turn + WHEEL.len() / 2) % WHEEL.len()];
        Self {
            format,
            frames: seconds * FRAME_RATE,
            label: Label::new(&format!("SANDBOX {} {seconds}s", size.as_str()), &format),
            ground: WHEEL[turn],
            ball: [180, cb, cr],
            bar: [150, cb, cr],
            bar_row: format.rows() - 3,
        }
    }

    /// How the pictures are coded.
    pub const fn format(&self) -> &Format {
        &self.format
    }

    /// Every picture in order, as a NAL unit and whether it is a key picture.
    pub fn pictures(&self) -> impl Iterator<Item = (Vec<u8>, bool)> + '_ {
        (0..self.frames).map(|frame| match frame % KEY_INTERVAL {
            0 => (self.key(frame), true),
            since_key => (self.difference(frame, since_key), false),
        })
    }

    fn key(&self, frame: u32) -> Vec<u8> {
        let mut picture = Picture::key(&self.format);
        for row in 0..self.format.rows() {
            let mut left = Content::Drawn;
            for column in 0..self.format.columns() {
                let content = self.content(frame, column, row);
                if content == left && content != Content::Drawn {
                    picture.copy_left();
                } else {
                    picture.raw(&self.paint(frame, column, row));
                }
                left = content;
            }
        }
        picture.finish()
    }

    fn difference(&self, frame: u32, since_key: u32) -> Vec<u8> {
        let mut picture = Picture::difference(&self.format, since_key);
        for (column, row) in self.changed(frame) {
            picture.skip_to(row * self.format.columns() + column);
            picture.raw(&self.paint(frame, column, row));
        }
        picture.finish()
    }

    /// The macroblocks that differ from the picture before, as (column, row) in raster order.
    fn changed(&self, frame: u32) -> impl Iterator<Item = (u32, u32)> {
        let balls = [self.ball_at(frame - 1), self.ball_at(frame)];
        let rows = around(balls.map(|ball| ball.1));
        let columns = around(balls.map(|ball| ball.0));
        let touched = rows
            .flat_map(move |row| columns.clone().map(move |column| (column, row)))
            .filter(move |&(column, row)| {
                balls.iter().any(|&ball| ball_touches(ball, column, row))
            });
        // The bar lies below the ball, so this is raster order.
        let front = self.bar_end(frame - 1) / SIDE..self.bar_end(frame).div_ceil(SIDE);
        let bar_row = self.bar_row;
        touched.chain(front.map(move |column| (column, bar_row)))
    }

    fn content(&self, frame: u32, column: u32, row: u32) -> Content {
        if self.label.touches(column, row) || ball_touches(self.ball_at(frame), column, row) {
            Content::Drawn
        } else if row == self.bar_row && column <= self.bar_end(frame) / SIDE {
            let whole = (column + 1) * SIDE <= self.bar_end(frame);
            if whole { Content::Bar } else { Content::Drawn }
        } else {
            Content::Ground
        }
    }

    fn paint(&self, frame: u32, column: u32, row: u32) -> Samples {
        let mut block = Block::new(column, row);
        let [cb, cr] = self.ground;
        for y in 0..SIDE {
            block.fill(0..SIDE, y, [self.ground_luma(block.top + y), cb, cr]);
        }
        if row == self.bar_row {
            let end = self.bar_end(frame).saturating_sub(block.left).min(SIDE);
            for y in 0..SIDE {
                block.fill(0..end, y, self.bar);
            }
        }
        if self.label.touches(column, row) {
            for (x, y) in pixels() {
                if self.label.inks(block.left + x, block.top + y) {
                    block.fill(x..x + 1, y, INK);
                }
            }
        }
        let ball = self.ball_at(frame);
        if ball_touches(ball, column, row) {
            for y in 0..SIDE {
                // The ball's half width at this height, by Pythagoras.
                let dy = (block.top + y) as i32 - ball.1;
                let square = BALL_RADIUS * BALL_RADIUS - dy * dy;
                if square >= 0 {
                    let half = square.isqrt();
                    let inside = |x: i32| (x - block.left as i32).clamp(0, SIDE as i32) as u32;
                    block.fill(inside(ball.0 - half)..inside(ball.0 + half), y, self.ball);
                }
            }
        }
        block.samples
    }

    /// From dark above to lighter below.
    fn ground_luma(&self, y: u32) -> u8 {
        (40 + 60 * y / (self.format.rows() * SIDE)) as u8
    }

    /// How far the bar reaches: a little in the first picture, all of the width in the last.
    fn bar_end(&self, frame: u32) -> u32 {
        self.format.width * (frame + 1) / self.frames
    }

    /// The ball's centre: to and fro between the sides, up and down in parabolas.
    fn ball_at(&self, frame: u32) -> (i32, i32) {
        let room = self.format.width - 2 * BALL_RADIUS as u32;
        let way = frame * BALL_STEP % (2 * room);
        let x = way.min(2 * room - way) as i32 + BALL_RADIUS;
        let phase = (frame % BALL_BOUNCE_PERIOD) as i32;
        let period = BALL_BOUNCE_PERIOD as i32;
        let height = 4 * BALL_BOUNCE_HEIGHT * phase * (period - phase) / (period * period);
        let floor = (self.bar_row * SIDE) as i32 - 2 * BALL_RADIUS;
        (x, floor - height)
    }
}

/// The lowest level that holds the size at [`FRAME_RATE`] (table A-1).
const fn level(size: Size) -> u8 {
    match size {
        Size::P480 => 30,
        Size::P720 => 31,
        Size::P1080 => 40,
    }
}

/// The macroblocks, along one axis, that a ball at either place can touch.
fn around(centres: [i32; 2]) -> RangeInclusive<u32> {
    let [one, other] = centres;
    let first = one.min(other) - BALL_RADIUS;
    let last = one.max(other) + BALL_RADIUS;
    first as u32 / SIDE..=last as u32 / SIDE
}

fn ball_touches(ball: (i32, i32), column: u32, row: u32) -> bool {
    let nearest = |centre: i32, place: u32| {
        centre.clamp((place * SIDE) as i32, (place * SIDE + SIDE) as i32) - centre
    };
    let (dx, dy) = (nearest(ball.0, column), nearest(ball.1, row));
    dx * dx + dy * dy < BALL_RADIUS * BALL_RADIUS
}

fn pixels() -> impl Iterator<Item = (u32, u32)> {
    (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y)))
}

/// A macroblock being painted.
struct Block {
    left: u32,
    top: u32,
    samples: Samples,
}

impl Block {
    fn new(column: u32, row: u32) -> Self {
        Self {
            left: column * SIDE,
            top: row * SIDE,
            samples: [128; 384],
        }
    }

    /// Paints a piece of line `y`; chroma has half the resolution and follows the even samples.
    fn fill(&mut self, x: Range<u32>, y: u32, [luma, cb, cr]: Colour) {
        let (from, to) = (x.start as usize, x.end as usize);
        let line = y as usize * 16;
        self.samples[line..][from..to].fill(luma);
        if y.is_multiple_of(2) {
            let line = y as usize / 2 * 8;
            let (from, to) = (from.div_ceil(2), to.div_ceil(2));
            self.samples[256 + line..][from..to].fill(cb);
            self.samples[320 + line..][from..to].fill(cr);
        }
    }
}

/// A line of text in square dots.
struct Label {
    glyphs: Vec<[u8; 7]>,
    /// Luma samples to a side of a dot.
    dot: u32,
    left: u32,
    top: u32,
}

impl Label {
    /// `text` in the upper middle of the frame.
    fn new(text: &str, format: &Format) -> Self {
        let glyphs: Vec<_> = text.chars().map(glyph).collect();
        let dot = format.height / 90;
        let width = glyphs.len() as u32 * 6 * dot;
        // On the grid, so that it touches as few macroblocks as it can.
        Self {
            glyphs,
            dot,
            left: (format.width - width) / 2,
            top: format.height / 5 / SIDE * SIDE,
        }
    }

    fn touches(&self, column: u32, row: u32) -> bool {
        let right = self.left + self.glyphs.len() as u32 * 6 * self.dot;
        let bottom = self.top + 7 * self.dot;
        column * SIDE < right
            && column * SIDE + SIDE > self.left
            && row * SIDE < bottom
            && row * SIDE + SIDE > self.top
    }

    fn inks(&self, x: u32, y: u32) -> bool {
        let (Some(x), Some(y)) = (x.checked_sub(self.left), y.checked_sub(self.top)) else {
            return false;
        };
        let (x, y) = (x / self.dot, y / self.dot);
        let line = self
            .glyphs
            .get(x as usize / 6)
            .and_then(|glyph| glyph.get(y as usize));
        line.is_some_and(|line| line << (x % 6) & 0b10_0000 != 0)
    }
}

/// Seven lines of six dots, the sixth being the gap. Only what the label needs.
const fn glyph(letter: char) -> [u8; 7] {
    match letter {
        'S' => [0x1E, 0x20, 0x20, 0x1C, 0x02, 0x02, 0x3C],
        'A' => [0x1C, 0x22, 0x22, 0x3E, 0x22, 0x22, 0x22],
        'N' => [0x22, 0x32, 0x2A, 0x2A, 0x26, 0x22, 0x22],
        'D' => [0x3C, 0x22, 0x22, 0x22, 0x22, 0x22, 0x3C],
        'B' => [0x3C, 0x22, 0x22, 0x3C, 0x22, 0x22, 0x3C],
        'O' => [0x1C, 0x22, 0x22, 0x22, 0x22, 0x22, 0x1C],
        'X' => [0x22, 0x22, 0x14, 0x08, 0x14, 0x22, 0x22],
        'p' => [0x00, 0x00, 0x3C, 0x22, 0x3C, 0x20, 0x20],
        '0' => [0x1C, 0x22, 0x26, 0x2A, 0x32, 0x22, 0x1C],
        '1' => [0x08, 0x18, 0x08, 0x08, 0x08, 0x08, 0x1C],
        '2' => [0x1C, 0x22, 0x02, 0x0C, 0x10, 0x20, 0x3E],
        '3' => [0x3E, 0x04, 0x08, 0x04, 0x02, 0x22, 0x1C],
        '4' => [0x04, 0x0C, 0x14, 0x24, 0x3E, 0x04, 0x04],
        '5' => [0x3E, 0x20, 0x3C, 0x02, 0x02, 0x22, 0x1C],
        '6' => [0x0C, 0x10, 0x20, 0x3C, 0x22, 0x22, 0x1C],
        '7' => [0x3E, 0x02, 0x04, 0x08, 0x10, 0x10, 0x10],
        '8' => [0x1C, 0x22, 0x22, 0x1C, 0x22, 0x22, 0x1C],
        '9' => [0x1C, 0x22, 0x22, 0x1E, 0x02, 0x04, 0x18],
        's' => [0x00, 0x00, 0x1E, 0x20, 0x1C, 0x02, 0x3C],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_has_not_changed() {
        let scene = Scene::new(Size::P480, 2, "theme");
        for frame in 1..scene.frames {
            let changed: Vec<_> = scene.changed(frame).collect();
            assert!(
                changed.is_sorted_by_key(|&(column, row)| (row, column)),
                "{frame}"
            );
            let rows = 0..scene.format.rows();
            for place in
                rows.flat_map(|row| (0..scene.format.columns()).map(move |column| (column, row)))
            {
                let (column, row) = place;
                let same = scene.paint(frame, column, row) == scene.paint(frame - 1, column, row);
                assert!(same || changed.contains(&place), "{frame}: {place:?}");
            }
        }
    }

    #[test]
    fn what_is_copied_from_the_left_is_the_same_there() {
        let scene = Scene::new(Size::P480, 4, "theme");
        for frame in [0, 40, 95] {
            for row in 0..scene.format.rows() {
                for column in 1..scene.format.columns() {
                    let content = scene.content(frame, column, row);
                    if content != Content::Drawn && content == scene.content(frame, column - 1, row)
                    {
                        let samples = scene.paint(frame, column, row);
                        assert_eq!(
                            samples,
                            scene.paint(frame, column - 1, row),
                            "{frame} {column} {row}"
                        );
                        assert!(
                            samples[..256]
                                .chunks(16)
                                .all(|line| line.iter().all(|luma| *luma == line[0]))
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn everything_stays_in_the_frame_and_off_the_rest() {
        for size in Size::ALL {
            let scene = Scene::new(size, 15, "theme");
            let (width, _) = size.pixels();
            let label_end = scene.label.top + 7 * scene.label.dot;
            for frame in 0..scene.frames {
                let (x, y) = scene.ball_at(frame);
                assert!(
                    x >= BALL_RADIUS && x + BALL_RADIUS <= width as i32,
                    "{size:?} {frame}: {x}"
                );
                assert!(y - BALL_RADIUS > label_end as i32, "{size:?} {frame}: {y}");
                assert!(
                    y + BALL_RADIUS < (scene.bar_row * SIDE) as i32,
                    "{size:?} {frame}: {y}"
                );
            }
            assert_eq!(scene.bar_end(scene.frames - 1), width);
        }
    }

    #[test]
    fn the_ball_is_round_wherever_it_is() {
        let scene = Scene::new(Size::P480, 4, "theme");
        let area = |frame| {
            let rows = 0..scene.format.rows();
            rows.flat_map(|row| (0..scene.format.columns()).map(move |column| (column, row)))
                .flat_map(|(column, row)| scene.paint(frame, column, row).into_iter().take(256))
                .filter(|luma| *luma == scene.ball[0])
                .count()
        };
        let circle = f64::from(BALL_RADIUS * BALL_RADIUS) * std::f64::consts::PI;
        assert!((area(0) as f64 / circle - 1.0).abs() < 0.05, "{}", area(0));
        assert!([17, 35, 50, 90].iter().all(|&frame| area(frame) == area(0)));
    }

    #[test]
    fn key_pictures_come_at_their_interval() {
        let scene = Scene::new(Size::P480, 9, "theme");
        let keys: Vec<usize> = scene
            .pictures()
            .enumerate()
            .filter(|(_, (_, key))| *key)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(keys, [0, 96, 192]);
        assert_eq!(scene.pictures().count(), 9 * 24);
    }

    #[test]
    fn samples_are_in_limited_range() {
        let scene = Scene::new(Size::P1080, 1, "theme");
        for (column, row) in [(0, 0), (0, 67), (30, 14), (1, 61), (0, 65)] {
            let samples = scene.paint(1, column, row);
            assert!(
                samples.iter().all(|sample| (16..=235).contains(sample)),
                "{column} {row}"
            );
        }
    }
}
