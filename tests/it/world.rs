//! The other side: a provider with a bill of its own, jobs to judge, and the
//! promises of the table as a predicate that was written without looking at it.

use std::collections::{BTreeMap, BTreeSet};

use reelq::job::{Failure, FailureCode, Job, JobId, JobSpec, Millis, SavedFile, State};
use reelq::money::Money;
use reelq::verdict::{Answer, Fetched, Reply};
use serde_json::{Value, json};

pub const SECOND: Millis = 1_000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;
pub const DAY: Millis = 24 * HOUR;

/// 2026-01-01T00:00:00Z.
pub const NEW_YEAR: Millis = 1_767_225_600_000;

/// Where the test jobs' tasks belong.
pub const ENDPOINT: &str = "https://provider.test key-1";

/// SplitMix64: the same numbers from the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// `0..n`; 0 for an empty range.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// A place in a list of so many.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// `from..=to`.
    pub fn within(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1) as u64) as i64
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }
}

/// A job in a state, with everything that the state promises and nothing more.
pub fn job_in(state: State) -> Job {
    let begun = !matches!(state, State::Pending | State::Cancelled);
    let running = matches!(state, State::Generating | State::Downloading | State::Done);
    let ended = matches!(state, State::Done | State::Failed | State::Cancelled);
    let failure = match state {
        State::Failed => Some(FailureCode::Refused),
        State::Unconfirmed => Some(FailureCode::Unconfirmed),
        _ => None,
    };
    Job {
        id: 7,
        version: 3,
        spec: JobSpec::new("a boat", "https://example.com/boat.jpg"),
        state,
        due_at: None,
        faults: 0,
        attempt: u32::from(begun),
        cost: Money::ZERO,
        resent: false,
        progress: 0,
        endpoint: begun.then(|| ENDPOINT.to_owned()),
        task_id: running.then(|| "task-1".to_owned()),
        give_up_at: matches!(state, State::Generating | State::Downloading)
            .then_some(NEW_YEAR + DAY),
        video_urls: Vec::new(),
        target: matches!(state, State::Downloading | State::Done)
            .then(|| "/videos/default/7.mp4".to_owned()),
        file: (state == State::Done).then(saved_file),
        note: None,
        failure: failure.map(|code| Failure {
            code,
            message: "a reason".to_owned(),
        }),
        created_at: NEW_YEAR,
        submitted_at: begun.then_some(NEW_YEAR),
        completed_at: matches!(state, State::Downloading | State::Done).then_some(NEW_YEAR),
        finished_at: ended.then_some(NEW_YEAR),
    }
}

/// A file as the sink reports one.
pub fn saved_file() -> SavedFile {
    SavedFile {
        path: "/videos/default/7.mp4".to_owned(),
        bytes: 4_096,
        sha256: "ab".repeat(32),
    }
}

/// What the states promise (INTERFACE 1 and the table's CHECKs), in other words.
pub fn lawful(job: &Job) -> Result<(), String> {
    let rule = |holds: bool, rule: &str| {
        if holds {
            Ok(())
        } else {
            Err(format!("{rule}: {job:?}"))
        }
    };
    let id_and_place = job.task_id.is_some() && job.endpoint.is_some();
    match job.state {
        State::Pending => {
            rule(
                job.task_id.is_none() && job.file.is_none() && job.failure.is_none(),
                "a waiting job has nothing of an earlier life",
            )?;
        }
        State::Submitting => rule(
            job.submitted_at.is_some() && job.endpoint.is_some() && job.attempt > 0,
            "a POST has its time, its place and its number",
        )?,
        State::Unconfirmed => {
            rule(
                job.submitted_at.is_some() && job.endpoint.is_some() && job.attempt > 0,
                "an unconfirmed POST has its time, its place and its number",
            )?;
            rule(job.failure.is_some(), "unconfirmed says why")?;
            rule(job.task_id.is_none(), "nobody knows its task")?;
        }
        State::Generating => rule(
            id_and_place && job.submitted_at.is_some() && job.give_up_at.is_some(),
            "a running task has its id, its place, its time and its deadline",
        )?,
        State::Downloading => rule(
            id_and_place && job.target.is_some() && job.completed_at.is_some(),
            "a download has its task and its target",
        )?,
        State::Done => {
            rule(id_and_place && job.file.is_some(), "done means a file")?;
            rule(job.failure.is_none(), "done is no failure")?;
        }
        State::Failed => rule(
            job.failure.as_ref().is_some_and(|f| !f.message.is_empty()),
            "a failure says why",
        )?,
        State::Cancelled => {}
    }
    let over = matches!(job.state, State::Done | State::Failed | State::Cancelled);
    rule(
        over == job.finished_at.is_some(),
        "an end, and only an end, has its time",
    )?;
    rule(job.progress <= 100, "progress is at most 100")?;
    rule(
        job.file.is_none() || job.state == State::Done,
        "only a done job has a file",
    )
}

