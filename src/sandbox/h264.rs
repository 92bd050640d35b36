//! The smallest H.264 that every player takes: Constrained Baseline, CAVLC, one slice a picture,
//! no deblocking. A macroblock is raw samples, a copy of its left neighbour, or unchanged, so
//! there is no transform and no loss: what is painted is what is shown.
//!
//! Clause numbers are those of ITU-T H.264.

/// The samples of one macroblock in I_PCM order: 16×16 luma, 8×8 Cb, 8×8 Cr.
pub type Samples = [u8; 384];

/// Width and height of a macroblock in luma samples.
pub const SIDE: u32 = 16;

const NAL_SLICE: u8 = 0x61; // nal_ref_idc 3, type 1
const NAL_IDR: u8 = 0x65; // type 5
const NAL_SPS: u8 = 0x67; // type 7
const NAL_PPS: u8 = 0x68; // type 8

/// `frame_num` is written with this many bits, the fewest allowed; it wraps.
const FRAME_NUM_BITS: u32 = 4;

/// The frame a stream is coded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Visible width in luma samples; even, since 4:2:0 crops in pairs.
    pub width: u32,
    /// Visible height in luma samples; even.
    pub height: u32,
    /// `level_idc`: ten times the level whose limits hold the frame size and rate.
    pub level: u8,
}

impl Format {
    /// Macroblocks in a row; the last may be partly cropped away.
    pub const fn columns(&self) -> u32 {
        self.width.div_ceil(SIDE)
    }

    /// Rows of macroblocks; the last may be partly cropped away.
    pub const fn rows(&self) -> u32 {
        self.height.div_ceil(SIDE)
    }

    /// Profile, compatibility and level as `avcC` repeats them from the parameter set.
    pub const fn profile_bytes(&self) -> [u8; 3] {
        // 66 with constraint_set0 and 1: Constrained Baseline.
        [66, 0b1100_0000, self.level]
    }

    /// The sequence parameter set as a NAL unit (7.3.2.1.1).
    pub fn sequence_parameters(&self) -> Vec<u8> {
        let mut bits = Bits::default();
        for byte in self.profile_bytes() {
            bits.put(u32::from(byte), 8);
        }
        bits.ue(0); // seq_parameter_set_id
        bits.ue(FRAME_NUM_BITS - 4);
        bits.ue(2); // pic_order_cnt_type: output order is decoding order
        bits.ue(1); // max_num_ref_frames
        bits.put(0, 1); // gaps_in_frame_num_value_allowed_flag
        bits.ue(self.columns() - 1);
        bits.ue(self.rows() - 1);
        bits.put(1, 1); // frame_mbs_only_flag
        bits.put(1, 1); // direct_8x8_inference_flag
        bits.put(1, 1); // frame_cropping_flag; offsets are in pairs of samples
        bits.ue(0);
        bits.ue((self.columns() * SIDE - self.width) / 2);
        bits.ue(0);
        bits.ue((self.rows() * SIDE - self.height) / 2);
        bits.put(1, 1); // vui_parameters_present_flag, so that no player guesses the colours
        bits.put(0, 1); // aspect_ratio_info_present_flag
        bits.put(0, 1); // overscan_info_present_flag
        bits.put(1, 1); // video_signal_type_present_flag
        bits.put(5, 3); // video_format: unspecified
        bits.put(0, 1); // video_full_range_flag
        bits.put(1, 1); // colour_description_present_flag: BT.709 three times
        bits.put(1, 8);
        bits.put(1, 8);
        bits.put(1, 8);
        // No chroma location, timing, NAL or VCL HRD, picture structure, bitstream restriction.
        bits.put(0, 6);
        bits.into_nal(NAL_SPS)
    }

    /// The picture parameter set as a NAL unit (7.3.2.2).
    pub fn picture_parameters(&self) -> Vec<u8> {
        let mut bits = Bits::default();
        bits.ue(0); // pic_parameter_set_id
        bits.ue(0); // seq_parameter_set_id
        bits.put(0, 1); // entropy_coding_mode_flag: CAVLC
        bits.put(0, 1); // bottom_field_pic_order_in_frame_present_flag
        bits.ue(0); // num_slice_groups_minus1
        bits.ue(0); // num_ref_idx_l0_default_active_minus1
        bits.ue(0); // num_ref_idx_l1_default_active_minus1
        bits.put(0, 3); // no weighted prediction
        bits.ue(0); // pic_init_qp_minus26
        bits.ue(0); // pic_init_qs_minus26
        bits.ue(0); // chroma_qp_index_offset
        bits.put(1, 1); // deblocking_filter_control_present_flag
        bits.put(0, 2); // constrained_intra_pred_flag, redundant_pic_cnt_present_flag
        bits.into_nal(NAL_PPS)
    }
}

