//! A hostile provider on loopback, on bare TCP, so that it can do to a
//! connection what no HTTP library would let it do. It keeps a bill of every
//! POST and a record of every other request. It shares no code with `src`.
//!
//! A second port plays the content network, a third one is a proxy into which
//! the daemon would fall if it ever asked an address that it must not ask.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reelq::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// The key that the provider takes.
pub const KEY: &str = "sk-of-the-tests";

/// The most that an endless body gives, in bytes.
const ENDLESS: usize = 64 << 20;

/// What an answer carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// A text in which `$ID`, `$JOB`, `$BASE` and `$CDN` are filled in.
    Text(String),
    /// The job's film.
    Film,
    /// The job's film up to a per cent of it, as if that were all.
    FilmUpTo(usize),
    /// The job's film from an offset on, whatever was asked for.
    FilmFrom(usize),
    /// Other bytes.
    Bytes(Vec<u8>),
    /// So many bytes at most of what was asked for of the job's film, as if that were all.
    FilmAtMost(usize),
    /// These bytes, then zeros without end.
    Endless(Vec<u8>),
}

/// How the other side is told where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`.
    Length,
    /// `Content-Length`, off by so many bytes.
    LengthOff(i64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer goes out whole.
    Whole,
    /// Closed after a per cent of the body.
    Fin(usize),
    /// Reset after a per cent of the body.
    Reset(usize),
    /// Silent after a per cent of the body.
    Stall(usize),
    /// Closed after so many bytes of the head.
    HeadFin(usize),
    /// Reset without a byte.
    NoByteReset,
    /// Silent without a byte.
    NoByteStall,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    framing: Framing,
    end: End,
    before: Vec<u8>,
    raw: Option<Vec<u8>>,
    ranges: bool,
    bills: bool,
    held: bool,
    key_needed: bool,
    dribble: bool,
    crawl: bool,
}

/// An answer with a status and no body.
pub fn status(status: u16) -> Answer {
    Answer {
        status,
        headers: Vec::new(),
        body: Body::Text(String::new()),
        framing: Framing::Length,
        end: End::Whole,
        before: Vec::new(),
        raw: None,
        ranges: false,
        bills: false,
        held: false,
        key_needed: false,
        dribble: false,
        crawl: false,
    }
}

/// An answer with a JSON body.
pub fn json(code: u16, body: &str) -> Answer {
    status(code).typed("application/json", Body::Text(body.to_owned()))
}

/// An answer with a web page.
pub fn html(code: u16) -> Answer {
    let page = format!("<html><head><title>{code}</title></head><body>nginx</body></html>");
    status(code).typed("text/html", Body::Text(page))
}

/// The job's film, with its length.
pub fn film_answer() -> Answer {
    status(200).typed("video/mp4", Body::Film)
}

/// A redirect.
pub fn to(code: u16, location: &str) -> Answer {
    status(code).header("location", location)
}

/// No HTTP at all.
pub fn raw(bytes: &[u8]) -> Answer {
    Answer {
        raw: Some(bytes.to_vec()),
        ..status(200)
    }
}

impl Answer {
    pub fn typed(self, kind: &str, body: Body) -> Answer {
        Answer { body, ..self }.header("content-type", kind)
    }

    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(self, body: Body) -> Answer {
        Answer { body, ..self }
    }

    pub fn framed(self, framing: Framing) -> Answer {
        Answer { framing, ..self }
    }

    pub fn ends(self, end: End) -> Answer {
        Answer { end, ..self }
    }

    /// Sent before the answer itself, as an interim answer is.
    pub fn before(self, bytes: &[u8]) -> Answer {
        Answer {
            before: bytes.to_vec(),
            ..self
        }
    }

    /// With an `ETag`; `Range` is honoured as long as `If-Range` names it.
    pub fn ranges(self, etag: &str) -> Answer {
        let ranges = true;
        Answer { ranges, ..self }.header("etag", etag)
    }

    /// The POST is accepted and charged, whatever the answer says.
    pub fn bills(self) -> Answer {
        Answer {
            bills: true,
            ..self
        }
    }

