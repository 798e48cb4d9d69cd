//! The files: what may be asked for, and how they are reached.
//!
//! `ServeDir` makes the answers (types, ranges, conditions). Every path is opened *beneath* the root by
//! `cap-std`, which on Linux is `openat2` with `RESOLVE_BENEATH`: no `..`, symbolic link or exchange of
//! directories while the request is under way leads out. Symbolic links are resolved first, and what
//! they lead to is then opened name by name without following any: a link to a dot file is no way to it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _, OpenOptionsSyncExt as _};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use http::header::{CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{Either, Empty, Full};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tower_http::services::ServeDir;
use tower_http::services::fs::{DefaultServeDirFallback, ServeFileSystemResponseBody};
use tower_service::Service as _;

#[cfg(target_os = "linux")]
use super::{cached, direct};
use crate::failure::{Code, Failure};

pub(super) const INDEX: &str = "index.html";
/// HTTP has dates from 1970 until here; `ServeDir` panics at others.
pub(super) const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// How much of a file an answer has in memory, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// A file up to this is read at once.
    pub(super) whole: usize,
    /// A larger one in such parts: there is one on its way from the disk, one that waits, and one in HTTP/2's hands.
    part: usize,
}

/// What the answers of a connection may have in memory while their client takes nothing, until the server's write
/// timeout, 30 s.
///
/// With HTTP/1 there is one answer at a time, of which hyper takes 64 KiB beforehand. With HTTP/2 there are as many
/// as streams, 128: 24 KiB each, 3 MiB a connection.
pub(super) const fn held(version: Version) -> Held {
    match version {
        Version::HTTP_2 => Held { whole: 16 * 1024, part: 8 * 1024 },
        _ => Held { whole: 64 * 1024, part: 64 * 1024 },
    }
}

/// The files beneath one directory.
#[derive(Debug)]
pub(super) struct Files {
    root: Arc<Dir>,
    /// How many of them may be open.
    room: Arc<Semaphore>,
}

impl Files {
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        let name = root.display();
        if root.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Failure::new(Code::General, format!("{name} is not a directory (--root)")));
        }
        let root = Dir::open_ambient_dir(root, ambient_authority()).map_err(|error| {
            Failure::because(Code::General, format_args!("cannot open the directory {name} (--root)"), &error)
        })?;
        // To open it proves nothing of what is in it. Where a link leads is another matter.
        if let Err(error) = root.symlink_metadata(INDEX)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            let says = format_args!("cannot look into the directory {name} (--root)");
            return Err(Failure::because(Code::General, says, &error));
        }
        Ok(Self { root: Arc::new(root), room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) })
    }

    /// The same, with so many open at a time: who asks for one more is answered with 500, at once, as when there are
    /// no descriptors left. What was in memory does not count.
    pub(super) fn at_most(mut self, files: usize) -> Self {
        self.room = Arc::new(Semaphore::new(files.min(Semaphore::MAX_PERMITS)));
        self
    }

    pub(super) fn answer<B>(&self, request: Request<B>) -> Answer {
        #[cfg(target_os = "linux")]
        if let Some(response) = direct::answer(&self.root, &request) {
            return Answer::Now(Some(response.map(Body::Right)));
        }
        if !may_be_asked_for(request.uri().path()) {
            return Answer::Now(Some(not_found()));
        }
        Answer::Later(Box::pin(self.ask_serve_dir(request.map(|_| Empty::new()))))
    }

    pub(super) fn ask_serve_dir(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let Held { whole, part } = held(request.version());
        let beneath = Beneath { root: Arc::clone(&self.root), room: Arc::clone(&self.room), whole };
        // Whoever asks for several ranges at once gets everything, as RFC 9110 14.2 allows.
        let serve_dir = ServeDir::with_backend("", beneath).ignore_multi_range_requests(true);
        let found = found(serve_dir.with_buf_chunk_size(part), request);
        async move {
            let response = found.await?;
            match response.status() {
                StatusCode::NOT_FOUND => Ok(not_found()),
                _ => Ok(response.map(Body::Left)),
            }
        }
    }
}

/// An answer that is there already, or one that somebody has to be waited for.
pub(super) enum Answer {
    Now(Option<Response<Body>>),
    Later(Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>),
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            // Not polled again when it was ready.
            Self::Now(response) => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Self::Later(answer) => answer.as_mut().poll(cx),
        }
    }
}

