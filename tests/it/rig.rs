//! A queue in a folder of its own, the hostile provider beside it, and the real
//! binary between the two.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reelq::job::JobSpec;
use reelq::store::{Open, Store};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use sha2::{Digest, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Row as _};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::provider::{KEY, Kind, Port, Provider, Script};

/// No test waits longer for anything. It is only reached when something is wrong.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The least time between two polls of a task, by the provider's advice less a
/// little for the way.
const LEAST_GAP: Duration = Duration::from_millis(2_500);

/// A certificate that signed nothing: reading the system's some hundred ones at
/// every start would be most of the daemon's work here.
const NOBODY: &str = "-----BEGIN CERTIFICATE-----
MIIBeDCCAR+gAwIBAgIUDy7MYs4Smai6mSOZ8GjecZxMqN8wCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMjEwNDExOFoYDzIxMjYxMDI5MTA0
MTE4WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQpJKF3hqEA9vcXQHAbs39dPzcdhOYmI7Focuo3kU/7mh7/QF+z5kyQyzqabjDU
XHXC8kv7e6/zFUsyS3pZGEM4o1MwUTAdBgNVHQ4EFgQUvRJZmqVO6XDvUvBhavcJ
bOepGW4wHwYDVR0jBBgwFoAUvRJZmqVO6XDvUvBhavcJbOepGW4wDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiB/MMv1zx+gvO+3yTxyw36QICBjl0oz
Ury9J0KAel4emwIgO8W0CMDBpBfgidpyuKkli8wDi54HDLrN2+iAxcqlWbw=
-----END CERTIFICATE-----
";

/// What the tests that run at once need in memory, in bytes; some containers have 64 MiB.
const MEMORY: u64 = 1 << 30;

/// A folder that is gone after the test; in memory where the system has enough of it.
pub fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let has_room = rustix::fs::statvfs(&memory)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= MEMORY);
    let base = if has_room {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("reelq-test-")
        .tempdir_in(base)
        .unwrap()
}

/// A row of `jobs`.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    pub job: String,
    pub state: String,
    pub code: String,
    pub path: Option<String>,
    pub bytes: Option<i64>,
    pub sha256: Option<String>,
    pub task: Option<String>,
    pub note: Option<String>,
    pub message: Option<String>,
    pub completed_at: Option<i64>,
    pub finished_at: Option<i64>,
}

/// A row of `submissions`.
#[derive(Clone, Debug)]
pub struct Line {
    pub job_id: i64,
    pub outcome: String,
    pub task: Option<String>,
    pub error: Option<String>,
}