    /// Not sent before the test calls [`Provider::release`].
    pub fn held(self) -> Answer {
        Answer { held: true, ..self }
    }

    /// 401 without the key.
    pub fn with_key(self) -> Answer {
        Answer {
            key_needed: true,
            ..self
        }
    }

    /// One byte at a time.
    pub fn dribbles(self) -> Answer {
        Answer {
            dribble: true,
            ..self
        }
    }

    /// So slowly that it never ends, but never silent for long.
    pub fn crawls(self) -> Answer {
        Answer {
            crawl: true,
            ..self
        }
    }
}

/// The error of a gateway of the new-api family.
pub fn busy(code: &str) -> String {
    format!(r#"{{"error":{{"message":"{code}","type":"new_api_error","code":"{code}"}}}}"#)
}

/// How the provider treats one job: each list's first answer goes to the first
/// request of that kind and so on, the last one to all that follow.
#[derive(Clone, Debug)]
pub struct Script {
    /// The id of its task.
    pub task: String,
    pub post: Vec<Answer>,
    pub poll: Vec<Answer>,
    pub content: Vec<Answer>,
    /// By the last part of `/x/$JOB/NAME`, on both ports.
    pub files: HashMap<String, Vec<Answer>>,
    pub film: Vec<u8>,
}

/// An ordinary answer to a POST.
pub const TAKEN: &str = r#"{"id":"$ID","task_id":"$ID","object":"video","status":"queued"}"#;

/// An ordinary answer about a finished task.
pub const READY: &str = r#"{"id":"$ID","task_id":"$ID","status":"completed","progress":100,"video_url":"$CDN/x/$JOB/v"}"#;

impl Script {
    /// A provider as it should be: done at the first look.
    pub fn kind(film: Vec<u8>) -> Script {
        let whole = film_answer().ranges("\"v1\"");
        Script {
            task: "task_$JOB".to_owned(),
            post: vec![json(200, TAKEN).bills()],
            poll: vec![json(200, READY)],
            content: vec![film_answer().with_key()],
            files: HashMap::from([("v".to_owned(), vec![whole])]),
            film,
        }
    }
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Post,
    Poll,
    Content,
    File,
    Probe,
    Other,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Own,
    Cdn,
    Trap,
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub port: Port,
    pub kind: Kind,
    pub job: Option<String>,
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// It was charged.
    pub billed: bool,
    pub at: Instant,
    /// The same moment by the wall clock, in Unix milliseconds, as the table has it.
    pub wall: i64,
}

/// Answers every request before the scripts do, if it wants to.
pub type Weather = Arc<dyn Fn(&Seen) -> Option<Answer> + Send + Sync>;

#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    /// Task ids to jobs.
    tasks: HashMap<String, String>,
    turns: HashMap<(String, String), usize>,
    seen: Vec<Seen>,
    weather: Option<Weather>,
    released: HashSet<String>,
    hang_ups: usize,
}

struct Shared {
    base: String,
    cdn: String,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// The provider. Its listeners end with it.
pub struct Provider {
    pub base: String,
    pub trap: String,
    shared: Arc<Shared>,
    closed: Mutex<Option<TcpSocket>>,
    loops: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        for task in lock(&self.loops).iter() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bound() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let base = format!("http://{}", socket.local_addr().unwrap());
    (socket, base)
}

impl Provider {
    /// A provider that listens.
    pub fn start() -> Provider {
        let provider = Provider::closed();
        provider.open();
        provider
    }

