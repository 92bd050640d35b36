//! reelq: a persistent queue for paid image-to-video jobs.
//!
//! It never pays twice, it never loses a video that was paid for, and it tells
//! the truth about both. `ARCHITECTURE.md` shows the map; the modules below
//! stand in reading order.

// Pure: values and decisions.
pub mod budget;
pub mod gate;
pub mod intake;
pub mod job;
pub mod money;
pub mod naming;
pub mod step;
pub mod verdict;

// The rim: what reads and writes.
pub mod clock;
pub mod config;
pub mod lock;
pub mod provider;
pub mod sink;
pub mod store;
pub mod view;

// The daemon.
pub mod engine;
pub mod places;
pub mod poller;
pub mod scheduler;
pub mod stats;

// The command line.
pub mod cli;
