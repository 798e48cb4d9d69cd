//! A file that is looked at again and again.
//!
//! It is read, not watched by inotify: that sees no change behind a symlink that leads through
//! another directory, as those of mounted secrets do, none on network file systems, and loses a file
//! that is replaced. A file of a hundred bytes is read within microseconds.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::error::{KeyError, KeyErrorKind};

/// More than keys or a secret need.
const LIMIT: usize = 4096;

/// A file, and what was seen of it.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    /// What was acted upon.
    settled: Sight,
    /// What was seen once.
    seen: Option<Sight>,
}

/// What there was to see, without the content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    Content([u8; 32]),
    Failure(KeyErrorKind, Option<io::ErrorKind>),
}

pub(super) type Content = Zeroizing<Vec<u8>>;

/// What has become of the file.
#[derive(Debug)]
pub(super) enum Look {
    Same,
    /// It is another, and may still be written: to be looked at again soon.
    Unsettled,
    Changed(Result<Content, KeyError>),
}

impl WatchedFile {
    /// Reads it.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Content), KeyError> {
        let content = read(&path)?;
        let settled = Sight::of(&Ok(&content));
        Ok((Self { path, settled, seen: None }, content))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it, whatever was seen before.
    pub(super) fn read(&mut self) -> Result<Content, KeyError> {
        let read = read(&self.path);
        self.settled = Sight::of(&read.as_ref());
        self.seen = None;
        read
    }

    /// A change counts when it has been seen twice, so that a file that is written in pieces is not
    /// taken for a malformed one, or for a shorter one.
    pub(super) fn look(&mut self) -> Look {
        let read = read(&self.path);
        let sight = Sight::of(&read.as_ref());
        if sight == self.settled {
            self.seen = None;
            Look::Same
        } else if self.seen.as_ref() == Some(&sight) {
            self.settled = sight;
            self.seen = None;
            Look::Changed(read)
        } else {
            self.seen = Some(sight);
            Look::Unsettled
        }
    }
}

impl Sight {
    fn of(read: &Result<&Content, &KeyError>) -> Self {
        match read {
            Ok(content) => Self::Content(Sha256::digest(content.as_slice()).into()),
            Err(error) => Self::Failure(error.kind(), error.io_error().map(io::Error::kind)),
        }
    }
}

fn read(path: &Path) -> Result<Content, KeyError> {
    read_within_limit(path).map_err(|error| error.of_file(path))
}

fn read_within_limit(path: &Path) -> Result<Content, KeyError> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(KeyError::unreadable)?.is_file() {
        return Err(KeyError::new(KeyErrorKind::NotAFile));
    }
    let mut file = File::open(path).map_err(KeyError::unreadable)?;
    let mut content = Zeroizing::new(vec![0; LIMIT + 1]);
    let mut length = 0;
    while length <= LIMIT {
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeyError::unreadable(error)),
        }
    }
    if length > LIMIT {
        return Err(KeyError::new(KeyErrorKind::TooLong));
    }
    content.truncate(length);
    Ok(content)
}

/// A secret's bytes: all of them, but for white space around a text, such as the newline that editors
/// and shells add.
pub(super) fn secret(content: &[u8]) -> &[u8] {
    let text = content.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if text { content.trim_ascii() } else { content }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(look: Look) -> Option<Vec<u8>> {
        match look {
            Look::Changed(Ok(content)) => Some(content.to_vec()),
            _ => None,
        }
    }

    #[test]
    fn a_change_counts_when_it_is_seen_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, "one").unwrap();
        let (mut file, content) = WatchedFile::open(path.clone()).unwrap();
        assert_eq!(content.as_slice(), b"one");
        assert!(matches!(file.look(), Look::Same));
        for piece in ["t", "tw", "two"] {
            fs::write(&path, piece).unwrap();
            assert!(matches!(file.look(), Look::Unsettled), "{piece}");
        }
        assert_eq!(changed(file.look()).unwrap(), b"two");
        assert!(matches!(file.look(), Look::Same));
        // Written again with the same content, or back to it in time: nothing has changed.
        fs::write(&path, "three").unwrap();
        assert!(matches!(file.look(), Look::Unsettled));
        fs::write(&path, "two").unwrap();
        assert!(matches!(file.look(), Look::Same));
    }

    #[test]
    fn a_failure_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, "one").unwrap();
        let (mut file, _) = WatchedFile::open(path.clone()).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.look(), Look::Unsettled));
        let Look::Changed(Err(error)) = file.look() else { panic!("it is gone") };
        assert_eq!(error.kind(), KeyErrorKind::Unreadable);
        assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(error.path(), Some(path.as_path()));
        assert!(matches!(file.look(), Look::Same));
        fs::write(&path, "one").unwrap();
        assert!(matches!(file.look(), Look::Unsettled));
        assert_eq!(changed(file.look()).unwrap(), b"one");
    }

    #[test]
    fn what_is_no_file_of_keys_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |path: &Path| WatchedFile::open(path.to_owned()).unwrap_err().kind();
        assert_eq!(kind(dir.path()), KeyErrorKind::NotAFile);
        assert_eq!(kind(&dir.path().join("none")), KeyErrorKind::Unreadable);
        let path = dir.path().join("long");
        fs::write(&path, vec![b'0'; LIMIT]).unwrap();
        assert_eq!(WatchedFile::open(path.clone()).unwrap().1.len(), LIMIT);
        fs::write(&path, vec![b'0'; LIMIT + 1]).unwrap();
        assert_eq!(kind(&path), KeyErrorKind::TooLong);
        #[cfg(unix)]
        assert_eq!(kind(Path::new("/dev/zero")), KeyErrorKind::NotAFile);
    }

    #[test]
    fn white_space_around_a_text_is_not_part_of_the_secret() {
        assert_eq!(secret(b" c2VjcmV0\r\n"), b"c2VjcmV0");
        assert_eq!(secret(b"\x80\n"), b"\x80\n");
        assert_eq!(secret(b" \n"), b"");
    }
}
