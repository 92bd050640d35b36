//! What an answer means: for the money, for the task, for the video. Pure.
//!
//! One table a question. What a table does not list is the careful answer:
//! a POST is unknown, a task still runs.

mod fetched;
mod fields;
mod poll;
mod post;
mod probe;
mod reply;

pub use fetched::Fetched;
pub use fields::urls;
pub use poll::{PollVerdict, judge_poll};
pub use post::{POST_TABLE, PostClass, PostVerdict, judge_post};
pub use probe::judge_probe;
pub use reply::{Answer, EVIDENCE_BYTES, Reply, parse, shorten};