/// One coded picture, written macroblock by macroblock in raster order.
pub struct Picture {
    bits: Bits,
    columns: usize,
    total: u32,
    intra: bool,
    /// Macroblocks so far, those of `skipped` included.
    written: u32,
    /// The run of unchanged macroblocks that is not written yet.
    skipped: u32,
    /// Which of the last row's macroblocks were raw: the entropy code of a copy depends on it.
    raw: Vec<bool>,
}

impl Picture {
    /// A picture that needs no other (IDR).
    pub fn key(format: &Format) -> Self {
        Self::begin(format, true, 0)
    }

    /// A picture told as what differs from the one before it. `since_key` counts from 1 after
    /// the last [`Picture::key`].
    pub fn difference(format: &Format, since_key: u32) -> Self {
        Self::begin(format, false, since_key)
    }

    fn begin(format: &Format, intra: bool, since_key: u32) -> Self {
        let mut bits = Bits::default();
        bits.ue(0); // first_mb_in_slice
        bits.ue(if intra { 7 } else { 5 }); // slice_type: all slices are I, or all are P
        bits.ue(0); // pic_parameter_set_id
        bits.put(since_key % (1 << FRAME_NUM_BITS), FRAME_NUM_BITS);
        if intra {
            bits.ue(0); // idr_pic_id: two IDR pictures never follow each other
            bits.put(0, 2); // no_output_of_prior_pics_flag, long_term_reference_flag
        } else {
            // num_ref_idx_active_override, ref_pic_list_modification, adaptive_ref_pic_marking
            bits.put(0, 3);
        }
        bits.ue(0); // slice_qp_delta
        bits.ue(1); // disable_deblocking_filter_idc
        Self {
            bits,
            columns: format.columns() as usize,
            total: format.columns() * format.rows(),
            intra,
            written: 0,
            skipped: 0,
            raw: vec![false; format.columns() as usize],
        }
    }

    /// Appends a macroblock of raw samples.
    pub fn raw(&mut self, samples: &Samples) {
        self.end_skip();
        self.bits.ue(if self.intra { 25 } else { 30 }); // mb_type I_PCM
        self.bits.align();
        self.bits.bytes.extend_from_slice(samples);
        self.advance(true);
    }

    /// Appends a macroblock whose rows repeat the last sample of the macroblock to its left.
    /// Only in a key picture, and never in the first column.
    pub fn copy_left(&mut self) {
        let column = self.column();
        debug_assert!(self.intra && column > 0);
        // Total coefficients of a raw neighbour count as 16, of a copy as 0 (9.2.1).
        let left = if self.raw[column - 1] { 16 } else { 0 };
        let above = if self.raw[column] { 16 } else { 0 };
        let first_row = self.written as usize == column;
        let context = if first_row {
            left
        } else {
            (left + above + 1) / 2
        };
        self.bits.ue(2); // mb_type I_16x16_1_0_0: horizontal prediction, no residual
        self.bits.ue(1); // intra_chroma_pred_mode: horizontal
        self.bits.ue(0); // mb_qp_delta
        // coeff_token for no coefficients (table 9-5); the context is 0, 8 or 16.
        if context < 2 {
            self.bits.put(1, 1);
        } else {
            self.bits.put(0b00_0011, 6);
        }
        self.advance(false);
    }

    /// Leaves everything before macroblock `index` as it was in the picture before.
    pub fn skip_to(&mut self, index: u32) {
        debug_assert!(!self.intra && index >= self.written);
        self.skipped += index - self.written;
        self.written = index;
    }

    /// Ends the picture and returns it as a NAL unit.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.intra {
            self.skip_to(self.total);
            if self.skipped > 0 {
                self.bits.ue(self.skipped);
            }
        }
        debug_assert_eq!(self.written, self.total);
        self.bits
            .into_nal(if self.intra { NAL_IDR } else { NAL_SLICE })
    }

    fn column(&self) -> usize {
        self.written as usize % self.columns
    }

    fn end_skip(&mut self) {
        if !self.intra {
            self.bits.ue(self.skipped);
            self.skipped = 0;
        }
    }

    fn advance(&mut self, raw: bool) {
        let column = self.column();
        self.raw[column] = raw;
        self.written += 1;
    }
}

