//! Connections: how patient they are, and how they end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, body};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::HttpError;
use super::slots::{Answering, Slot, Slots};
use crate::config::Listen;

/// For a request's head, and between two requests of one connection.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// A client that takes no byte of its answer for so long is left.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// How long a stop waits for answers that are being sent.
pub const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Others than the owner's group cannot connect.
const SOCKET_MODE: u32 = 0o660;

/// A place that is listened at.
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub async fn bind(listen: &Listen) -> Result<Listener, HttpError> {
        let failed = |place: String| {
            move |error: io::Error| match error.kind() {
                io::ErrorKind::AddrInUse => HttpError::InUse { place },
                _ => HttpError::Bind {
                    place,
                    reason: error.to_string(),
                },
            }
        };
        match listen {
            Listen::Off => Err(HttpError::Off),
            Listen::Tcp(address) => {
                let failed = failed(address.to_string());
                let listener = match TcpListener::bind(address).await {
                    Ok(listener) => listener,
                    Err(error) => return Err(failed(error)),
                };
                let address = listener.local_addr().map_err(failed)?;
                Ok(Listener::Tcp(listener, address))
            }
            Listen::Unix(path) => {
                let place = path.display().to_string();
                let listener = clear(path).await.and_then(|()| UnixListener::bind(path));
                let listener = listener.map_err(failed(place.clone()))?;
                let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
                tokio::fs::set_permissions(path, mode)
                    .await
                    .map_err(failed(place))?;
                Ok(Listener::Unix(listener, path.clone()))
            }
        }
    }

    async fn accept(&self) -> io::Result<Wire> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // Events are small and must not wait for more.
                let _ = stream.set_nodelay(true);
                Ok(Box::pin(Patient::new(stream)))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Box::pin(Patient::new(stream)))
            }
        }
    }
}

/// Removes a socket that a stopped process left behind; nothing else.
async fn clear(path: &Path) -> io::Result<()> {
    let is_socket = tokio::fs::symlink_metadata(path)
        .await
        .is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tokio::fs::remove_file(path).await
        }
        Err(error) => Err(error),
    }
}

