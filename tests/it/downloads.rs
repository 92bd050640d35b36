//! Downloads, try by try: the real downloader between the hostile provider and
//! a folder, with `step` to say what follows. No daemon, so nothing waits.

use std::path::PathBuf;
use std::time::Duration;

use reelq::downloader::{self, CutLengths, Downloads};
use reelq::job::{Event, FailureCode, Job, Millis, State};
use reelq::provider::{Endpoint, Provider as Client};
use reelq::sink::Sink;
use reelq::step::{Policy, step};
use reelq::verdict::Fetched;
use tempfile::TempDir;

use crate::film::{Layout, film};
use crate::provider::{
    Answer, Body, End, Framing, KEY, Provider, Script, film_answer, html, json, status,
};
use crate::rig::{files_below, folder, nobody};
use crate::world::{MINUTE, NEW_YEAR, job_in};

/// How much of a film there is, in bytes.
const LENGTH: usize = 50_000;

/// A job whose task is complete, and where its video comes from and goes.
struct Desk {
    dir: TempDir,
    provider: Provider,
    client: Client,
    downloads: Downloads,
    job: Job,
    now: Millis,
}

/// No byte for so long is no answer. Far longer than a busy machine keeps one waiting.
const IDLE: Duration = Duration::from_secs(20);

fn client(base: &str, idle_timeout: Duration) -> Client {
    Client::new(Endpoint {
        base_url: base.parse().unwrap(),
        key: KEY.to_owned().into(),
        model: "m".to_owned(),
        post_timeout: IDLE,
        poll_timeout: IDLE,
        idle_timeout,
    })
    .unwrap()
}

impl Desk {
    /// With answers to the link and to `/content`; an empty link: the task names none.
    fn new(link: Vec<Answer>, content: Vec<Answer>) -> Desk {
        let (dir, provider) = (folder(), Provider::start());
        let client = client(&provider.base, IDLE);
        let mut job = job_in(State::Downloading);
        job.task_id = Some("task_a".to_owned());
        job.faults = 0;
        job.give_up_at = Some(NEW_YEAR + reelq::step::UNUSABLE_GRACE);
        job.target = Some(dir.path().join("videos/1.mp4").to_string_lossy().into());
        job.video_urls.clear();
        if !link.is_empty() {
            job.video_urls.push(format!("{}/x/a/v", provider.base));
        }
        let mut script = Script {
            content,
            ..Script::kind(film(Layout::MoovFirst, "a", 6, LENGTH))
        };
        script.files.insert("v".to_owned(), link);
        provider.script("a", script);
        let downloads = Downloads {
            sink: Sink::new(dir.path().join("videos")).unwrap(),
            max_bytes: 1 << 30,
            min_free_space: 0,
            sidecar: false,
            cut_lengths: CutLengths::default(),
        };
        Desk {
            dir,
            provider,
            client,
            downloads,
            job,
            now: NEW_YEAR,
        }
    }

    async fn fetch(&self) -> Fetched {
        downloader::fetch(&self.client, &self.downloads, &self.job).await
    }

    /// One try, and what becomes of the job.
    async fn turn(&mut self) {
        let event = match self.fetch().await {
            Fetched::Saved { file, note } => Event::Saved { file, note },
            Fetched::Interrupted { reason, advanced } => {
                Event::FetchInterrupted { reason, advanced }
            }
            Fetched::Unusable { reason } => Event::VideoUnusable { reason },
            Fetched::Unreachable { reason } => Event::VideoUnreachable { reason },
            other => panic!("{other:?}"),
        };
        self.job = step(&self.job, event, self.now, &Policy::default())
            .unwrap()
            .job;
    }

    fn files(&self) -> Vec<PathBuf> {
        files_below(self.dir.path())
    }

    fn partial(&self) -> u64 {
        let part = self.dir.path().join("videos/1.mp4.part");
        std::fs::metadata(part).map_or(0, |part| part.len())
    }
}

/// Some gateways give each transfer a minute and end it as if that were all.
fn a_part_at_a_time() -> Answer {
    status(200)
        .typed("video/mp4", Body::FilmAtMost(LENGTH / 20))
        .framed(Framing::Chunked)
        .ranges("\"v1\"")
}

#[tokio::test]
async fn what_grows_at_each_try_is_whole_in_the_end() {
    let whole = film_answer().with_key();
    for (link, content) in [
        (vec![], vec![a_part_at_a_time()]),
        (vec![a_part_at_a_time()], vec![html(404)]),
        // Another place has the video as well, but not these bytes of it.
        (vec![a_part_at_a_time()], vec![whole.ranges("\"other\"")]),
    ] {
        let mut desk = Desk::new(link, content);
        let mut last = 0;
        while desk.job.state == State::Downloading {
            // The time for the video is over long since.
            desk.now += reelq::step::UNUSABLE_GRACE;
            desk.turn().await;
            let has = desk.partial();
            let grows = has > last || desk.job.state == State::Done;
            assert!(grows, "{has} bytes after {last}: {:?}", desk.job);
            last = has;
        }
        let path = &desk.job.file.as_ref().unwrap().path;
        let saved = std::fs::read(path).unwrap();
        assert!(saved == film(Layout::MoovFirst, "a", 6, LENGTH));
        assert_eq!(desk.files().len(), 1);
    }
}