/// An answer with a JSON body.
pub fn answer(status: u16, body: &Value) -> Reply {
    raw_answer(status, body.to_string().as_bytes())
}

/// An answer with any body.
pub fn raw_answer(status: u16, body: &[u8]) -> Reply {
    Reply::Answer(Answer {
        status,
        body: body.to_vec(),
        ..Answer::default()
    })
}

/// No answer came.
pub fn lost(symptom: &'static str) -> Reply {
    Reply::Lost {
        symptom,
        error: "no answer".to_owned(),
    }
}

/// What will become of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A video.
    Film,
    /// The provider says that it failed.
    Fails,
    /// The provider says that it expired.
    Expires,
    /// The provider forgets it.
    Vanishes,
    /// It completes, and there is never a usable video.
    Empty,
    /// It runs for ever.
    Never,
}

/// A task at the provider.
#[derive(Clone, Debug)]
pub struct Task {
    pub job: JobId,
    /// The gateway answers before it has stored the task.
    pub visible_from: Millis,
    pub ready_at: Millis,
    pub fate: Fate,
    pub endpoint: String,
    /// The provider has said that it failed.
    pub told_failed: bool,
}

/// A line of the provider's bill.
#[derive(Clone, Debug)]
pub struct Billed {
    pub job: JobId,
    pub attempt: u32,
    pub task_id: String,
}

/// What every request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// The provider works, but for `noise`.
    Fine,
    /// No connection.
    Unreachable,
    /// Requests vanish; some are billed.
    Silent,
    /// This status, for POSTs that are billed at times.
    Broken(u16),
    /// 401, 402, 403 or 429.
    Refusing(u16),
    /// new-api's own 503.
    Full,
}

impl Weather {
    pub const STORMS: [Weather; 10] = [
        Weather::Unreachable,
        Weather::Silent,
        Weather::Broken(500),
        Weather::Broken(502),
        Weather::Broken(504),
        Weather::Refusing(401),
        Weather::Refusing(402),
        Weather::Refusing(403),
        Weather::Refusing(429),
        Weather::Full,
    ];
}

