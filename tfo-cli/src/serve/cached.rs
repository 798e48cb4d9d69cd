//! Small files that are in memory already: served where the request is, without another thread.
//!
//! The kernel is asked for what it can tell at once: `openat2(RESOLVE_CACHED)` looks no name up on a disk or
//! on a network, and `preadv2(RWF_NOWAIT)` reads what is in the page cache. Whatever else a path leads to
//! (a symbolic link for one) is left to those who may wait.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::{ReadWriteFlags, preadv2};
use rustix::path::DecInt;

use super::files::{INDEX, Metadata};

/// This process's descriptors, by their numbers: the way from a place to what is there. `None` without `/proc`.
static DESCRIPTORS: LazyLock<Option<OwnedFd>> = LazyLock::new(|| {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/fd", flags, Mode::empty()).ok()
});

const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Paths that are remembered at most.
const REMEMBERED: usize = 1024;

thread_local! {
    /// Paths beneath the root that led to regular files.
    static REGULAR: RefCell<HashSet<PathBuf>> = RefCell::default();
}

/// What is known of a file that can be read, or of a directory with such an index.
pub(super) fn metadata(root: &Dir, path: &Path) -> Option<Metadata> {
    let (place, kind, metadata) = find(root, path, LOOK)?;
    match kind {
        FileType::RegularFile => open(&place).map(|_| metadata),
        FileType::Directory => {
            let (place, kind, index) = find(root, &path.join(INDEX), LOOK)?;
            let readable = kind == FileType::RegularFile && open(&place).is_some();
            readable.then_some(Metadata { is_dir: true, ..index })
        }
        _ => None,
    }
}

/// The whole of a small file, of `most` bytes at most.
pub(super) fn content(root: &Dir, path: &Path, most: usize) -> Option<(Vec<u8>, Metadata)> {
    if REGULAR.with_borrow(|regular| regular.contains(path)) {
        let content = again(root, path, most);
        if content.is_none() {
            REGULAR.with_borrow_mut(|regular| regular.remove(path));
        }
        return content;
    }
    let (place, kind, metadata) = find(root, path, LOOK)?;
    let content = read(kind, &metadata, most, || open(&place))?;
    REGULAR.with_borrow_mut(|regular| {
        if regular.len() >= REMEMBERED {
            regular.clear();
        }
        regular.insert(path.to_owned());
    });
    Some((content, metadata))
}

/// The same, for a path for which there was a [`content`] before: opened to be read without a look before,
/// which is two system calls less. Should it lead to a pipe by now, that is opened once.
pub(super) fn again(root: &Dir, path: &Path, most: usize) -> Option<(Vec<u8>, Metadata)> {
    let (file, kind, metadata) = reach(root, path, READ)?;
    let content = read(kind, &metadata, most, || Some(file))?;
    Some((content, metadata))
}

fn read(
    kind: FileType,
    metadata: &Metadata,
    most: usize,
    file: impl FnOnce() -> Option<OwnedFd>,
) -> Option<Vec<u8>> {
    if kind != FileType::RegularFile {
        return None;
    }
    let length = usize::try_from(metadata.length).ok().filter(|length| *length <= most)?;
    let file = file()?;
    let mut content = vec![0; length];
    if !content.is_empty() {
        let read = preadv2(&file, &mut [IoSliceMut::new(&mut content)], 0, ReadWriteFlags::NOWAIT).ok()?;
        // Not all of it is in memory, or it has just become shorter.
        if read != content.len() {
            return None;
        }
    }
    Some(content)
}

/// Finds what is beneath the root by just these names, none of them a link or hidden.
///
/// To [look](LOOK) opens nothing to be read: that would wake whoever waits to write to a pipe, and closing it
/// again would break it for them.
fn find(root: &Dir, path: &Path, how: OFlags) -> Option<(OwnedFd, FileType, Metadata)> {
    let plain = |part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        Component::CurDir => true,
        _ => false,
    };
    if !path.components().all(plain) {
        return None;
    }
    reach(root, path, how)
}

/// The same for names that are known to be such. No link is followed, whatever they are.
fn reach(root: &Dir, path: &Path, how: OFlags) -> Option<(OwnedFd, FileType, Metadata)> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
    let place = openat2(root, path, how, Mode::empty(), resolve).ok()?;
    // Not through std, whose `statx` does the same for more.
    let known = fstat(&place).ok()?;
    let kind = FileType::from_raw_mode(known.st_mode);
    let since = Duration::new(u64::try_from(known.st_mtime).ok()?, u32::try_from(known.st_mtime_nsec).ok()?);
    let modified = SystemTime::UNIX_EPOCH.checked_add(since);
    let length = u64::try_from(known.st_size).ok()?;
    Some((place, kind, Metadata::new(kind == FileType::Directory, modified, length)))
}

/// Opens to read what was found to be a regular file: this very one, whatever its name leads to by now.
fn open(place: &OwnedFd) -> Option<OwnedFd> {
    let descriptors = DESCRIPTORS.as_ref()?;
    openat(descriptors, DecInt::from_fd(place), READ, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn what_is_in_memory_is_found_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        fs::write(at("index.html"), "index").unwrap();
        fs::write(at("dir/index.html"), "").unwrap();
        fs::write(at(".hidden"), "secret").unwrap();
        fs::write(at("large"), vec![0; 65_537]).unwrap();
        symlink("index.html", at("link")).unwrap();
        fs::create_dir_all(at("deep/index.html")).unwrap();
        let root = Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap();
        let found = |name: &str| content(&root, Path::new(name), 65_536).map(|(content, _)| content);
        assert_eq!(found("index.html").unwrap(), b"index");
        // Again, and as `ServeDir` writes it.
        assert_eq!(found("index.html").unwrap(), b"index");
        assert_eq!(found("./index.html").unwrap(), b"index");
        assert_eq!(found("dir/index.html").unwrap(), b"");
        for name in ["", ".hidden", "large", "link", "dir", "nothing", "../x", "/etc/passwd"] {
            assert!(found(name).is_none(), "{name}");
        }
        let is_dir = |name: &str| metadata(&root, Path::new(name)).map(|metadata| metadata.is_dir);
        assert_eq!(["", "dir", "index.html", "large"].map(is_dir), [true, true, false, false].map(Some));
        assert_eq!(["empty", "deep", "link", ".hidden", "nothing"].map(is_dir), [None; 5]);
        // What has taken its place is found, and nothing of what it was.
        fs::remove_file(at("index.html")).unwrap();
        symlink("large", at("index.html")).unwrap();
        assert!(found("index.html").is_none());
        fs::remove_file(at("index.html")).unwrap();
        fs::create_dir(at("index.html")).unwrap();
        assert!(found("index.html").is_none());
        fs::remove_dir(at("index.html")).unwrap();
        fs::write(at("index.html"), "anew").unwrap();
        assert_eq!(found("index.html").unwrap(), b"anew");
    }
}