/// A queue, its provider, and how the daemon is started.
pub struct Rig {
    pub dir: TempDir,
    pub provider: Provider,
    /// Of every job that is added.
    pub metadata: Option<String>,
    settings: Vec<(String, String)>,
    films: Vec<(String, Vec<u8>)>,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(Provider::start())
    }

    pub fn with(provider: Provider) -> Rig {
        let dir = folder();
        std::fs::create_dir(dir.path().join("none")).unwrap();
        put(&dir.path().join("config.toml"), b"");
        put(&dir.path().join("nobody.pem"), NOBODY.as_bytes());
        let mut rig = Rig {
            dir,
            provider,
            metadata: None,
            settings: Vec::new(),
            films: Vec::new(),
        };
        let (base, videos) = (rig.provider.base.clone(), rig.videos());
        for (name, value) in [
            ("PROVIDER__BASE_URL", base.as_str()),
            ("PROVIDER__API_KEY", KEY),
            ("POLL__INTERVAL", "3s"),
            ("DOWNLOAD__DIR", &videos.to_string_lossy()),
            ("DOWNLOAD__MIN_FREE_SPACE", "0"),
            ("SUBMIT__RATE_PER_MINUTE", "60000"),
            ("SUBMIT__MAX_IN_FLIGHT", "1000"),
        ] {
            rig.set(name, value);
        }
        rig
    }

    /// Sets `REELQ_{name}` for the daemons started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings
            .push((format!("REELQ_{name}"), value.to_owned()));
    }

    /// Sets a variable that is not reelq's own.
    pub fn set_system(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub fn database(&self) -> PathBuf {
        self.dir.path().join("q.db")
    }

    pub fn videos(&self) -> PathBuf {
        self.dir.path().join("videos")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Adds jobs, each with the way in which the provider will treat it.
    pub async fn add(&mut self, jobs: Vec<(String, Script)>) {
        let specs: Vec<JobSpec> = jobs
            .iter()
            .map(|(job, _)| JobSpec {
                metadata: self.metadata.clone(),
                ..JobSpec::new(job.as_str(), "https://example.com/a.jpg")
            })
            .collect();
        for (job, script) in jobs {
            self.expect(&job, script);
        }
        let store = Store::open(&self.database(), Open::Create).await.unwrap();
        store.insert(&specs).await.unwrap();
        store.close().await;
    }

    /// How the provider will treat a job that another program adds.
    pub fn expect(&mut self, job: &str, script: Script) {
        self.films.push((job.to_owned(), script.film.clone()));
        self.provider.script(job, script);
    }

    /// The environment of the daemon: nothing of ours, so that no setting of the
    /// person who runs the tests gets in.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("SSL_CERT_FILE", self.at("nobody.pem")),
            ("SSL_CERT_DIR", self.at("none")),
            ("http_proxy", self.provider.trap.clone()),
            ("https_proxy", self.provider.trap.clone()),
            ("no_proxy", "127.0.0.1".to_owned()),
            ("REELQ_LOG", "reelq=debug".to_owned()),
            ("NO_COLOR", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        environment.extend(self.settings.iter().cloned());
        environment
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// The daemon's arguments.
    pub fn arguments(&self, until_idle: bool) -> Vec<String> {
        let mut arguments = vec![
            "run".to_owned(),
            "--config".to_owned(),
            self.at("config.toml"),
            "--database".to_owned(),
            self.at("q.db"),
        ];
        if until_idle {
            arguments.push("--until-idle".to_owned());
        }
        arguments
    }

    /// Starts the daemon behind other programs, such as `strace`; none: itself.
    pub fn start_behind(&self, programs: &[&str], until_idle: bool) -> Daemon {
        let mut words: Vec<String> = programs.iter().map(|word| (*word).to_owned()).collect();
        words.push(env!("CARGO_BIN_EXE_reelq").to_owned());
        words.extend(self.arguments(until_idle));
        self.spawn(&words, self.environment())
    }

    pub fn spawn(&self, words: &[String], environment: Vec<(String, String)>) -> Daemon {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log())
            .unwrap();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .envs(environment)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Daemon {
            child,
            log: self.log(),
        }
    }

    pub fn start(&self) -> Daemon {
        self.start_behind(&[], false)
    }

    /// Runs the daemon until nothing is left that could move.
    pub async fn run_until_idle(&self) {
        let status = self.start_behind(&[], true).ended().await;
        // 3: some jobs are failed or unconfirmed.
        assert!(
            matches!(status.code(), Some(0 | 3)),
            "ended with {status}:\n{}",
            self.words()
        );
    }

    /// The end of the daemons' log.
    pub fn words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Waits until the log holds a text.
    pub async fn until_said(&self, text: &str) {
        self.until(text, async || {
            std::fs::read_to_string(self.log()).is_ok_and(|log| log.contains(text))
        })
        .await;
    }

    /// Waits until the log holds a text, and gives what follows it up to a quote.
    pub async fn said_after(&self, text: &str) -> String {
        self.until_said(text).await;
        let log = std::fs::read_to_string(self.log()).unwrap();
        let (_, rest) = log.split_once(text).unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, mut test: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !test().await {
            assert!(
                Instant::now() < deadline,
                "not within {LIMIT:?}: {what}\n{}",
                self.words()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many jobs are in a state.
    pub async fn until_jobs(&self, state: &str, count: usize) {
        self.until(&format!("{count} jobs {state}"), async || {
            let rows = self.rows().await;
            rows.iter().filter(|row| row.state == state).count() >= count
        })
        .await;
    }

    pub async fn rows(&self) -> Vec<Row> {
        rows(&self.database()).await
    }

    pub async fn lines(&self) -> Vec<Line> {
        lines(&self.database()).await
    }

    pub fn film(&self, job: &str) -> &[u8] {
        let found = self.films.iter().find(|(name, _)| name == job);
        &found.unwrap().1
    }

    /// What must hold whenever a daemon has come to its end, whatever happened
    /// before: every violation, in words.
    pub async fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let (rows, lines) = (self.rows().await, self.lines().await);
        let mut places = HashSet::new();
        for row in &rows {
            let billed = self.provider.billed(&row.job);
            if billed > 1 {
                wrong.push(format!("{}: billed {billed} times", row.job));
            }
            let paid: Vec<&Line> = lines
                .iter()
                .filter(|line| line.job_id == row.id)
                .filter(|line| matches!(line.outcome.as_str(), "accepted" | "unknown"))
                .collect();
            if paid.len() > 1 {
                wrong.push(format!(
                    "{}: {} submissions may be charged",
                    row.job,
                    paid.len()
                ));
            }
            if billed > paid.len() {
                wrong.push(format!(
                    "{}: charged, and the ledger does not say so",
                    row.job
                ));
            }
            if row.state == "done"
                && let Err(why) = self.check_file(row)
            {
                wrong.push(format!("{}: {why}", row.job));
            }
            wrong.extend(self.check_polls(row));
            places.extend(row.path.clone().map(PathBuf::from));
        }
        for file in files_below(&self.videos()) {
            if !places.contains(&file) {
                wrong.push(format!("{} is left over", file.display()));
            }
        }
        for seen in self.provider.seen() {
            if seen.port == Port::Trap {
                wrong.push(format!("{} {} was asked for", seen.method, seen.path));
            }
            if seen.port == Port::Cdn && seen.headers.contains_key("authorization") {
                wrong.push(format!("{}: the key went to another origin", seen.path));
            }
            if seen.kind == Kind::Other && seen.port != Port::Trap {
                wrong.push(format!("{} {} makes no sense", seen.method, seen.path));
            }
        }
        wrong.extend(integrity(&self.database()).await);
        wrong
    }

    /// A task is asked for in its turn, and no more once its job has ended.
    fn check_polls(&self, row: &Row) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut last: Option<Instant> = None;
        for seen in self.provider.seen() {
            if seen.kind != Kind::Poll || seen.job.as_deref() != Some(&row.job) {
                continue;
            }
            let gap = last.map(|last| seen.at - last);
            if let Some(gap) = gap.filter(|gap| *gap < LEAST_GAP) {
                wrong.push(format!("{}: asked again after {gap:?}", row.job));
            }
            last = Some(seen.at);
            if row.finished_at.is_some_and(|end| seen.wall > end) {
                wrong.push(format!("{}: asked after its end", row.job));
            }
        }
        wrong
    }

    fn check_file(&self, row: &Row) -> Result<(), String> {
        let path = row.path.as_deref().ok_or("done without a path")?;
        let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        if bytes != self.film(&row.job) {
            return Err(format!("{path} is not the film that was made"));
        }
        let sha256: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if row.sha256.as_deref() != Some(&sha256) || row.bytes != Some(bytes.len() as i64) {
            return Err("its length or hash in the table is wrong".to_owned());
        }
        Ok(())
    }
}

/// A child process that ends with the test.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id as i32))
    }

    /// The process's number; for a limit that is changed while it runs.
    pub fn id(&self) -> Pid {
        self.pid().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill_process(pid, signal).unwrap();
        }
    }

    /// `kill -9`, and all that it started.
    pub async fn kill(mut self) {
        self.end_group();
        self.child.wait().await.unwrap();
    }

    fn end_group(&self) {
        if let Some(pid) = self.pid() {
            // Its own group: nothing else is in it.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> ExitStatus {
        match tokio::time::timeout(LIMIT, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("it did not end within {LIMIT:?}:\n{log}");
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end_group();
    }
}

/// Does the same with many things, a few at a time; what came of it, in order.
pub async fn in_turns<T, R, F>(at_once: usize, things: Vec<T>, work: impl Fn(T) -> F) -> Vec<R>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(at_once));
    let mut running = Vec::new();
    for thing in things {
        let permit = Arc::clone(&free).acquire_owned().await.unwrap();
        let work = work(thing);
        running.push(tokio::spawn(async move {
            let result = work.await;
            drop(permit);
            result
        }));
    }
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.unwrap());
    }
    results
}