/// What is no value to most parsers, and more digits than a double has.
#[tokio::test]
async fn a_sidecar_holds_the_metadata_as_it_was_given() {
    let mut desk = Desk::new(vec![film_answer()], vec![]);
    desk.downloads.sidecar = true;
    let deep = "[".repeat(999) + &"]".repeat(999);
    let metadata = format!(r#"{{"a":1e999,"b":"\ud800","c":12345678901234567890123,"d":{deep}}}"#);
    desk.job.spec.metadata = Some(metadata.clone());
    desk.turn().await;
    assert_eq!(desk.job.state, State::Done);
    let path = desk.job.file.unwrap().path + ".json";
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.contains(&format!("\n  \"metadata\": {metadata},\n")),
        "{text}"
    );
    assert!(text.contains("\n  \"task_id\": \"task_a\",\n"), "{text}");
}

#[tokio::test]
async fn a_retry_goes_on_where_the_failed_job_stopped() {
    let mut desk = Desk::new(vec![a_part_at_a_time(), html(404)], vec![html(404)]);
    while desk.job.state == State::Downloading {
        desk.now += reelq::step::UNUSABLE_GRACE;
        desk.turn().await;
    }
    assert_eq!(desk.job.state, State::Failed);
    let had = desk.partial();
    assert!(had > 0);
    let link = desk.job.video_urls.first().cloned();
    assert_eq!(link, None, "the task is asked anew");

    let mut script = Script::kind(film(Layout::MoovFirst, "a", 6, LENGTH));
    script.content = vec![film_answer().with_key().ranges("\"v1\"")];
    desk.provider.script("a", script);
    desk.job.state = State::Downloading;
    desk.job.faults = 0;
    let fetched = desk.fetch().await;
    assert!(matches!(fetched, Fetched::Saved { .. }), "{fetched:?}");
    let range = desk.provider.seen().last().unwrap().headers["range"].clone();
    assert_eq!(range, format!("bytes={had}-"));
}

/// Nothing vouches for bytes of another task, whatever the tag says.
#[tokio::test]
async fn another_task_begins_at_its_first_byte() {
    let mut desk = Desk::new(vec![], vec![a_part_at_a_time()]);
    desk.turn().await;
    assert!(desk.partial() > 0);
    desk.job.task_id = Some("task_b".to_owned());
    let script = Script::kind(film(Layout::MoovFirst, "b", 6, LENGTH));
    desk.provider.script(
        "b",
        Script {
            content: vec![film_answer().ranges("\"v1\"")],
            ..script
        },
    );
    let fetched = desk.fetch().await;
    let Fetched::Saved { file, .. } = fetched else {
        panic!("{fetched:?}");
    };
    let saved = std::fs::read(file.path).unwrap();
    assert!(saved == film(Layout::MoovFirst, "b", 6, LENGTH));
}

#[tokio::test]
async fn what_nothing_can_be_gone_on_from_is_not_kept() {
    let cut = film_answer().ends(End::Fin(40));
    let mut desk = Desk::new(vec![cut], vec![html(404)]);
    desk.turn().await;
    assert!(desk.files().is_empty(), "{:?}", desk.files());
}

/// No server said how long it is: the space is looked at while it comes.
#[tokio::test]
async fn a_body_without_an_end_stops_at_the_reserve() {
    let head = b"\0\0\0\x10ftypisom\0\0\0\0\x40\0\0\0mdat".to_vec();
    let endless = status(200)
        .typed("video/mp4", Body::Endless(head))
        .framed(Framing::Chunked);
    for (answer, can_go_on) in [
        (endless.clone(), false),
        (endless.header("etag", "\"v1\""), true),
    ] {
        let mut desk = Desk::new(vec![], vec![answer]);
        let free = desk.downloads.free_space().unwrap();
        // Room for 32 MiB of sixty-four; other tests write there as well.
        desk.downloads.min_free_space = free.saturating_sub(32 << 20) * 4;
        let fetched = desk.fetch().await;
        let Fetched::Interrupted { reason, advanced } = fetched else {
            panic!("{fetched:?}");
        };
        assert!(reason.contains("free space"), "{reason}");
        assert_eq!(advanced, can_go_on);
        assert_eq!(desk.partial() > 0, can_go_on);

        // Nothing is asked for that could not be stored.
        desk.downloads.min_free_space = free * 8;
        let asked = desk.provider.seen().len();
        let fetched = desk.fetch().await;
        assert!(
            matches!(
                fetched,
                Fetched::Interrupted {
                    advanced: false,
                    ..
                }
            ),
            "{fetched:?}"
        );
        assert_eq!(desk.provider.seen().len(), asked);
    }
}

