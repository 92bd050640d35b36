//! The pure rooms alone: neither SQLite nor TLS has to be built to fuzz them.

#[path = "../src/gate.rs"]
pub mod gate;
#[path = "../src/intake/mod.rs"]
pub mod intake;
#[path = "../src/job/mod.rs"]
pub mod job;
#[path = "../src/money.rs"]
pub mod money;
#[path = "../src/mp4/mod.rs"]
pub mod mp4;
#[path = "../src/verdict/mod.rs"]
pub mod verdict;