    /// A provider whose port refuses connections until [`Provider::open`].
    pub fn closed() -> Provider {
        let (own, base) = bound();
        let (cdn_socket, cdn) = bound();
        let (trap_socket, trap) = bound();
        let shared = Arc::new(Shared {
            base: base.clone(),
            cdn,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let provider = Provider {
            base,
            trap,
            shared,
            closed: Mutex::new(Some(own)),
            loops: Mutex::default(),
        };
        provider.listen(cdn_socket, Port::Cdn);
        provider.listen(trap_socket, Port::Trap);
        provider
    }

    /// Begins to listen.
    pub fn open(&self) {
        if let Some(socket) = lock(&self.closed).take() {
            self.listen(socket, Port::Own);
        }
    }

    fn listen(&self, socket: TcpSocket, port: Port) {
        let listener = socket.listen(1024).unwrap();
        let task = tokio::spawn(accept(listener, port, Arc::clone(&self.shared)));
        lock(&self.loops).push(task);
    }

    /// How a job, named by its prompt, is treated.
    pub fn script(&self, job: &str, script: Script) {
        let mut state = lock(&self.shared.state);
        let task = script.task.replace("$JOB", job);
        state.tasks.insert(task, job.to_owned());
        state.scripts.insert(job.to_owned(), script);
    }

    /// Changes how every request is answered; `None`: by the scripts.
    pub fn weather(&self, weather: Option<Weather>) {
        lock(&self.shared.state).weather = weather;
    }

    /// Closes so many connections before reading from them.
    pub fn hang_up(&self, connections: usize) {
        lock(&self.shared.state).hang_ups = connections;
    }

    /// Lets the held answers of a job go.
    pub fn release(&self, job: &str) {
        lock(&self.shared.state).released.insert(job.to_owned());
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// Everything that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.state).seen.clone()
    }

    /// How many requests of a kind arrived; of one job or of all.
    pub fn count(&self, kind: Kind, job: Option<&str>) -> usize {
        lock(&self.shared.state)
            .seen
            .iter()
            .filter(|seen| seen.kind == kind && (job.is_none() || seen.job.as_deref() == job))
            .count()
    }

    /// How many POSTs of a job were charged.
    pub fn billed(&self, job: &str) -> usize {
        lock(&self.shared.state)
            .seen
            .iter()
            .filter(|seen| seen.billed && seen.job.as_deref() == Some(job))
            .count()
    }

    /// Waits until what arrived fulfils a condition.
    pub async fn until(&self, what: &str, limit: Duration, test: impl Fn(&Provider) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let deadline = Instant::now() + limit;
        while !test(self) {
            if timeout_at(deadline, changed.changed()).await.is_err() {
                panic!("not within {limit:?}: {what}");
            }
        }
    }
}

async fn accept(listener: TcpListener, port: Port, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let hangs_up = {
            let mut state = lock(&shared.state);
            let hangs_up = port == Port::Own && state.hang_ups > 0;
            if hangs_up {
                state.hang_ups -= 1;
            }
            hangs_up
        };
        if !hangs_up {
            tokio::spawn(converse(stream, port, Arc::clone(&shared)));
        }
    }
}

async fn converse(mut stream: TcpStream, port: Port, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut rest = Vec::new();
    while let Some(mut seen) = read_request(&mut stream, &mut rest, port).await {
        let (answer, context) = shared.judge(&mut seen);
        if answer.held {
            let job = context.job.clone();
            let mut changed = shared.changed.subscribe();
            while !lock(&shared.state).released.contains(&job) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        }
        match send(&mut stream, &answer, &context, &seen).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

async fn read_request(stream: &mut TcpStream, rest: &mut Vec<u8>, port: Port) -> Option<Seen> {
    let mut buffer = [0; 16 * 1024];
    let head_end = loop {
        if let Some(at) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => rest.extend_from_slice(&buffer[..n]),
        }
    };
    let head = String::from_utf8_lossy(&rest[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while rest.len() < head_end + length {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => rest.extend_from_slice(&buffer[..n]),
        }
    }
    let body = rest[head_end..head_end + length].to_vec();
    rest.drain(..head_end + length);
    Some(Seen {
        port,
        kind: Kind::Other,
        job: None,
        method,
        path,
        headers,
        body,
        billed: false,
        at: Instant::now(),
        wall: Clock::system().now(),
    })
}

/// What an answer's text is filled in with.
#[derive(Default)]
struct Context {
    job: String,
    task: String,
    base: String,
    cdn: String,
    film: Vec<u8>,
}

impl Context {
    fn fill(&self, text: &str) -> String {
        text.replace("$ID", &self.task)
            .replace("$JOB", &self.job)
            .replace("$BASE", &self.base)
            .replace("$CDN", &self.cdn)
    }
}

impl Shared {
    /// Finds out what a request is for, writes it down, and picks its answer.
    fn judge(&self, seen: &mut Seen) -> (Answer, Context) {
        let mut state = lock(&self.state);
        let mut turn = String::new();
        if seen.port == Port::Trap {
            turn = "trap".to_owned();
        } else if seen.path == "/v1/videos" && seen.method == "POST" {
            seen.kind = Kind::Post;
            seen.job = serde_json::from_slice::<serde_json::Value>(&seen.body)
                .ok()
                .and_then(|body| Some(body.get("prompt")?.as_str()?.to_owned()));
        } else if seen.path == "/v1/models" {
            seen.kind = Kind::Probe;
        } else if let Some(rest) = seen.path.strip_prefix("/v1/videos/") {
            let (id, content) = match rest.strip_suffix("/content") {
                Some(id) => (id, true),
                None => (rest, false),
            };
            seen.kind = if content { Kind::Content } else { Kind::Poll };
            seen.job = state.tasks.get(&unescape(id)).cloned();
        } else if let Some((job, name)) = seen
            .path
            .strip_prefix("/x/")
            .and_then(|rest| rest.split_once('/'))
        {
            seen.kind = Kind::File;
            seen.job = Some(job.to_owned());
            turn = name.to_owned();
        }
        let is_new_post = seen.kind == Kind::Post;
        let script = seen.job.as_ref().and_then(|job| state.scripts.get(job));
        let unauthorized = matches!(seen.kind, Kind::Post | Kind::Poll | Kind::Probe)
            && seen.headers.get("authorization") != Some(&format!("Bearer {KEY}"));
        let weather = state.weather.as_ref().and_then(|weather| weather(seen));
        let mut context = Context {
            base: self.base.clone(),
            cdn: self.cdn.clone(),
            job: seen.job.clone().unwrap_or_default(),
            ..Context::default()
        };
        let mut answer = match (weather, script) {
            (Some(answer), _) => answer,
            _ if unauthorized => json(401, r#"{"error":{"message":"who are you?"}}"#),
            (None, None) if seen.kind == Kind::Probe => json(200, r#"{"object":"list","data":[]}"#),
            (None, None) => json(400, r#"{"code":"task_not_exist","message":"unknown"}"#),
            (None, Some(script)) => {
                let list = match seen.kind {
                    Kind::Post => Some(&script.post),
                    Kind::Poll => Some(&script.poll),
                    Kind::Content => Some(&script.content),
                    Kind::File => script.files.get(&turn),
                    _ => None,
                };
                let turn = (context.job.clone(), format!("{:?} {turn}", seen.kind));
                let n = state.turns.get(&turn).copied().unwrap_or(0);
                let answer = list
                    .and_then(|list| list.get(n).or(list.last()))
                    .cloned()
                    .unwrap_or_else(|| html(404));
                state.turns.insert(turn, n + 1);
                answer
            }
        };
        if let Some(script) = state.scripts.get(&context.job) {
            context.task = script.task.replace("$JOB", &context.job);
            context.film.clone_from(&script.film);
        }
        if answer.key_needed && seen.headers.get("authorization") != Some(&format!("Bearer {KEY}"))
        {
            answer = json(401, r#"{"error":{"message":"the key is needed"}}"#);
        }
        seen.billed = is_new_post && answer.bills;
        state.seen.push(seen.clone());
        drop(state);
        self.changed.send_modify(|n| *n += 1);
        (answer, context)
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends an answer; true if the connection may be used again.
async fn send(
    stream: &mut TcpStream,
    answer: &Answer,
    context: &Context,
    seen: &Seen,
) -> std::io::Result<bool> {
    if let Some(raw) = &answer.raw {
        stream.write_all(raw).await?;
        return close(stream, answer.end).await;
    }
    if matches!(answer.end, End::NoByteReset | End::NoByteStall) {
        return close(stream, answer.end).await;
    }
    let film = &context.film;
    let mut body = match &answer.body {
        Body::Text(text) => context.fill(text).into_bytes(),
        Body::Film | Body::FilmAtMost(_) => film.clone(),
        Body::FilmUpTo(percent) => film[..film.len() * percent / 100].to_vec(),
        Body::FilmFrom(offset) => film[*offset..].to_vec(),
        Body::Bytes(bytes) | Body::Endless(bytes) => bytes.clone(),
    };
    let mut code = answer.status;
    let mut headers = answer.headers.clone();
    if answer.ranges
        && let Some(first) = range_of(seen, answer).filter(|first| *first < body.len())
    {
        headers.push((
            "content-range".to_owned(),
            format!("bytes {first}-{}/{}", body.len() - 1, body.len()),
        ));
        body.drain(..first);
        code = 206;
    }
    if let Body::FilmAtMost(most) = answer.body {
        body.truncate(most);
    }
    let endless = matches!(answer.body, Body::Endless(_));
    let mut head = format!("HTTP/1.1 {code} Words\r\n");
    for (name, value) in &headers {
        head.push_str(&format!("{name}: {}\r\n", context.fill(value)));
    }
    let whole = matches!(answer.end, End::Whole) && !endless;
    let mut reusable = whole;
    match answer.framing {
        Framing::Length => head.push_str(&format!("content-length: {}\r\n", body.len())),
        Framing::LengthOff(by) => {
            head.push_str(&format!("content-length: {}\r\n", body.len() as i64 + by));
            reusable = false;
        }
        Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Framing::Close => {
            head.push_str("connection: close\r\n");
            reusable = false;
        }
    }
    head.push_str("\r\n");
    stream.write_all(&answer.before).await?;
    if let End::HeadFin(bytes) = answer.end {
        stream
            .write_all(&head.as_bytes()[..bytes.min(head.len())])
            .await?;
        return close(stream, answer.end).await;
    }
    let cut = match answer.end {
        End::Fin(percent) | End::Reset(percent) | End::Stall(percent) => body.len() * percent / 100,
        _ => body.len(),
    };
    let mut wire = head.into_bytes();
    if answer.framing == Framing::Chunked {
        for chunk in body[..cut].chunks(7_000) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        if whole {
            wire.extend_from_slice(b"0\r\n\r\n");
        }
    } else {
        wire.extend_from_slice(&body[..cut]);
    }
    if answer.dribble {
        for byte in &wire {
            stream.write_all(std::slice::from_ref(byte)).await?;
            stream.flush().await?;
            tokio::task::yield_now().await;
        }
    } else if answer.crawl {
        for byte in &wire {
            stream.write_all(std::slice::from_ref(byte)).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    } else {
        stream.write_all(&wire).await?;
    }
    if endless {
        let zeros = vec![0; 64 << 10];
        for _ in 0..ENDLESS / zeros.len() {
            if answer.framing == Framing::Chunked {
                stream.write_all(b"10000\r\n").await?;
            }
            stream.write_all(&zeros).await?;
            if answer.framing == Framing::Chunked {
                stream.write_all(b"\r\n").await?;
            }
        }
    }
    if reusable {
        return Ok(true);
    }
    close(stream, answer.end).await
}

/// The offset that a request asks for, if this answer still has the same content.
fn range_of(seen: &Seen, answer: &Answer) -> Option<usize> {
    let first = seen
        .headers
        .get("range")?
        .strip_prefix("bytes=")?
        .strip_suffix('-')?;
    let same = seen.headers.get("if-range").is_none_or(|named| {
        answer
            .headers
            .iter()
            .any(|(name, value)| name == "etag" && value == named)
    });
    first.parse().ok().filter(|_| same)
}

async fn close(stream: &mut TcpStream, end: End) -> std::io::Result<bool> {
    match end {
        End::Reset(_) | End::NoByteReset => stream.set_zero_linger()?,
        End::Stall(_) | End::NoByteStall => {
            // Until the other side gives up.
            let mut buffer = [0; 1024];
            while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
        }
        _ => stream.shutdown().await?,
    }
    Ok(false)
}
