//! Where the results go: standard output, or a file in its place.

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::pin::Pin;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::failure::{Code, Failure};

/// Something to write to, with a name for its errors.
pub(crate) struct Output {
    name: String,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    /// A file that still has what it had before.
    stale: Option<std::fs::File>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self { name: "standard output".to_owned(), writer: Box::pin(tokio::io::stdout()), stale: None }
    }

    /// A file. Whether it can be written is known now; what it had is lost with the first answer.
    pub(crate) fn file(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |error| Failure::because(Code::Write, format_args!("cannot write {name}"), &error);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let stale = Some(file.try_clone().map_err(failed)?);
        Ok(Self { name, writer: Box::pin(tokio::fs::File::from_std(file)), stale })
    }

    /// An answer begins: what a file had before is gone.
    pub(crate) fn begin(&mut self) {
        if let Some(file) = self.stale.take() {
            // Pipes and devices have nothing to lose, and refuse.
            let _ = file.set_len(0);
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).await.map_err(|error| Failure::output(&self.name, &error))
    }

    /// After each answer: a later failure must not take back what was said.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().await.map_err(|error| Failure::output(&self.name, &error))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("name", &self.name).finish_non_exhaustive()
    }
}
