//! One binary for all integration tests.

mod http;
mod life;
mod webhook;
