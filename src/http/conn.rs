//! Connections: how many, how patient, and how they end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::HttpError;
use crate::config::Listen;

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 512;

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

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // Events are small and must not wait for more.
                let _ = stream.set_nodelay(true);
                Ok(Stream(Box::pin(Patient::new(stream))))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Stream(Box::pin(Patient::new(stream))))
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
    stop: impl Future<Output = ()>,
    closing: watch::Sender<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let place = tokio::select! {
            () = &mut stop => break,
            // Never closed.
            Ok(place) = Arc::clone(&places).acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = &mut stop => break,
            stream = listener.accept() => stream,
        };
        while connections.try_join_next().is_some() {}
        match stream {
            Ok(stream) => {
                let connection = answer(stream, router.clone(), closing.subscribe());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
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

async fn answer(stream: Stream, router: Router, mut closing: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        // The buffer alone lets twice as much in, where it comes at once.
        .max_header_size(HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
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

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

struct Stream(Pin<Box<dyn Duplex>>);

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
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