/// A bit string, most significant bit first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, in the low end; fewer than 8 between calls.
    rest: u64,
    rest_len: u32,
}

impl Bits {
    /// Appends the low `count` (at most 32) bits of `value`.
    fn put(&mut self, value: u32, count: u32) {
        self.rest = self.rest << count | u64::from(value);
        self.rest_len += count;
        while self.rest_len >= 8 {
            self.rest_len -= 8;
            self.bytes.push((self.rest >> self.rest_len) as u8);
            self.rest &= (1 << self.rest_len) - 1;
        }
    }

    /// Appends an unsigned Exp-Golomb code (9.1). Zero is also the signed code of zero.
    fn ue(&mut self, value: u32) {
        let len = 32 - (value + 1).leading_zeros();
        self.put(0, len - 1);
        self.put(value + 1, len);
    }

    fn align(&mut self) {
        if self.rest_len > 0 {
            self.put(0, 8 - self.rest_len);
        }
    }

    /// Adds the stop bit and the header, and escapes what looks like a start code (7.4.1).
    fn into_nal(mut self, header: u8) -> Vec<u8> {
        self.put(1, 1);
        self.align();
        let mut nal = Vec::with_capacity(self.bytes.len() + 16);
        nal.push(header);
        let mut zeros = 0;
        for chunk in self.bytes.chunks(256) {
            // Samples are never 0, so most chunks need no closer look.
            if zeros == 0 && !chunk.contains(&0) {
                nal.extend_from_slice(chunk);
                continue;
            }
            for &byte in chunk {
                if zeros == 2 && byte <= 3 {
                    nal.push(3);
                    zeros = 0;
                }
                nal.push(byte);
                zeros = if byte == 0 { zeros + 1 } else { 0 };
            }
        }
        nal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a decoder does: every 3 after two zeros is dropped.
    fn unescape(nal: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut zeros = 0;
        for &byte in nal {
            assert!(zeros < 2 || byte >= 3, "a start code in {nal:?}");
            if zeros == 2 && byte == 3 {
                zeros = 0;
                continue;
            }
            out.push(byte);
            zeros = if byte == 0 { zeros + 1 } else { 0 };
        }
        out
    }

    #[test]
    fn exp_golomb_codes_are_those_of_the_standard() {
        for (value, code) in [
            (0, "1"),
            (1, "010"),
            (2, "011"),
            (3, "00100"),
            (25, "000011010"),
        ] {
            let mut bits = Bits::default();
            bits.ue(value);
            bits.align();
            let written: String = bits
                .bytes
                .iter()
                .map(|byte| format!("{byte:08b}"))
                .collect();
            assert_eq!(
                written.trim_end_matches('0'),
                code.trim_end_matches('0'),
                "{value}"
            );
        }
    }

    #[test]
    fn start_codes_are_escaped() {
        // Every string of six out of 0, 1, 3, 4, at the front and across the edge of a chunk.
        for number in 0..4_usize.pow(6) {
            let tricky: Vec<u8> = (0..6)
                .map(|place| [0, 1, 3, 4][number / 4_usize.pow(place) % 4])
                .collect();
            for before in [0, 253] {
                let bytes = [&vec![9; before][..], &tricky].concat();
                let bits = Bits {
                    bytes: bytes.clone(),
                    ..Bits::default()
                };
                let nal = bits.into_nal(0x65);
                assert_eq!(unescape(&nal), [&[0x65], &bytes[..], &[0x80]].concat());
            }
        }
        let bits = Bits {
            bytes: vec![0, 0, 1, 0, 0, 4],
            ..Bits::default()
        };
        assert_eq!(bits.into_nal(0x65), [0x65, 0, 0, 3, 1, 0, 0, 4, 0x80]);
    }

    #[test]
    fn cropping_makes_up_for_whole_macroblocks() {
        let format = Format {
            width: 854,
            height: 480,
            level: 30,
        };
        assert_eq!((format.columns(), format.rows()), (54, 30));
        let parameters = format.sequence_parameters();
        assert_eq!(parameters[..4], [0x67, 66, 0xC0, 30]);
    }

    #[test]
    fn a_picture_without_change_is_a_few_bytes() {
        let format = Format {
            width: 1920,
            height: 1080,
            level: 40,
        };
        let picture = Picture::difference(&format, 17).finish();
        assert!(picture.len() < 10, "{picture:?}");
    }
}
