//! Small files that are in memory already: served where the request is, without another thread.
//!
//! The kernel is asked for what it can tell at once: `openat2(RESOLVE_CACHED)` looks no name up on a disk or
//! on a network, and `preadv2(RWF_NOWAIT)` reads what is in the page cache. Whatever else a path leads to
//! (a symbolic link for one) is left to those who may wait.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Cursor, IoSliceMut};
use std::path::{Component, Path, PathBuf};

use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, preadv2};

use super::files::{INDEX, Metadata};

/// Larger files are read in parts.
const SMALL: u64 = 64 * 1024;

thread_local! {
    /// What was looked at last. A request looks first, and then reads, without a pause between: it need not
    /// open the file twice. Looking again takes its place, so it never is another request's.
    static LOOKED_AT: RefCell<Option<(PathBuf, File, std::fs::Metadata)>> = const { RefCell::new(None) };
}

/// What is known of a file, or of a directory with an index.
pub(super) fn metadata(root: &Dir, path: &Path) -> Option<Metadata> {
    LOOKED_AT.take();
    let file = open(root, path)?;
    let metadata = file.metadata().ok()?;
    if metadata.is_file() {
        let told = Metadata::of(&metadata);
        LOOKED_AT.replace(Some((path.to_owned(), file, metadata)));
        return Some(told);
    }
    let path = metadata.is_dir().then(|| path.join(INDEX))?;
    let index = open(root, &path)?;
    let metadata = index.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let told = Metadata { is_dir: true, ..Metadata::of(&metadata) };
    LOOKED_AT.replace(Some((path, index, metadata)));
    Some(told)
}

/// The whole of a small file.
pub(super) fn content(root: &Dir, path: &Path) -> Option<(Cursor<Vec<u8>>, Metadata)> {
    let (file, metadata) = match LOOKED_AT.take() {
        Some((looked_at, file, metadata)) if looked_at == path => (file, metadata),
        _ => {
            let file = open(root, path)?;
            let metadata = file.metadata().ok()?;
            (file, metadata)
        }
    };
    if !metadata.is_file() || metadata.len() > SMALL {
        return None;
    }
    let mut content = vec![0; usize::try_from(metadata.len()).ok()?];
    if !content.is_empty() {
        let read = preadv2(&file, &mut [IoSliceMut::new(&mut content)], 0, ReadWriteFlags::NOWAIT).ok()?;
        // Not all of it is in memory, or it has just become shorter.
        if read != content.len() {
            return None;
        }
    }
    Some((Cursor::new(content), Metadata::of(&metadata)))
}

/// Opens what is beneath the root by just these names, none of them a link or hidden.
fn open(root: &Dir, path: &Path) -> Option<File> {
    let plain = |part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        Component::CurDir => true,
        _ => false,
    };
    if !path.components().all(plain) {
        return None;
    }
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
    openat2(root, path, flags, Mode::empty(), resolve).ok().map(File::from)
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
        let root = Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap();
        let found = |name: &str| content(&root, Path::new(name)).map(|(content, _)| content.into_inner());
        assert_eq!(found("index.html").unwrap(), b"index");
        // As `ServeDir` writes it.
        assert_eq!(found("./index.html").unwrap(), b"index");
        assert_eq!(found("dir/index.html").unwrap(), b"");
        for name in ["", ".hidden", "large", "link", "dir", "nothing", "../x", "/etc/passwd"] {
            assert!(found(name).is_none(), "{name}");
        }
        // What has taken its place is found, whatever was looked at before.
        assert!(metadata(&root, Path::new("index.html")).is_some());
        fs::rename(at("index.html"), at("old")).unwrap();
        fs::write(at("index.html"), "new").unwrap();
        assert!(metadata(&root, Path::new("index.html")).is_some());
        assert_eq!(found("index.html").unwrap(), b"new");
        let is_dir = |name: &str| metadata(&root, Path::new(name)).map(|metadata| metadata.is_dir);
        assert_eq!(["", "dir", "index.html", "large"].map(is_dir), [true, true, false, false].map(Some));
        assert_eq!(["empty", "link", ".hidden", "nothing"].map(is_dir), [None; 4]);
    }
}