#[tokio::test]
async fn a_body_that_crawls_gives_its_place_to_others() {
    let film = film_answer().ranges("\"v1\"").crawls();
    let words = html(404).body(Body::Text("no ".repeat(60_000))).crawls();
    for (answer, has_bytes) in [(film, true), (words, false)] {
        let mut desk = Desk::new(vec![], vec![answer]);
        desk.client = client(&desk.provider.base, Duration::from_secs(2));
        let limit = Duration::from_secs(60);
        let fetched = tokio::time::timeout(limit, desk.fetch()).await.unwrap();
        match fetched {
            Fetched::Interrupted {
                advanced: true,
                reason,
            } => assert!(has_bytes && reason.contains("a second"), "{reason}"),
            Fetched::Unusable { reason } => assert!(!has_bytes && reason.contains("404")),
            other => panic!("{other:?}"),
        }
        assert_eq!(desk.partial() > 0, has_bytes);
    }
}

#[tokio::test]
async fn a_host_that_is_gone_for_good_is_given_up_in_the_end() {
    let (_socket, link) = nobody();
    let mut desk = Desk::new(vec![], vec![html(404)]);
    desk.job.video_urls = vec![link];
    let minutes = |desk: &Desk| (desk.now - NEW_YEAR) / MINUTE;
    while desk.job.state == State::Downloading {
        assert!(minutes(&desk) <= 60, "{:?}", desk.job);
        desk.now += 5 * MINUTE;
        desk.turn().await;
    }
    assert_eq!(minutes(&desk), 60);
    assert_eq!(
        desk.job.failure.as_ref().unwrap().code,
        FailureCode::VideoUnavailable
    );
}

#[tokio::test]
async fn a_video_that_breaks_off_each_time_is_given_up_in_the_end() {
    let cut = film_answer().ends(End::Fin(50));
    let mut desk = Desk::new(vec![cut], vec![html(404)]);
    let begin = desk.now;
    while desk.job.state == State::Downloading {
        assert!(desk.now - begin < 90 * MINUTE, "{:?}", desk.job);
        desk.turn().await;
        desk.now = desk.job.due_at.unwrap_or(desk.now);
    }
    assert!(desk.now - begin >= 60 * MINUTE, "{:?}", desk.job);
    let failure = desk.job.failure.as_ref().unwrap();
    assert_eq!(failure.code, FailureCode::VideoUnavailable);
}

/// Where each top-level box ends.
fn box_ends(film: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    while let Some(size) = film
        .get(ends[ends.len() - 1]..)
        .and_then(|rest| rest.first_chunk())
    {
        ends.push(ends[ends.len() - 1] + u32::from_be_bytes(*size) as usize);
    }
    ends
}

/// It may lack its last fragment; where it comes again as it was, that is all there is of it.
#[tokio::test]
async fn a_short_video_of_open_end_is_believed_the_second_time() {
    let film = film(Layout::OpenEnded, "a", 6, LENGTH);
    let ends = box_ends(&film);
    // Before the last fragment, and before the one before that: each is a `moof` and an `mdat`.
    let (short, shorter) = (ends[ends.len() - 3], ends[ends.len() - 5]);
    for faults in [0, 9] {
        let mut desk = Desk::new(vec![], vec![html(404)]);
        desk.job.video_urls = vec![format!("{}/x/a/v", desk.provider.base)];
        let part = |length| {
            film_answer()
                .framed(Framing::Chunked)
                .body(Body::FilmAtMost(length))
        };
        let mut script = Script {
            content: vec![html(404)],
            ..Script::kind(film.clone())
        };
        let links = [shorter, short, short].map(part).to_vec();
        script.files.insert("v".to_owned(), links);
        let link = &desk.job.video_urls[0];
        let told = format!(r#"{{"status":"completed","video_url":"{link}"}}"#);
        script.poll = vec![json(200, &told)];
        desk.provider.script("a", script);
        desk.job.faults = faults;
        for _ in 0..2 {
            desk.turn().await;
            assert_eq!(desk.job.state, State::Downloading, "{:?}", desk.job);
        }
        desk.turn().await;
        assert_eq!(desk.job.state, State::Done, "{:?}", desk.job);
        assert_eq!(desk.job.file.as_ref().unwrap().bytes, short as u64);
    }
}

#[tokio::test]
async fn an_outage_gives_up_no_video() {
    let (_socket, link) = nobody();
    let closed = Provider::closed();
    let refused = html(503);
    // The provider is out of reach as well, or it is but in trouble.
    for (base, content) in [(Some(closed.base.clone()), vec![]), (None, vec![refused])] {
        let mut desk = Desk::new(vec![], content);
        if let Some(base) = base {
            desk.client = client(&base, IDLE);
        }
        // That a link is refused here is no place's answer.
        let never = "http://169.254.169.254/v.mp4".to_owned();
        desk.job.video_urls = vec![never, link.clone()];
        let fetched = desk.fetch().await;
        assert!(
            matches!(fetched, Fetched::Interrupted { .. }),
            "{fetched:?}"
        );
        for _ in 0..10 {
            desk.now += 60 * MINUTE;
            desk.turn().await;
            assert_eq!(desk.job.state, State::Downloading);
        }
    }
}
