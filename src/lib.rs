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
pub mod mp4;
pub mod naming;
pub mod schedule;
pub mod step;
pub mod verdict;

// The rim: what reads and writes.
pub mod clock;
pub mod config;
pub mod lock;
pub mod provider;
pub mod signals;
pub mod sink;
pub mod store;
pub mod view;

// The daemon.
pub mod daemon;
pub mod downloader;
pub mod engine;
pub mod places;
pub mod poller;
pub mod sandbox;
pub mod scheduler;
pub mod service;
pub mod stats;

// The ways in and out for other programs.
pub mod http;
pub mod queue;
pub mod webhook;

pub use queue::Queue;

// The command line.
pub mod cli;
