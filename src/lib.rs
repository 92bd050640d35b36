//! reelq: a persistent queue for paid image-to-video jobs.
//!
//! It never pays twice, it never loses a video that was paid for, and it tells
//! the truth about both. `ARCHITECTURE.md` shows the map; the modules below
//! stand in reading order.

pub mod job;
pub mod money;
pub mod mp4;
pub mod naming;
pub mod sink;
