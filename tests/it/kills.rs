//! The real binary, killed: at exact system calls, at random moments under
//! load, and with a kernel that refuses a sync or a write. Whatever was cut off,
//! the next run ends it: nothing is paid twice, nothing that was paid is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sqlx::Connection;

use crate::film::{Layout, film};
use crate::provider::{End, Framing, Kind, Script, film_answer, json};
use crate::rig::{Rig, Row, connect, in_turns, rows};
use crate::trace::{self, Call};
use crate::world::Rng;

/// Lives at once. Most of a life is waiting for the first poll.
fn at_once() -> usize {
    (12 * std::thread::available_parallelism().map_or(1, usize::from)).min(48)
}

/// Three jobs whose films take different ways.
async fn trio(rig: &mut Rig) {
    let by_link = film(Layout::MoovFirst, "one", 6, 30_000);
    let by_content = film(Layout::MoovLast, "two", 6, 30_000);
    let mut content = Script::kind(by_content);
    content.poll = vec![json(200, r#"{"status":"completed"}"#)];
    content.content = vec![film_answer().framed(Framing::Chunked).with_key()];
    let mut in_parts = Script::kind(film(Layout::Wide, "three", 6, 30_000));
    let whole = film_answer().ranges("\"v1\"");
    let parts = vec![whole.clone().ends(End::Fin(50)), whole];
    in_parts.files.insert("v".to_owned(), parts);
    rig.add(vec![
        ("one".to_owned(), Script::kind(by_link)),
        ("two".to_owned(), content),
        ("three".to_owned(), in_parts),
    ])
    .await;
}

/// The table as a kill left it, read from a copy: a look would mend the log.
async fn look(rig: &Rig) -> Vec<Row> {
    let copy = rig.dir.path().join("look");
    std::fs::create_dir_all(&copy).unwrap();
    for name in ["q.db", "q.db-wal", "q.db-shm"] {
        let _ = std::fs::remove_file(copy.join(name));
    }
    for name in ["q.db", "q.db-wal"] {
        if rig.dir.path().join(name).exists() {
            std::fs::copy(rig.dir.path().join(name), copy.join(name)).unwrap();
        }
    }
    rows(&copy.join("q.db")).await
}

/// What the table may say at the moment of a kill, given what the provider saw.
fn truth_at_kill(rig: &Rig, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows {
        let posts = rig.provider.count(Kind::Post, Some(&row.job));
        let billed = rig.provider.billed(&row.job);
        let right = match row.state.as_str() {
            "pending" => posts == 0,
            "submitting" | "unconfirmed" => posts <= 1,
            "generating" | "downloading" | "done" => {
                billed == 1 && row.task.as_deref() == Some(&format!("task_{}", row.job))
            }
            _ => false,
        };
        if !right {
            wrong.push(format!("{posts} POSTs arrived when it was {row:?}"));
        }
    }
    wrong
}

/// Runs the rest of a life, and compares it with where the kill left it.
async fn check_rest(rig: &Rig, at_kill: &[Row]) -> Vec<String> {
    let mut wrong = truth_at_kill(rig, at_kill);
    rig.run_until_idle().await;
    wrong.extend(rig.violations().await);
    let end = rig.rows().await;
    for (before, after) in at_kill.iter().zip(&end) {
        let unclear = matches!(before.state.as_str(), "submitting" | "unconfirmed");
        let should = if unclear { "unconfirmed" } else { "done" };
        if after.state != should {
            wrong.push(format!("{} became {after:?}", before.state));
        }
        if rig.provider.count(Kind::Post, Some(&after.job)) > 1 {
            wrong.push(format!("{} was sent twice", after.job));
        }
    }
    wrong
}

/// A place in a life: the so-maniest call of a name by one thread, on a file or
/// on any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    call: String,
    file: Option<String>,
    count: usize,
}

impl Point {
    fn strace(&self, rig: &Rig, what: &str) -> Vec<String> {
        let mut words = vec!["strace".to_owned(), "-f".to_owned(), "-qq".to_owned()];
        words.extend([
            "-o".to_owned(),
            tampered(rig).to_string_lossy().into_owned(),
        ]);
        if let Some(file) = &self.file {
            let path = match file.as_str() {
                "." => rig.dir.path().to_owned(),
                file => rig.dir.path().join(file),
            };
            words.extend(["-P".to_owned(), path.to_string_lossy().into_owned()]);
        }
        words.extend(["-e".to_owned(), format!("trace={}", self.call)]);
        let inject = format!("inject={}:{what}:when={}", self.call, self.count);
        words.extend(["-e".to_owned(), inject]);
        words
    }
}

/// The log of the calls at a point.
fn tampered(rig: &Rig) -> PathBuf {
    rig.dir.path().join("tampered")
}

/// The calls at which a life can end that leave something behind, or talk to
/// somebody.
const CALLS: &str = "openat,close,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,\
                     mkdir,mkdirat,connect,writev,sendto,recvfrom";

/// A whole life with a log of its calls.
async fn recorded(rig: &Rig) -> Vec<Call> {
    let log = rig.dir.path().join("calls").to_string_lossy().into_owned();
    let trace = format!("trace={CALLS}");
    let mut words = vec!["strace", "-o", &log, "-e", &trace];
    words.extend(trace::FLAGS);
    rig.start_behind(&words, true).ended().await;
    trace::read(&std::fs::read_to_string(&log).unwrap())
}

/// Every point of a life.
fn points(rig: &Rig, calls: &[Call]) -> Vec<Point> {
    let folder = format!("{}/", rig.dir.path().display());
    let files = trace::files(calls);
    let mut most: BTreeMap<(String, Option<String>), usize> = BTreeMap::new();
    let mut counts: HashMap<(u32, String, Option<String>), usize> = HashMap::new();
    for (call, file) in calls.iter().zip(&files) {
        let file = match file {
            Some(path) if format!("{path}/") == folder => Some(".".to_owned()),
            Some(path) => match path.strip_prefix(&folder) {
                // SQLite makes the index anew after every crash.
                Some(file) if !file.ends_with("-shm") && file != "log" => Some(file.to_owned()),
                _ => continue,
            },
            None if matches!(
                call.name.as_str(),
                "connect" | "writev" | "sendto" | "recvfrom"
            ) =>
            {
                None
            }
            None => continue,
        };
        let count = counts
            .entry((call.thread, call.name.clone(), file.clone()))
            .or_default();
        *count += 1;
        let most = most.entry((call.name.clone(), file)).or_default();
        *most = (*most).max(*count);
    }
    most.into_iter()
        .flat_map(|((call, file), most)| {
            (1..=most).map(move |count| Point {
                call: call.clone(),
                file: file.clone(),
                count,
            })
        })
        .collect()
}

/// One life, killed at a point, and the life after it.
async fn killed_at(point: Point) -> (bool, Vec<String>) {
    let mut rig = Rig::new();
    trio(&mut rig).await;
    let words = point.strace(&rig, "signal=KILL");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let status = rig.start_behind(&words, true).ended().await;
    let killed = status.signal() == Some(9);
    let at_kill = look(&rig).await;
    let wrong = check_rest(&rig, &at_kill).await;
    let wrong = wrong
        .into_iter()
        .map(|why| format!("{point:?}: {why}"))
        .collect();
    (killed, wrong)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: .ci/run installs it"]
async fn a_kill_at_any_call_loses_nothing() {
    let mut rig = Rig::new();
    trio(&mut rig).await;
    let calls = recorded(&rig).await;
    let points = points(&rig, &calls);
    let tried = points.len();
    let results = in_turns(at_once(), points, killed_at).await;
    let kills = results.iter().filter(|(killed, _)| *killed).count();
    let wrong: Vec<String> = results.into_iter().flat_map(|(_, wrong)| wrong).collect();
    println!("{kills} kills at {tried} points");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(kills >= 200, "only {kills} of {tried} lives were cut off");
}

/// The first start of all, in an empty folder, killed at a point; the queue
/// must come to be all the same.
async fn killed_at_birth(point: Point) -> (bool, Vec<String>) {
    let mut rig = Rig::new();
    let words = point.strace(&rig, "signal=KILL");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let status = rig.start_behind(&words, true).ended().await;
    let killed = status.signal() == Some(9);
    let again = rig.start_behind(&[], true).ended().await;
    if again.code() != Some(0) {
        return (killed, vec![format!("{point:?}: {again}\n{}", rig.words())]);
    }
    let job = Script::kind(film(Layout::MoovFirst, "one", 6, 3_000));
    rig.add(vec![("one".to_owned(), job)]).await;
    (killed, rig.violations().await)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: .ci/run installs it"]
async fn a_kill_at_the_first_start_leaves_a_queue() {
    let rig = Rig::new();
    let calls = recorded(&rig).await;
    let points = points(&rig, &calls);
    let tried = points.len();
    let results = in_turns(at_once(), points, killed_at_birth).await;
    let kills = results.iter().filter(|(killed, _)| *killed).count();
    let wrong: Vec<String> = results.into_iter().flat_map(|(_, wrong)| wrong).collect();
    println!("{kills} kills at {tried} points");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(kills >= 50, "only {kills} of {tried} starts were cut off");
}

/// One life in which a call fails. A full disk has room again after that: `strace` counts by
/// thread, so threads that are made later would be refused the same call, try after try.
async fn refused_at(point: &Point, error: &str, rig: &Rig) -> ExitStatus {
    let mut words = point.strace(rig, error);
    // The daemon's child, not its parent: that one may end before it.
    words.insert(1, "-D".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let daemon = rig.start_behind(&words, true);
    let id = daemon.id();
    let ended = daemon.ended();
    if error != "error=ENOSPC" {
        return ended.await;
    }
    let log = tampered(rig);
    let refused = async {
        while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains("(INJECTED)")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::pin!(ended);
    tokio::select! {
        status = &mut ended => return status,
        () = refused => {}
    }
    if let Some(strace) = trace::tracer(id) {
        // It may have ended meanwhile, with the daemon.
        let _ = kill_process(strace, Signal::KILL);
    }
    ended.await
}

/// A sync that fails may have lost what was written: the daemon stops and says
/// so. A write that finds the disk full changes nothing: it waits and goes on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: .ci/run installs it"]
async fn a_refused_sync_or_write_loses_nothing() {
    let mut rig = Rig::new();
    trio(&mut rig).await;
    let calls = recorded(&rig).await;
    let points = points(&rig, &calls);
    let refusals: Vec<(Point, &str)> = points
        .into_iter()
        .filter_map(|point| match point.call.as_str() {
            "fsync" | "fdatasync" => Some((point, "error=EIO")),
            "write" | "pwrite64" if point.count % 3 == 1 => Some((point, "error=ENOSPC")),
            "openat" | "renameat2" | "mkdir"
                if point.file.as_ref().is_some_and(|f| f.starts_with("videos")) =>
            {
                Some((point, "error=ENOSPC"))
            }
            _ => None,
        })
        .collect();
    let tried = refusals.len();
    let results = in_turns(at_once(), refusals, |(point, error)| async move {
        let mut rig = Rig::new();
        trio(&mut rig).await;
        let status = refused_at(&point, error, &rig).await;
        let mut wrong = Vec::new();
        if status.signal().is_some() {
            wrong.push(format!("it ended with {status}"));
        }
        let at_end = look(&rig).await;
        wrong.extend(check_rest(&rig, &at_end).await);
        let all_done = at_end.iter().all(|row| row.state == "done");
        let seen = std::fs::read_to_string(tampered(&rig)).unwrap();
        let after = seen.split_once("(INJECTED)").map(|(_, after)| after);
        let must_stop = match (error, point.file.as_deref()) {
            ("error=EIO", Some(file)) if file.starts_with("videos") => after.is_some(),
            // None after it: it belonged to the closing, when all was said and done.
            ("error=EIO", Some("q.db-wal")) => after.is_some_and(|after| after.contains("fsync(")),
            _ => false,
        };
        if must_stop && !gave_up(status, &rig) {
            wrong.push("it went on after a sync that failed".to_owned());
        }
        let was_running = rig.words().contains("submitting");
        if error == "error=ENOSPC" && was_running && !all_done {
            wrong.push(format!("it did not get over a full disk: {at_end:?}"));
        }
        let wrong: Vec<_> = wrong
            .into_iter()
            .map(|why| format!("{point:?} {error}: {why}\n{}", rig.words()))
            .collect();
        (all_done, wrong)
    })
    .await;
    let went_on = results.iter().filter(|(done, _)| *done).count();
    let wrong: Vec<String> = results.into_iter().flat_map(|(_, wrong)| wrong).collect();
    println!("{tried} refusals, {went_on} of them got over at once");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried >= 30);
}

/// It ended for a reason, not because nothing was left to do.
fn gave_up(status: ExitStatus, rig: &Rig) -> bool {
    !matches!(status.code(), Some(0 | 3)) || rig.words().contains("Err(")
}

/// A sidecar lies on the video's disk.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: .ci/run installs it"]
async fn a_refused_sync_of_a_sidecar_stops_the_daemon() {
    let mut rig = Rig::new();
    rig.set("DOWNLOAD__SIDECAR", "true");
    let whole = film(Layout::MoovFirst, "one", 6, 30_000);
    rig.add(vec![("one".to_owned(), Script::kind(whole))]).await;
    let sidecar = rig.videos().join("default/1.mp4.json");
    let draft = format!("{}.part", sidecar.display());
    let refuse = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        &draft,
        "-e",
        "inject=fsync:error=EIO",
    ];
    let status = rig.start_behind(&refuse, true).ended().await;
    assert_eq!(status.code(), Some(1), "{}", rig.words());
    assert_eq!(rig.rows().await[0].state, "downloading");
    assert!(!sidecar.exists());
    rig.run_until_idle().await;
    assert_eq!(rig.rows().await[0].state, "done");
    assert!(sidecar.exists());
}

/// The first byte of a POST leaves after its intent is on disk; a row says
/// `done` after the file, its name and its folder are.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: .ci/run installs it"]
async fn the_kernel_sees_the_promised_order() {
    let mut rig = Rig::new();
    let whole = film(Layout::MoovFirst, "one", 6, 30_000);
    rig.add(vec![("one".to_owned(), Script::kind(whole))]).await;
    let calls = recorded(&rig).await;
    let sha256 = rig.rows().await[0].sha256.clone().unwrap();
    let files = trace::files(&calls);
    let numbered = || calls.iter().zip(&files).enumerate();
    let holds = |call: &Call, words: &str| {
        let data = call.data();
        data.windows(words.len()).any(|w| w == words.as_bytes())
    };
    let is =
        |file: &Option<String>, ending: &str| file.as_ref().is_some_and(|f| f.ends_with(ending));
    // The first call from `from` on that is like this; it must have succeeded.
    let find = |what: &str, from: usize, test: &dyn Fn(&Call, &Option<String>) -> bool| {
        let found = numbered()
            .find(|(_, (call, file))| call.begin >= from && test(call, file))
            .unwrap_or_else(|| panic!("no {what} after line {from}"));
        let (index, (call, _)) = found;
        assert!(call.succeeded(), "{what} failed");
        (index, call)
    };
    let sync = |call: &Call| matches!(call.name.as_str(), "fsync" | "fdatasync");

    let (_, intent) = find("intent", 0, &|call, file| {
        call.name == "pwrite64" && is(file, "q.db-wal") && holds(call, "claimed")
    });
    let (_, synced) = find("sync of the intent", intent.end, &|call, file| {
        sync(call) && is(file, "q.db-wal")
    });
    let (_, post) = find("POST", 0, &|call, _| holds(call, "POST /v1/videos"));
    assert!(
        synced.end < post.begin,
        "the intent was not on disk at the POST"
    );

    let (_, task) = find("task id", post.begin, &|call, file| {
        is(file, "q.db-wal") && holds(call, "task_one")
    });
    let (_, synced) = find("sync of the task id", task.end, &|call, file| {
        sync(call) && is(file, "q.db-wal")
    });
    let (_, poll) = find("poll", 0, &|call, _| holds(call, "GET /v1/videos/task_one"));
    assert!(
        synced.end < poll.begin,
        "the task id was not on disk at the poll"
    );

    let bytes = numbered()
        .filter(|(_, (call, file))| call.name == "write" && is(file, ".mp4.part"))
        .map(|(_, (call, _))| call.end)
        .max()
        .unwrap();
    let (_, file) = find("sync of the film", bytes, &|call, file| {
        sync(call) && is(file, ".mp4.part")
    });
    let (_, rename) = find("rename", 0, &|call, _| {
        call.name.starts_with("rename")
            && call.paths().last().is_some_and(|p| p.ends_with("/1.mp4"))
    });
    let (_, folder) = find("sync of the folder", rename.end, &|call, file| {
        sync(call) && is(file, "/default")
    });
    let (_, done) = find("commit of done", 0, &|call, file| {
        is(file, "q.db-wal") && holds(call, &sha256)
    });
    assert!(
        file.end < rename.begin,
        "renamed before the film was on disk"
    );
    assert!(folder.end < done.begin, "done before the name was on disk");
}

/// Twenty-five kills at random moments, while jobs come in, run and end.
#[tokio::test(flavor = "multi_thread")]
async fn random_kills_under_load_lose_nothing() {
    const KILLS: usize = 25;
    let mut rng = Rng::new(20_260_101);
    let mut rig = Rig::new();
    let jobs = (0..6 * KILLS)
        .map(|n| {
            let job = format!("job{n}");
            let mut script = Script::kind(film(Layout::MoovFirst, &job, 6, 300_000));
            if n % 2 == 0 {
                script.poll.insert(0, json(200, r#"{"status":"running"}"#));
            }
            (job, script)
        })
        .collect::<Vec<_>>();
    let (first, rest) = jobs.split_at(2 * KILLS);
    rig.add(first.to_vec()).await;
    for (job, script) in rest {
        rig.expect(job, script.clone());
    }

    let mut producer = connect(&rig.database()).await;
    let mut wrong = Vec::new();
    // By job: a life may be cut off before it has taken up what the last one left.
    let mut on_the_wire = BTreeSet::new();
    let mut moments: BTreeMap<String, usize> = BTreeMap::new();
    for portion in rest.chunks(rest.len() / KILLS) {
        let daemon = rig.start();
        let requests = rig.provider.seen().len() + 1 + rng.index(24);
        for (job, _) in portion {
            sqlx::query(
                "INSERT INTO jobs (prompt, image_url) VALUES (?, 'https://example.com/a.jpg')",
            )
            .bind(job)
            .execute(&mut producer)
            .await
            .unwrap();
        }
        rig.until("enough requests", async || {
            let all =
                "SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE state NOT IN ('done', 'unconfirmed'))";
            rig.provider.seen().len() >= requests
                || sqlx::query_scalar(all)
                    .fetch_one(&mut producer)
                    .await
                    .unwrap()
        })
        .await;
        // Anywhere between two requests.
        tokio::time::sleep(Duration::from_micros(rng.below(8_000))).await;
        daemon.kill().await;
        let at_kill = rig.rows().await;
        wrong.extend(truth_at_kill(&rig, &at_kill));
        for row in &at_kill {
            *moments.entry(row.state.clone()).or_default() += 1;
        }
        let submitting = at_kill.iter().filter(|row| row.state == "submitting");
        on_the_wire.extend(submitting.map(|row| row.id));
    }
    producer.close().await.unwrap();
    rig.run_until_idle().await;
    wrong.extend(rig.violations().await);
    let rows = rig.rows().await;
    let count = |state: &str| rows.iter().filter(|row| row.state == state).count();
    let (done, unconfirmed) = (count("done"), count("unconfirmed"));
    println!("{KILLS} kills, {done} done, {unconfirmed} unconfirmed; jobs were {moments:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(rows.len(), jobs.len());
    assert_eq!(unconfirmed, on_the_wire.len());
    assert_eq!(done + unconfirmed, rows.len());
}
