//! What the sink promises, on real files.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::task::{Context, Waker};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::disk::{link_new, lock};
use super::*;
use crate::mp4::sample;

/// A folder, a sink on `videos` in it, and the usual target.
struct Room {
    home: TempDir,
    sink: Sink,
    target: PathBuf,
}

fn room() -> Room {
    let home = tempfile::tempdir().unwrap();
    let sink = Sink::new(home.path().join("videos")).unwrap();
    let target = sink.dir().join("default/1.mp4");
    Room { home, sink, target }
}

impl Room {
    /// Every file below the home, sorted, relative.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.home.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => {
                        let path = entry.path();
                        let path = path.strip_prefix(self.home.path()).unwrap();
                        found.push(path.to_str().unwrap().to_owned());
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// The same folder as the daemon sees it after a restart.
    fn again(&self, boot: &str) -> Sink {
        Sink::with_boot(self.sink.dir().to_owned(), Some(boot.to_owned())).unwrap()
    }

    /// A partial with the first `count` bytes of the video.
    async fn begun(&self, validator: Option<&str>, count: usize) -> Partial {
        let mut part = self.sink.open(&self.target).await.unwrap();
        part.restart(origin(validator)).await.unwrap();
        let bytes = Bytes::from(sample::video()).slice(..count);
        part.append(bytes).await.unwrap();
        part
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.sink.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn origin(validator: Option<&str>) -> Origin {
    Origin {
        validator: validator.map(str::to_owned),
        total: None,
        source: "task 0".to_owned(),
    }
}

fn rest(from: usize) -> Bytes {
    Bytes::from(sample::video()).slice(from..)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn fields(id: JobId) -> Fields<'static> {
    Fields {
        batch: "default",
        id,
        key: Some("clip"),
        task_id: "t",
        date: "2026-11-22",
    }
}

#[tokio::test]
async fn a_video_is_written_checked_and_put_in_place() {
    let room = room();
    let mut part = room.sink.open(&room.target).await.unwrap();
    assert!(part.is_empty() && part.resume().is_none());
    assert_eq!(part.finish_if_whole().await.unwrap(), None);
    part.restart(origin(Some("\"v1\""))).await.unwrap();
    let video = sample::video();
    for chunk in video.chunks(100) {
        part.append(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    assert_eq!(part.len(), video.len() as u64);
    assert_eq!(
        room.files(),
        [
            "videos/default/1.mp4.part",
            "videos/default/1.mp4.part.json"
        ]
    );
    let (file, movie) = part.finish(Some(video.len() as u64)).await.unwrap();
    assert_eq!(file.path, room.target.to_str().unwrap());
    assert_eq!(file.bytes, video.len() as u64);
    assert_eq!(file.sha256, sha256(&video));
    assert_eq!((movie.duration_ms, movie.height), (Some(6000), Some(720)));
    assert_eq!(fs::read(&room.target).unwrap(), video);
    assert_eq!(room.files(), ["videos/default/1.mp4"]);
    // Spent.
    assert!(part.append(rest(0)).await.is_err());
    // The commit was lost: the same answer again.
    let again = room.sink.already_there(&room.target).await.unwrap();
    assert_eq!(again, Some((file, movie)));
    let taken = room.sink.open(&room.target).await.unwrap_err();
    assert!(matches!(taken, SinkError::Taken { .. }), "{taken}");
}

#[tokio::test]
async fn a_transfer_goes_on_where_it_broke_off() {
    let room = room();
    drop(room.begun(Some("\"v1\""), 300).await);
    let mut part = room.sink.open(&room.target).await.unwrap();
    let resume = Resume {
        offset: 300,
        validator: "\"v1\"".to_owned(),
        total: None,
    };
    assert_eq!(part.resume(), Some(resume));
    assert_eq!(part.source(), Some("task 0"));
    assert_eq!(part.finish_if_whole().await.unwrap(), None);
    part.append(rest(300)).await.unwrap();
    part.finish(None).await.unwrap();
    assert_eq!(fs::read(&room.target).unwrap(), sample::video());
}

#[tokio::test]
async fn only_a_strong_validator_is_resumed_on() {
    for (validator, strong) in [
        (Some("\"a\""), true),
        (Some(" \"\" "), true),
        (Some("W/\"a\""), false),
        (Some("a"), false),
        (Some("\""), false),
        (Some("\"a\"b\""), false),
        (Some("\"a\r\n\""), false),
        (None, false),
    ] {
        let room = room();
        drop(room.begun(validator, 300).await);
        let mut part = room.sink.open(&room.target).await.unwrap();
        assert_eq!(part.resume().is_some(), strong, "{validator:?}");
        assert_eq!(part.append(rest(300)).await.is_ok(), strong);
        // Another answer begins at the first byte.
        part.restart(origin(None)).await.unwrap();
        assert!(part.is_empty());
        part.append(rest(0)).await.unwrap();
        part.finish(None).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_power_cut_only_synced_bytes_count() {
    let room = room();
    let first = room.again("boot 1");
    let mut part = first.open(&room.target).await.unwrap();
    part.restart(origin(Some("\"v1\""))).await.unwrap();
    part.append(rest(0).slice(..200)).await.unwrap();
    part.flush().await.unwrap();
    part.append(rest(200).slice(..100)).await.unwrap();
    drop(part);
    let part = room.again("boot 1").open(&room.target).await.unwrap();
    assert_eq!(part.resume().unwrap().offset, 300);
    drop(part);
    let mut part = room.again("boot 2").open(&room.target).await.unwrap();
    assert_eq!(part.resume().unwrap().offset, 200);
    // The note of the old bytes must not vouch for the new ones.
    part.restart(origin(Some("\"v2\""))).await.unwrap();
    part.append(rest(0)).await.unwrap();
    drop(part);
    let part = room.again("boot 3").open(&room.target).await.unwrap();
    assert!(part.is_empty() && part.resume().is_none());
    drop(part);
    // No boot is not the same boot.
    let room = self::room();
    let unknown = Sink::with_boot(room.sink.dir().to_owned(), None).unwrap();
    for expected in [0, 0] {
        let mut part = unknown.open(&room.target).await.unwrap();
        assert_eq!(part.len(), expected);
        part.restart(origin(Some("\"v1\""))).await.unwrap();
        part.append(rest(0)).await.unwrap();
    }
}

#[tokio::test]
async fn a_whole_partial_file_is_not_fetched_again() {
    let whole = sample::video();
    let total = |total| Origin {
        total,
        ..origin(None)
    };
    let open = sample::fragmented(sample::Promise::Nothing, false, false);
    let length = |bytes: &[u8]| Some(bytes.len() as u64);
    for (bytes, origin, expected) in [
        (&whole, total(None), true),
        (&whole, total(length(&whole)), true),
        (&whole, total(Some(9999)), false),
        (&open, total(None), false),
        (&open, total(length(&open)), true),
    ] {
        let room = room();
        let mut part = room.sink.open(&room.target).await.unwrap();
        part.restart(origin.clone()).await.unwrap();
        part.append(Bytes::from(bytes.clone())).await.unwrap();
        drop(part);
        let mut part = room.sink.open(&room.target).await.unwrap();
        let found = part.finish_if_whole().await.unwrap();
        assert_eq!(found.is_some(), expected, "{origin:?}");
        assert_eq!(room.target.exists(), expected);
    }
}

#[tokio::test]
async fn one_worker_at_a_time() {
    let room = room();
    let part = room.begun(Some("\"v1\""), 300).await;
    let locked = room.sink.open(&room.target).await.unwrap_err();
    assert!(matches!(locked, SinkError::Locked { .. }), "{locked}");
    let locked = room.sink.discard(&room.target).await.unwrap_err();
    assert!(matches!(locked, SinkError::Locked { .. }), "{locked}");
    drop(part);
    room.sink.open(&room.target).await.unwrap();
    for _ in 0..2 {
        assert!(!room.sink.discard(&room.target).await.unwrap());
    }
    assert_eq!(room.files(), [""; 0]);
}

/// One worker may remove the file between another's open and its lock; the
/// other must not go on with the old file.
#[test]
fn a_lock_is_on_the_file_that_is_there() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("1.mp4.part");
    let work = |name: u8| {
        let path = &path;
        move || {
            let mut won = 0;
            for _ in 0..3000 {
                match lock(path) {
                    Ok(mut file) => {
                        file.write_all(&[name]).unwrap();
                        assert_eq!(fs::read(path).unwrap(), [name]);
                        fs::remove_file(path).unwrap();
                        won += 1;
                    }
                    Err(SinkError::Locked { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            won
        }
    };
    let won: u32 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|name| scope.spawn(work(name))).collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert!(won > 0);
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let room = room();
    let mut part = room.begun(None, 0).await;
    part.append(rest(0)).await.unwrap();
    room.put("default/1.mp4", b"mine");
    let taken = part.finish(None).await.unwrap_err();
    assert!(matches!(taken, SinkError::Taken { .. }), "{taken}");
    assert_eq!(fs::read(&room.target).unwrap(), b"mine");
    // With bytes of ours beside it, the file there is a stranger's.
    let taken = room.sink.already_there(&room.target).await.unwrap_err();
    assert!(matches!(taken, SinkError::Taken { .. }), "{taken}");
    drop(part);
    let ours = room.sink.discard(&room.target).await.unwrap();
    assert!(!ours, "it came from elsewhere");
    let invalid = room.sink.already_there(&room.target).await.unwrap_err();
    assert!(matches!(invalid, SinkError::Invalid { .. }), "{invalid}");
    assert_eq!(room.files(), ["videos/default/1.mp4"]);
}

#[test]
fn without_a_rename_that_refuses_there_is_the_link() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::write(&from, b"new").unwrap();
    link_new(&from, &to).unwrap();
    assert!(!from.exists());
    fs::write(&from, b"newer").unwrap();
    let error = link_new(&from, &to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&to).unwrap(), b"new");
    assert_eq!(fs::read(&from).unwrap(), b"newer");
}

#[tokio::test]
async fn what_a_crash_leaves_beside_a_finished_video_is_removed() {
    let room = room();
    let target = room.put("default/1.mp4", &sample::video());
    for crash in 0..2 {
        match crash {
            // Between the two steps of `link_new`.
            0 => fs::hard_link(&target, beside(&target, ".part")).unwrap(),
            // Between the creation and the second look in `open`.
            _ => drop(room.put("default/1.mp4.part", b"")),
        }
        room.put("default/1.mp4.part.json", b"{}");
        room.put("default/1.mp4.part.json.part", b"{");
        let found = room.sink.already_there(&target).await.unwrap();
        assert_eq!(found.unwrap().0.sha256, sha256(&sample::video()));
        assert_eq!(room.files(), ["videos/default/1.mp4"]);
    }
    let other = room.sink.dir().join("nowhere/2.mp4");
    assert_eq!(room.sink.already_there(&other).await.unwrap(), None);
    let below = target.join("2.mp4");
    assert_eq!(room.sink.already_there(&below).await.unwrap(), None);
}

#[tokio::test]
async fn a_bad_video_is_not_put_in_place() {
    let room = room();
    let mut part = room.begun(Some("\"v1\""), 500).await;
    let cut = part.finish(None).await.unwrap_err();
    assert!(cut.is_truncation());
    assert!(
        cut.to_string().contains("1.mp4.part: cut off: box `moov`"),
        "{cut}"
    );
    let short = part.finish(Some(1030)).await.unwrap_err();
    assert!(short.is_truncation());
    assert!(
        short
            .to_string()
            .ends_with("has 500 bytes, 1030 were expected")
    );
    let long = part.finish(Some(400)).await.unwrap_err();
    assert!(!long.is_truncation());
    // All the same it can go on, behind what was read.
    part.append(rest(500)).await.unwrap();
    assert_eq!(part.inspect().await.unwrap().width, Some(1280));

    part.clear().await.unwrap();
    assert_eq!(room.files(), ["videos/default/1.mp4.part"]);
    assert!(part.append(rest(0)).await.is_err());
    part.restart(origin(None)).await.unwrap();
    part.append(Bytes::from_static(b"<!DOCTYPE html>"))
        .await
        .unwrap();
    let page = part.finish(None).await.unwrap_err();
    assert!(!page.is_truncation());
    assert!(
        page.to_string()
            .ends_with("not an MP4: begins with `<!DOCTYPE html>`")
    );
    assert!(!room.target.exists());
}

#[tokio::test]
async fn a_note_that_cannot_be_read_means_starting_over() {
    for note in ["", "{", "[]", "{\"validator\":\"\\\"a\\\"\"}"] {
        let room = room();
        drop(room.begun(Some("\"v1\""), 300).await);
        room.put("default/1.mp4.part.json", note.as_bytes());
        let part = room.sink.open(&room.target).await.unwrap();
        assert!(part.is_empty() && part.resume().is_none(), "{note}");
    }
}

#[tokio::test]
async fn an_abandoned_call_leaves_no_half_state() {
    let room = room();
    let mut part = room.begun(Some("\"v1\""), 300).await;
    {
        let mut append = Box::pin(part.append(rest(300)));
        let mut context = Context::from_waker(Waker::noop());
        let first = append.as_mut().poll(&mut context);
        // It may have been that fast; then there is nothing to abandon.
        if first.is_ready() {
            return;
        }
    }
    let lost = part.append(rest(300)).await.unwrap_err();
    assert!(lost.to_string().contains("abandoned"), "{lost}");
}

#[test]
fn names_are_reserved_once() {
    let room = room();
    let template = Template::parse("{batch}/{key}.mp4").unwrap();
    let reserve = |sink: &Sink, id, taken: &str| {
        let path = sink.reserve(&template, &fields(id), |path| path.ends_with(taken));
        let path = path.unwrap();
        path.strip_prefix(sink.dir())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(reserve(&room.sink, 1, "-"), "default/clip.mp4");
    // The same job has it already, another does not get it.
    assert_eq!(reserve(&room.sink, 1, "-"), "default/clip.mp4");
    assert_eq!(reserve(&room.sink, 2, "-"), "default/clip-2.mp4");
    assert_eq!(reserve(&room.sink, 3, "clip-3.mp4"), "default/clip-3-2.mp4");
    // After a restart it is the disk and the table that know.
    let sink = room.again("boot");
    assert_eq!(reserve(&sink, 1, "-"), "default/clip.mp4");
    for (n, ending) in ["", ".part", ".part.json", ".json"].into_iter().enumerate() {
        let room = self::room();
        room.put(&format!("default/clip.mp4{ending}"), b"");
        assert_eq!(
            reserve(&room.sink, n as i64, "-"),
            format!("default/clip-{n}.mp4")
        );
    }
    let room = self::room();
    fs::create_dir_all(room.sink.dir().join("default")).unwrap();
    symlink("/nowhere", room.sink.dir().join("default/clip.mp4")).unwrap();
    assert_eq!(reserve(&room.sink, 5, "-"), "default/clip-5.mp4");
    // On a file system without case the two would be one file.
    let other = Fields {
        key: Some("CLIP"),
        ..fields(6)
    };
    let path = self::room().sink;
    path.reserve(&template, &fields(5), |_| false).unwrap();
    let path = path.reserve(&template, &other, |_| false).unwrap();
    assert!(path.ends_with("default/CLIP-6.mp4"));
    let error = room
        .sink
        .reserve(&template, &fields(7), |_| true)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let room = self::room();
    room.put("default", b"a file where the folder should be");
    let error = room
        .sink
        .reserve(&template, &fields(7), |_| false)
        .unwrap_err();
    assert!(error.to_string().contains("default/clip.mp4"), "{error}");
}

#[tokio::test]
async fn a_link_does_not_lead_out_of_the_folder() {
    let room = room();
    let dir = room.sink.dir().to_owned();
    let outside = room.home.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(dir.join("inside")).unwrap();
    symlink(&outside, dir.join("out")).unwrap();
    symlink("/nowhere/at/all", dir.join("dangling")).unwrap();
    symlink("../outside", dir.join("inside/up")).unwrap();
    symlink(dir.join("inside"), dir.join("in")).unwrap();
    for target in [
        "out/1.mp4",
        "out/new/1.mp4",
        "dangling/1.mp4",
        "inside/up/1.mp4",
    ] {
        let error = room.sink.open(&dir.join(target)).await.unwrap_err();
        assert!(
            matches!(error, SinkError::Outside { .. }),
            "{target}: {error}"
        );
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    room.sink.open(&dir.join("in/1.mp4")).await.unwrap();
    assert!(dir.join("inside/1.mp4.part").exists());

    // The folder itself may be elsewhere.
    let link = room.home.path().join("link");
    symlink(&outside, &link).unwrap();
    let sink = Sink::new(link.clone()).unwrap();
    sink.open(&link.join("default/1.mp4")).await.unwrap();
    assert!(outside.join("default/1.mp4.part").exists());
    // And a job goes on where it began, whatever the folder is now.
    room.sink
        .open(&outside.join("default/1.mp4"))
        .await
        .unwrap();
    room.sink.open(&outside.join("old/1.mp4")).await.unwrap();

    // A partial file that is a link is not written through.
    let victim = room.put("victim", b"victim");
    symlink(&victim, dir.join("2.mp4.part")).unwrap();
    assert!(room.sink.open(&dir.join("2.mp4")).await.is_err());
    assert_eq!(fs::read(victim).unwrap(), b"victim");
}

#[tokio::test]
async fn strange_targets_are_refused() {
    let room = room();
    for target in ["1.mp4", "/", "/videos/..", "/videos/../1.mp4"] {
        let error = room.sink.open(Path::new(target)).await.unwrap_err();
        assert!(error.to_string().contains("use as a target"), "{error}");
    }
}

#[tokio::test]
async fn a_sidecar_is_whole_or_not_there() {
    let room = room();
    let target = room.put("default/1.mp4", &sample::video());
    for text in ["a", "a longer one", "b"] {
        let written = room.sink.write_sidecar(&target, text.to_owned()).await;
        let path = written.unwrap();
        assert_eq!(path, beside(&target, ".json"));
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }
    assert_eq!(
        room.files(),
        ["videos/default/1.mp4", "videos/default/1.mp4.json"]
    );
}

#[test]
fn free_space_is_that_of_the_nearest_folder() {
    let room = room();
    assert!(!room.sink.dir().exists());
    assert!(room.sink.free_space().unwrap() > 0);
    let file = room.put("file", b"");
    assert!(
        Sink::new(file.join("videos"))
            .unwrap()
            .free_space()
            .unwrap()
            > 0
    );
    assert!(Sink::new(PathBuf::new()).is_err());
}

fn is_full(error: &SinkError) -> bool {
    matches!(error, SinkError::Full { .. })
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let path = Path::new("/videos/1.mp4");
    let errno = |errno: Errno| io::Error::from(errno);
    for full in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
        assert!(is_full(&fault("write", path)(errno(full))));
        assert!(is_full(&sync_fault(errno(full), path)));
    }
    let error = fault("write", path)(errno(Errno::IO));
    assert!(matches!(error, SinkError::Io { .. }));
    assert!(
        error
            .to_string()
            .starts_with("/videos/1.mp4: cannot write: ")
    );
    let error = sync_fault(errno(Errno::IO), path);
    assert!(matches!(error, SinkError::Fsync { .. }));
    assert!(error.to_string().contains("/videos/1.mp4"));
}

const LIMITED: &str = "REELQ_TEST_LIMITED_DIR";

/// The part of [`a_full_disk_keeps_what_there_is`] that runs under a limit
/// on the size of files.
#[tokio::test]
async fn limited_child() {
    let Some(dir) = std::env::var_os(LIMITED) else {
        return;
    };
    let sink = Sink::new(PathBuf::from(dir)).unwrap();
    let target = sink.dir().join("1.mp4");
    let mut part = sink.open(&target).await.unwrap();
    part.restart(origin(Some("\"v1\""))).await.unwrap();
    part.append(rest(0).slice(..300)).await.unwrap();
    let full = part.append(rest(300)).await.unwrap_err();
    assert!(is_full(&full), "{full}");
    // What fitted counts.
    assert_eq!(part.len(), 512);
    assert!(is_full(&part.append(rest(512)).await.unwrap_err()));
    part.flush().await.unwrap();
    let full = sink
        .write_sidecar(&target, "x".repeat(600))
        .await
        .unwrap_err();
    assert!(is_full(&full), "{full}");
}

#[tokio::test]
async fn a_full_disk_keeps_what_there_is() {
    let room = room();
    // `sh` counts in blocks of 512 bytes.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "sink::tests::limited_child", "--nocapture"])
        .env(LIMITED, room.sink.dir())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}"
    );
    assert_eq!(
        room.files(),
        ["videos/1.mp4.part", "videos/1.mp4.part.json"]
    );
    // There is space again.
    let target = room.sink.dir().join("1.mp4");
    let mut part = room.sink.open(&target).await.unwrap();
    assert_eq!(part.resume().unwrap().offset, 512);
    part.append(rest(512)).await.unwrap();
    part.finish(Some(1030)).await.unwrap();
    assert_eq!(fs::read(&target).unwrap(), sample::video());
}
