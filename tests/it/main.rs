//! One binary for all integration tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)] // a test fails by them

mod cli;
mod life;