/// Writes a file of the test's own.
#[allow(clippy::disallowed_methods)] // it is no video and need not last
pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// An address that refuses connections, as long as its socket is kept.
pub fn nobody() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let link = format!("http://{}/v.mp4", socket.local_addr().unwrap());
    (socket, link)
}

/// A connection like that of another program.
pub async fn connect(database: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(database)
        .busy_timeout(Duration::from_secs(30))
        .connect()
        .await
        .unwrap()
}

async fn all<T>(database: &Path, sql: &'static str, read: impl Fn(&SqliteRow) -> T) -> Vec<T> {
    let mut conn = connect(database).await;
    let rows = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
    rows.iter().map(read).collect()
}

pub async fn rows(database: &Path) -> Vec<Row> {
    let sql = "SELECT id, CASE hex(prompt) WHEN 'FF' THEN 'unreadable' ELSE prompt END, state, \
               coalesce(error_code, ''), path, bytes, sha256, task_id, note, error_message, \
               completed_at, finished_at FROM jobs ORDER BY id";
    all(database, sql, |row| Row {
        id: row.get(0),
        job: row.get(1),
        state: row.get(2),
        code: row.get(3),
        path: row.get(4),
        bytes: row.get(5),
        sha256: row.get(6),
        task: row.get(7),
        note: row.get(8),
        message: row.get(9),
        completed_at: row.get(10),
        finished_at: row.get(11),
    })
    .await
}

pub async fn lines(database: &Path) -> Vec<Line> {
    let sql = "SELECT job_id, outcome, task_id, error FROM submissions ORDER BY job_id, attempt";
    all(database, sql, |row| Line {
        job_id: row.get(0),
        outcome: row.get(1),
        task: row.get(2),
        error: row.get(3),
    })
    .await
}

/// What SQLite finds wrong with a database.
pub async fn integrity(database: &Path) -> Vec<String> {
    let found: Vec<String> = all(database, "PRAGMA integrity_check", |row| {
        row.get::<String, _>(0)
    })
    .await;
    found.into_iter().filter(|line| line != "ok").collect()
}
