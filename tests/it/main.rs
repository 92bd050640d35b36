//! The integration tests: one binary, one room a subject.

mod engine;
mod laws;
mod queue_file;
mod simulation;
mod state_table;
mod tidy;
mod verdicts;
mod world;
