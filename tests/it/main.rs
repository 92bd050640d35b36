//! What the program does, seen from outside.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods)] // tests write files and read the time

mod cli;
mod http;
mod life;
mod webhook;
