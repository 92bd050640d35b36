//! The machine's own faults: a full disk, a locked database, a row that cannot
//! be read, a signal at a bad moment, a clock that jumps.

mod clock;
mod database;
mod disk;
mod start;
mod stop;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reelq::config::{self, Settings, Sources};
use reelq::daemon::Ending;
use reelq::job::JobSpec;
use reelq::service;
use reelq::signals::Signals;
use reelq::store::{Open, Store};
use rustix::process::Signal;

use crate::film::{Layout, film};
use crate::provider::{KEY, Kind, Script, json, status};
use crate::rig::{LIMIT, Rig, connect, folder};

/// Said when a commit was refused for now.
const WAITS: &str = "nothing new is submitted until this is mended";

fn script(job: &str, length: usize) -> (String, Script) {
    let film = film(Layout::MoovFirst, job, 6, length);
    (job.to_owned(), Script::kind(film))
}

/// A job whose POST is answered when the test says so.
fn held(job: &str) -> (String, Script) {
    let (job, mut script) = script(job, 3_000);
    script.post = script
        .post
        .into_iter()
        .map(|answer| answer.held())
        .collect();
    (job, script)
}

async fn until_post(rig: &Rig) {
    rig.provider
        .until("a POST", LIMIT, |provider| {
            provider.count(Kind::Post, None) > 0
        })
        .await;
}

/// Every job is done, each for one POST, and nothing else is wrong.
async fn check_all_done(rig: &Rig) {
    assert_eq!(
        rig.violations().await,
        Vec::<String>::new(),
        "{}",
        rig.words()
    );
    for row in rig.rows().await {
        assert_eq!(row.state, "done", "{row:?}\n{}", rig.words());
        assert_eq!(rig.provider.count(Kind::Post, Some(&row.job)), 1);
    }
}

/// A queue's settings, with nobody to talk to.
fn settings(folder: &Path, more: &[(&str, &str)]) -> Settings {
    let mut env: BTreeMap<String, String> = [
        ("REELQ_PROVIDER__BASE_URL", "http://127.0.0.1:1"),
        ("REELQ_PROVIDER__API_KEY", KEY),
        ("REELQ_DOWNLOAD__MIN_FREE_SPACE", "0"),
    ]
    .iter()
    .chain(more)
    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
    .collect();
    config::load(Sources {
        database: Some("q.db".into()),
        env: std::mem::take(&mut env),
        folder: folder.to_owned(),
        ..Sources::default()
    })
    .unwrap()
}
