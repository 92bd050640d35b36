//! What the program does, seen from outside: one binary, one room a subject.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods)] // tests write files and read the time

mod cli;
mod downloads;
mod engine;
mod faults;
mod film;
mod http;
mod kills;
mod laws;
mod life;
mod machine;
mod metrics;
mod outages;
mod power;
mod producers;
mod provider;
mod queue_file;
mod rig;
mod simulation;
mod state_table;
mod tidy;
mod trace;
mod verdicts;
mod webhook;
mod world;