/// The same for what is not there and what is not shown.
fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::Right(Full::from("not found\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// RFC 9110 13.1.5: a range is of use only to whom has the rest of this very file. `ServeDir` does
/// not know `If-Range`, so the answer, which tells of the file that was opened, is held against it.
async fn found(
    mut files: ServeDir<DefaultServeDirFallback, Beneath>,
    mut request: Request<Empty<Bytes>>,
) -> Result<Response<ServeFileSystemResponseBody>, Infallible> {
    let Some(condition) = request.headers_mut().remove(IF_RANGE) else {
        return files.call(request).await;
    };
    let response = files.call(request.clone()).await?;
    let ranged =
        [StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE].contains(&response.status());
    if !ranged || unchanged(&condition, response.headers()) {
        return Ok(response);
    }
    request.headers_mut().remove(RANGE);
    files.call(request).await
}

/// Whether an `If-Range` names just this file: its entity tag, a strong one, or its time. A tag is told
/// from a time by its quotes, so neither can be taken for the other.
fn unchanged(condition: &HeaderValue, headers: &HeaderMap) -> bool {
    let strong = !condition.as_bytes().starts_with(b"W/");
    strong && [ETAG, LAST_MODIFIED].iter().any(|name| headers.get(name) == Some(condition))
}

pub(super) type Body = Either<ServeFileSystemResponseBody, Full<Bytes>>;

/// Whether a path of a URL can name a file that is served: plain segments, none of them empty or
/// beginning with a dot.
pub(super) fn may_be_asked_for(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let Ok(name) = percent_decode_str(segment).decode_utf8() else { return false };
        let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        // `//host` would be another host's name in a redirect.
        if !plain || name.is_empty() && !last {
            return false;
        }
    }
    true
}

/// Opens what lies beneath the root, and nothing else.
#[derive(Clone, Debug)]
struct Beneath {
    root: Arc<Dir>,
    room: Arc<Semaphore>,
    /// A file up to this may be [held](Held) as a whole.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "nothing is asked without waiting there")
    )]
    whole: usize,
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl tower_http::services::fs::Backend for Beneath {
    type File = File;
    type Metadata = Metadata;
    type OpenFuture = Opening<File>;
    type MetadataFuture = Opening<Metadata>;

    fn open(&self, path: PathBuf) -> Opening<File> {
        #[cfg(target_os = "linux")]
        if let Some((content, metadata)) = cached::content(&self.root, &path, self.whole) {
            let file = Content::Memory(io::Cursor::new(content));
            return Box::pin(std::future::ready(Ok(File { file, metadata, position: 0 })));
        }
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            return Box::pin(std::future::ready(Err(io::Error::other("too many files are open"))));
        };
        self.blocking(move |root| {
            let file = open(root, &path)?.into_std();
            let metadata = Metadata::of(&file.metadata()?);
            let file = Content::Disk(tokio::fs::File::from_std(file), place);
            Ok(File { file, metadata, position: 0 })
        })
    }

    fn metadata(&self, path: PathBuf) -> Opening<Metadata> {
        #[cfg(target_os = "linux")]
        if let Some(metadata) = cached::metadata(&self.root, &path) {
            return Box::pin(std::future::ready(Ok(metadata)));
        }
        self.blocking(move |root| {
            let is_dir = root.metadata(&path)?.is_dir();
            let file = if is_dir { path.join(INDEX) } else { path.clone() };
            // A directory that is reached through a hidden one is hidden, whatever its index is.
            shown(root, &path)?;
            let metadata = open(root, &file)?.into_std().metadata()?;
            Ok(Metadata { is_dir, ..Metadata::of(&metadata) })
        })
    }
}