/// The provider, scripted from one seed. Its time never jumps.
pub struct World {
    pub rng: Rng,
    pub now: Millis,
    pub weather: Weather,
    /// One request in so many hundred meets a fault of its own.
    pub noise: u64,
    /// New tasks may end in other ways than with a video.
    pub cruel: bool,
    /// Tasks at once; more are refused with 429.
    pub room: usize,
    pub tasks: BTreeMap<String, Task>,
    pub bill: Vec<Billed>,
    /// The last POST of a job that was billed, until somebody allows another.
    pub owed: BTreeMap<JobId, Billed>,
    /// Names of POSTs, each seen at most once.
    pub names: BTreeMap<String, (JobId, u32)>,
    /// The least time between two polls of a task.
    pub interval: Millis,
    /// When a job's task was last asked for.
    pub asked: BTreeMap<(JobId, String), Millis>,
    /// Tasks whose end was told and written down.
    pub over: BTreeSet<(JobId, String)>,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            rng: Rng::new(seed),
            now: 0,
            weather: Weather::Fine,
            noise: 0,
            cruel: false,
            room: usize::MAX,
            tasks: BTreeMap::new(),
            bill: Vec::new(),
            owed: BTreeMap::new(),
            names: BTreeMap::new(),
            interval: 0,
            asked: BTreeMap::new(),
            over: BTreeSet::new(),
        }
    }

    pub fn billed(&self, job: JobId, attempt: u32) -> Option<&Billed> {
        self.bill
            .iter()
            .find(|line| line.job == job && line.attempt == attempt)
    }

    /// A POST arrives.
    pub fn post(&mut self, job: &Job, name: &str) -> Reply {
        let again = self.names.insert(name.to_owned(), (job.id, job.attempt));
        assert!(again.is_none(), "the POST {name} was sent twice");
        match self.weather {
            Weather::Fine => {}
            Weather::Unreachable => return Reply::NotSent("connection refused".to_owned()),
            Weather::Silent => {
                self.bill_sometimes(job);
                return lost("timeout");
            }
            Weather::Broken(status) => {
                self.bill_sometimes(job);
                return answer(status, &json!({"error": {"message": "upstream"}}));
            }
            Weather::Refusing(status) => {
                return answer(status, &json!({"error": {"message": "no"}}));
            }
            Weather::Full => {
                return answer(
                    503,
                    &json!({"error": {"type": "new_api_error", "message": "no channel"}}),
                );
            }
        }
        if self.rng.chance(self.noise) {
            return self.post_fault(job);
        }
        let running = self.tasks.values().filter(|t| t.ready_at > self.now);
        if running.count() >= self.room {
            let words = json!({"error": {"message": "too many concurrent tasks"}});
            return answer(429, &words);
        }
        let id = self.accept(job);
        match self.rng.below(4) {
            0 => answer(200, &json!({"id": id, "task_id": id, "status": "queued"})),
            1 => answer(201, &json!({"code": "success", "data": {"task_id": id}})),
            2 => answer(200, &json!({"code": "success", "data": id})),
            _ => answer(202, &json!({"request_id": id})),
        }
    }

    fn post_fault(&mut self, job: &Job) -> Reply {
        match self.rng.below(16) {
            0 => Reply::NotSent("dns".to_owned()),
            1 => answer(400, &json!({"error": {"message": "bad prompt"}})),
            2 => raw_answer(413, b"<html>too large</html>"),
            3 => answer(401, &json!({"error": {"code": "invalid_api_key"}})),
            4 => answer(402, &json!({"error": {"message": "limit"}})),
            5 => answer(403, &json!({"error": {"message": "balance"}})),
            6 => answer(503, &json!({"error": {"type": "new_api_error"}})),
            7 => Reply::Answer(Answer {
                status: 429,
                retry_after: Some(self.rng.within(0, 90) * SECOND),
                ..Answer::default()
            }),
            fault => {
                self.bill_sometimes(job);
                match fault {
                    8 => lost("timeout"),
                    9 => lost("broken"),
                    10 => raw_answer(502, b"<html>bad gateway</html>"),
                    11 => answer(500, &json!({"error": {"message": "internal"}})),
                    12 => raw_answer(524, b""),
                    13 => raw_answer(302, b""),
                    14 => raw_answer(200, b"{\"id\": \"ta"),
                    _ => Reply::Answer(Answer {
                        status: 200,
                        body: b"{\"id\":".to_vec(),
                        broken: Some("reset".to_owned()),
                        ..Answer::default()
                    }),
                }
            }
        }
    }

    fn bill_sometimes(&mut self, job: &Job) {
        if self.rng.chance(50) {
            self.accept(job);
        }
    }

    fn accept(&mut self, job: &Job) -> String {
        let task_id = match self.rng.below(3) {
            0 => format!("task_{}", self.tasks.len()),
            1 => format!("sora:{}/{}==", job.id, self.tasks.len()),
            _ => format!("{}", 9_000_000 + self.tasks.len()),
        };
        let fate = if !self.cruel || self.rng.chance(70) {
            Fate::Film
        } else {
            *self.rng.pick(&[
                Fate::Fails,
                Fate::Fails,
                Fate::Expires,
                Fate::Vanishes,
                Fate::Empty,
                Fate::Never,
            ])
        };
        let early = self.rng.chance(if self.noise > 0 { 25 } else { 0 });
        let lag = if early {
            self.rng.within(1, 3 * MINUTE)
        } else {
            0
        };
        let work = self.rng.within(5 * SECOND, MINUTE);
        let task = Task {
            job: job.id,
            visible_from: self.now + lag,
            ready_at: self.now + work,
            fate,
            endpoint: job.endpoint.clone().unwrap_or_default(),
            told_failed: false,
        };
        self.tasks.insert(task_id.clone(), task);
        let line = Billed {
            job: job.id,
            attempt: job.attempt,
            task_id: task_id.clone(),
        };
        self.owed.insert(job.id, line.clone());
        self.bill.push(line);
        task_id
    }

    /// A request that costs nothing.
    pub fn probe(&mut self) -> Reply {
        match self.weather {
            Weather::Unreachable => Reply::NotSent("connection refused".to_owned()),
            Weather::Silent if self.rng.chance(50) => lost("timeout"),
            Weather::Broken(status) if self.rng.chance(50) => raw_answer(status, b"<html>"),
            Weather::Refusing(status @ (401 | 429)) => raw_answer(status, b""),
            _ => answer(200, &json!({"data": []})),
        }
    }

    /// A person wants to know what has become of a task: it may be asked for at once.
    pub fn look_again(&mut self, job: &Job) {
        let task = (job.id, job.task_id.clone().unwrap_or_default());
        self.asked.remove(&task);
        self.over.remove(&task);
    }

    /// A poll: not too soon after the last one, and none after the end.
    pub fn task(&mut self, job: &Job) -> Reply {
        let id = job.task_id.clone().unwrap_or_default();
        let task = (job.id, id.clone());
        assert!(!self.over.contains(&task), "asked after its end: {job:?}");
        if let Some(last) = self.asked.insert(task, self.now) {
            let gap = self.now - last;
            assert!(
                gap >= self.interval,
                "asked again after {gap} ms, not {} ms: {job:?}",
                self.interval
            );
        }
        match self.weather {
            Weather::Fine | Weather::Full | Weather::Refusing(402 | 403) => {}
            Weather::Unreachable => return Reply::NotSent("connection refused".to_owned()),
            Weather::Silent => return lost("timeout"),
            Weather::Broken(status) | Weather::Refusing(status) => {
                return raw_answer(status, b"<html>");
            }
        }
        if self.rng.chance(self.noise) {
            let ready = self.tasks.get(&id).is_some_and(|t| t.ready_at <= self.now);
            return match self.rng.below(if ready { 4 } else { 6 }) {
                0 => raw_answer(500, b"{}"),
                1 => raw_answer(200, b"<html>login</html>"),
                2 => raw_answer(404, b"<html>not found</html>"),
                3 => lost("broken"),
                4 => answer(200, &json!({"status": "warming_up"})),
                _ => answer(
                    200,
                    &json!({"status": "queued", "error": {"message": "", "code": ""}}),
                ),
            };
        }
        let not_found = |rng: &mut Rng| match rng.below(2) {
            0 => answer(400, &json!({"code": "task_not_exist", "message": "no"})),
            _ => answer(404, &json!({"error": {"message": "not found"}})),
        };
        let Some(task) = self.tasks.get_mut(&id) else {
            return not_found(&mut self.rng);
        };
        assert_eq!(
            Some(&task.endpoint),
            job.endpoint.as_ref(),
            "asked elsewhere"
        );
        if self.now < task.visible_from {
            return not_found(&mut self.rng);
        }
        if self.now < task.ready_at || task.fate == Fate::Never {
            let word = *self
                .rng
                .pick(&["queued", "in_progress", "NOT_START", "processing", ""]);
            let progress = self.rng.below(100);
            return answer(200, &json!({"status": word, "progress": progress}));
        }
        match task.fate {
            Fate::Film | Fate::Empty | Fate::Never => {
                let word = *self
                    .rng
                    .pick(&["completed", "SUCCESS", "done", "succeeded"]);
                match self.rng.below(3) {
                    0 => answer(200, &json!({"status": word})),
                    1 => answer(
                        200,
                        &json!({"status": word, "video_url": "https://cdn.test/v.mp4"}),
                    ),
                    _ => answer(
                        200,
                        &json!({"data": {"status": word, "result": {"outputs": ["/v.mp4"]}}}),
                    ),
                }
            }
            Fate::Fails => {
                task.told_failed = true;
                answer(
                    200,
                    &json!({"status": "FAILURE", "fail_reason": "moderation"}),
                )
            }
            Fate::Expires => answer(200, &json!({"status": "expired"})),
            Fate::Vanishes => not_found(&mut self.rng),
        }
    }

    /// A download.
    pub fn fetch(&mut self, job: &Job) -> Fetched {
        let id = job.task_id.clone().unwrap_or_default();
        let task = self.tasks.get(&id).expect("a download of no task");
        assert_eq!(task.job, job.id, "another job's video");
        assert!(self.now >= task.ready_at, "fetched before it was made");
        assert_eq!(
            Some(&task.endpoint),
            job.endpoint.as_ref(),
            "asked elsewhere"
        );
        let interrupted = |advanced| Fetched::Interrupted {
            reason: "the connection broke".to_owned(),
            advanced,
        };
        if matches!(
            self.weather,
            Weather::Unreachable | Weather::Silent | Weather::Broken(_)
        ) {
            return interrupted(false);
        }
        let young = self.now < task.ready_at + 4 * MINUTE;
        if task.fate == Fate::Empty || (young && self.rng.chance(self.noise)) {
            return Fetched::Unusable {
                reason: "404 everywhere".to_owned(),
            };
        }
        if self.rng.chance(self.noise) {
            return match self.rng.below(8) {
                0 => Fetched::SyncFailed("fsync: input/output error".to_owned()),
                1 => Fetched::Displaced {
                    reason: "another file is there".to_owned(),
                },
                n => interrupted(n % 2 == 0),
            };
        }
        Fetched::Saved {
            file: SavedFile {
                path: job.target.clone().expect("a fetched video has its target"),
                bytes: 1_000 + id.len() as u64,
                sha256: sha_of(&id),
            },
            note: None,
        }
    }
}

/// Stands for the content of a task's video.
pub fn sha_of(task_id: &str) -> String {
    let mut rng = Rng::new(
        task_id
            .bytes()
            .fold(7, |x, b| x * 131 % 0xffff_ffff + u64::from(b)),
    );
    (0..4).map(|_| format!("{:016x}", rng.next())).collect()
}
