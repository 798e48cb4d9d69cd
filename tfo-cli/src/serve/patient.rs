//! A stream that does not wait for ever for a reader.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails if what is written makes no progress at all for so long: whoever never reads its answer must
/// not hold its place. Nor must one who says nothing at all.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Runs until the protocol is known.
    beginning: Option<(Pin<Box<Sleep>>, usize)>,
}

/// As many bytes tell HTTP/2 from HTTP/1.
const PREFACE: usize = 24;

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, beginning: None }
    }

    /// Fails as well if the first bytes, which tell the protocol, take longer.
    pub(super) fn beginning_within(mut self, patience: Duration) -> Self {
        self.beginning = Some((Box::pin(sleep(patience)), 0));
        self
    }

    fn limited<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        waiting.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some((deadline, seen)) = &mut self.beginning else { return poll };
        *seen += buffer.filled().len() - before;
        if *seen >= PREFACE {
            self.beginning = None;
        } else if poll.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, data);
        self.limited(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.limited(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn who_says_nothing_is_given_up_and_who_has_begun_is_not() {
        for said in [0, 23, 24] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut patient = Patient::new(near, PATIENCE).beginning_within(PATIENCE);
            far.write_all(&vec![0; said]).await.unwrap();
            patient.read_exact(&mut vec![0; said]).await.unwrap();
            let more = tokio::time::timeout(PATIENCE * 3, patient.read_u8()).await;
            assert_eq!(more.is_ok(), said < 24, "{said}");
            assert!(more.is_err() || more.unwrap().unwrap_err().kind() == io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn who_never_reads_is_given_up_and_who_reads_slowly_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut patient = Patient::new(near, PATIENCE);
        let slow = tokio::spawn(async move {
            let mut part = [0; 16];
            for _ in 0..5 {
                sleep(PATIENCE / 4).await;
                far.read_exact(&mut part).await.unwrap();
            }
            far
        });
        // Longer than the patience as a whole, with progress all the time.
        patient.write_all(&[0; 96]).await.unwrap();
        let far = slow.await.unwrap();
        let error = patient.write_all(&[0; 96]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