/// Opens a regular file that is not hidden, wherever links lead on the way to it.
fn open(root: &Dir, path: &Path) -> io::Result<cap_std::fs::File> {
    // Opening a device can do something to it.
    if !root.metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = shown(root, path)?;
    let (mut directory, mut names) = (root.try_clone()?, path.iter().peekable());
    while let Some(name) = names.next() {
        if names.peek().is_some() {
            directory = directory.open_dir_nofollow(name)?;
            continue;
        }
        // What has taken the file's place meanwhile may be a pipe: opening that would wait for its writer.
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = directory.open_with(name, &options)?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Where a path leads when all links are resolved, if nothing of that is hidden.
fn shown(root: &Dir, path: &Path) -> io::Result<PathBuf> {
    let path = root.canonicalize(path)?;
    let plain = |part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        Component::CurDir => true,
        _ => false,
    };
    if path.components().all(plain) { Ok(path) } else { Err(io::ErrorKind::NotFound.into()) }
}

impl Beneath {
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dir) -> io::Result<T> + Send + 'static,
    ) -> Opening<T> {
        let root = Arc::clone(&self.root);
        let done = spawn_blocking(move || work(&root));
        Box::pin(async move { done.await?.map_err(hidden) })
    }
}

/// Whatever is wrong with a path, a client learns that there is nothing; not so if this server has
/// run out of something.
fn hidden(error: io::Error) -> io::Error {
    #[cfg(unix)]
    let ours = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO));
    #[cfg(not(unix))]
    let ours = error.kind() == io::ErrorKind::OutOfMemory;
    if ours { error } else { io::ErrorKind::NotFound.into() }
}

/// An open file, as long as it was when it was opened: that length is announced.
#[derive(Debug)]
struct File {
    file: Content,
    metadata: Metadata,
    position: u64,
}

#[derive(Debug)]
enum Content {
    /// A small file that was in memory anyway.
    Memory(io::Cursor<Vec<u8>>),
    Disk(tokio::fs::File, #[expect(dead_code, reason = "given back with it")] OwnedSemaphorePermit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) is_dir: bool,
    /// If HTTP has a date for it.
    pub(super) modified: Option<SystemTime>,
    pub(super) length: u64,
}

impl Metadata {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self::new(metadata.is_dir(), metadata.modified().ok(), metadata.len())
    }

    pub(super) fn new(is_dir: bool, modified: Option<SystemTime>, length: u64) -> Self {
        let has_date = |time: &SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < YEAR_10000)
        };
        Self { is_dir, modified: modified.filter(has_date), length }
    }
}

impl tower_http::services::fs::Metadata for Metadata {
    fn is_dir(&self) -> bool {
        self.is_dir
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.modified.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> u64 {
        self.length
    }
}

impl tower_http::services::fs::File for File {
    type Metadata = Metadata;
    type MetadataFuture<'a> = std::future::Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        std::future::ready(Ok(self.metadata))
    }
}

impl AsyncRead for File {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.metadata.length.saturating_sub(this.position);
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        // The end is known: nobody has to look for it.
        if left == 0 || room == 0 {
            return Poll::Ready(Ok(()));
        }
        match &mut this.file {
            Content::Memory(content) => ready!(Pin::new(content).poll_read(cx, buffer))?,
            Content::Disk(file, _) => ready!(Pin::new(file).poll_read(cx, buffer))?,
        }
        let read = buffer.filled().len() - before;
        if read == 0 {
            // It has become shorter. The end of a body would say that this is all of it.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        // What it has grown by was not announced.
        let read = usize::try_from(left).map_or(read, |left| read.min(left));
        buffer.set_filled(before + read);
        this.position += read as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        match &mut self.file {
            Content::Memory(content) => Pin::new(content).start_seek(position),
            Content::Disk(file, _) => Pin::new(file).start_seek(position),
        }
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        this.position = match &mut this.file {
            Content::Memory(content) => ready!(Pin::new(content).poll_complete(cx))?,
            Content::Disk(file, _) => ready!(Pin::new(file).poll_complete(cx))?,
        };
        Poll::Ready(Ok(this.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_only() {
        for good in ["/", "/a", "/a/", "/a/b.txt", "/a%20b", "/%C3%A4", "/a..b", "/a./b"] {
            assert!(may_be_asked_for(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/../a",
            "/a/../b",
            "/a/.git/b",
            "/.env",
            "/%2e%2e/a",
            "/%2E%2e%2fa",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00b",
            "/%00",
            "/%ff",
            "/a/%2e",
            "/%2f",
            "/%2fetc/passwd",
            "/.well-known/x",
        ] {
            assert!(!may_be_asked_for(bad), "{bad}");
        }
    }
}