/// Answers connections until `stop` ends, then lets the answers that are being
/// sent come to their end, within limits. `closing` tells endless answers.
pub(super) async fn accept(
    listener: Listener,
    router: Router,
    slots: &Arc<Slots>,
    stop: impl Future<Output = ()>,
    closing: watch::Sender<bool>,
) {
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let wire = tokio::select! {
            () = &mut stop => break,
            wire = listener.accept() => wire,
        };
        while connections.try_join_next().is_some() {}
        match wire {
            Ok(wire) => {
                // Further ones wait in the kernel's queue.
                let place = tokio::select! {
                    () = &mut stop => break,
                    place = slots.take() => place,
                };
                connections.spawn(answer(wire, router.clone(), place, closing.subscribe()));
            }
            Err(error) => {
                // Out of descriptors, or the client has gone again.
                tracing::debug!(%error, "a connection was not accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let path = match listener {
        Listener::Unix(_, path) => Some(path),
        Listener::Tcp(..) => None,
    };
    if let Some(path) = path {
        let _ = tokio::fs::remove_file(path).await;
    }
    let _ = closing.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(LAST_ANSWERS, all).await;
}

async fn answer(wire: Wire, router: Router, place: Arc<Slot>, mut closing: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        // The buffer alone lets twice as much in, where it comes at once.
        .max_header_size(HEAD_BYTES);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let answering = place.answer();
        let answer = answering.map(|answering| (answering, router.call(request)));
        async move {
            // An error closes the connection without an answer.
            let (answering, answer) = answer.ok_or(io::ErrorKind::ConnectionAborted)?;
            let Ok(response) = answer.await;
            Ok::<_, io::Error>(response.map(|body| Answer {
                body,
                _answering: answering,
            }))
        }
    });
    let stream = Stream {
        wire,
        place: Arc::clone(&place),
    };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        // Before a request is read for which there is no place any more.
        biased;
        () = place.lost() => return,
        ended = connection.as_mut() => ended,
        () = async { drop(closing.wait_for(|closing| *closing).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke off");
    }
}

/// The body of an answer, which keeps its connection's place until it is over.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A connection of either kind.
type Wire = Pin<Box<dyn Duplex>>;

/// A connection that tells its place when all that was written has left.
struct Stream {
    wire: Wire,
    place: Arc<Slot>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.wire.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wire.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.wire.as_mut().poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.place.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}

/// A stream that fails when its other side takes nothing for [`WRITE_TIME`].
struct Patient<S> {
    inner: S,
    alarm: Pin<Box<Sleep>>,
    stuck: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Patient<S> {
    fn new(inner: S) -> Patient<S> {
        Patient {
            inner,
            alarm: Box::pin(sleep(WRITE_TIME)),
            stuck: false,
        }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = false;
            return poll;
        }
        if !self.stuck {
            self.stuck = true;
            self.alarm.as_mut().reset(Instant::now() + WRITE_TIME);
        }
        match self.alarm.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{Mutex, mpsc, oneshot};

    use super::*;

    /// More than the kernel takes from a server whose client reads nothing.
    const LARGE: usize = 32 << 20;

    /// For everything; only reached when something is wrong.
    const LIMIT: Duration = Duration::from_secs(60);

    struct Server {
        address: SocketAddr,
        /// What `/stream` sends; dropped, it ends.
        parts: mpsc::UnboundedSender<&'static str>,
        _stop: oneshot::Sender<()>,
    }

    impl Server {
        async fn start(slots: usize) -> Server {
            let (parts, coming) = mpsc::unbounded_channel::<&str>();
            let coming = Arc::new(Mutex::new(coming));
            let stream = move || async move {
                let coming = coming.lock_owned().await;
                Body::from_stream(stream::unfold(coming, |mut coming| async {
                    let part = coming.recv().await?;
                    Some((Ok::<_, io::Error>(part), coming))
                }))
            };
            let router = Router::new()
                .route("/short", get(|| async { "short" }))
                .route("/large", get(|| async { vec![7; LARGE] }))
                .route("/stream", get(stream));
            let any = Listen::Tcp(([127, 0, 0, 1], 0).into());
            let listener = Listener::bind(&any).await.unwrap();
            let Listener::Tcp(_, address) = &listener else {
                panic!()
            };
            let address = *address;
            let (stop, stopped) = oneshot::channel::<()>();
            tokio::spawn(async move {
                let stop = async { drop(stopped.await) };
                let closing = watch::Sender::new(false);
                accept(listener, router, &Slots::new(slots), stop, closing).await;
            });
            Server {
                address,
                parts,
                _stop: stop,
            }
        }

        async fn connect(&self) -> Client {
            Client(TcpStream::connect(self.address).await.unwrap())
        }

        async fn ask(&self, path: &str) -> Client {
            let mut client = self.connect().await;
            client.ask(path).await;
            client
        }
    }

    struct Client(TcpStream);

    impl Client {
        async fn send(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).await.unwrap();
        }

        async fn ask(&mut self, path: &str) {
            self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
                .await;
        }

        /// What comes, up to an end.
        async fn until(&mut self, end: &str) -> String {
            let mut text = Vec::new();
            while !text.ends_with(end.as_bytes()) {
                let byte = tokio::time::timeout(LIMIT, self.0.read_u8()).await;
                text.push(byte.expect("nothing came").unwrap());
            }
            String::from_utf8(text).unwrap()
        }

        /// What comes until the server closes.
        async fn rest(&mut self) -> Vec<u8> {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(LIMIT, self.0.read_to_end(&mut rest)).await;
            read.expect("it is not closed").unwrap();
            rest
        }

        fn has_nothing(&self) -> bool {
            let read = self.0.try_read(&mut [0]);
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        }
    }

    #[tokio::test]
    async fn idle_and_half_sent_ones_make_room_at_once() {
        let server = Server::start(2).await;
        let mut idle = server.ask("/short").await;
        idle.until("short").await;
        let mut half = server.connect().await;
        half.send("GET /short HTTP/1.1\r\nHos").await;
        let mut first = server.ask("/short").await;
        first.until("short").await;
        assert!(idle.rest().await.is_empty());
        assert!(half.has_nothing());
        server.ask("/short").await.until("short").await;
        assert!(half.rest().await.is_empty());
    }

    #[tokio::test]
    async fn an_answer_keeps_its_place_and_gives_it_up_when_it_is_over() {
        let server = Server::start(1).await;
        let mut busy = server.ask("/stream").await;
        busy.until("\r\n\r\n").await;
        let mut newcomer = server.ask("/short").await;
        for part in ["one", "two", "three"] {
            server.parts.send(part).unwrap();
            busy.until(&format!("{part}\r\n")).await;
            assert!(newcomer.has_nothing());
        }
        drop(server.parts);
        assert_eq!(busy.rest().await, b"0\r\n\r\n");
        newcomer.until("short").await;
    }

    /// The last bytes of an answer are not cut off.
    #[tokio::test]
    async fn an_answer_that_is_not_read_keeps_its_place() {
        let server = Server::start(1).await;
        let mut slow = server.ask("/large").await;
        slow.until("\r\n\r\n").await;
        let mut newcomer = server.ask("/short").await;
        assert_eq!(slow.rest().await.len(), LARGE);
        newcomer.until("short").await;
    }
}
