use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use super::controller::Record;
use super::key::Path;

/// Where records are kept. Two methods to write; [`MemoryStore`], [`NullStore`] and
/// `FileStore` (feature `path-file`) are there.
///
/// # Permitted errors
///
/// A store may lose any record at any time, and may give back an older one: the path is then learnt
/// again, at the cost of a slow request, and its cookie is not lost. It must not give one
/// path's record for another, must not block on input or output (it is called under a lock, from
/// async code), and must bound itself: records are put for every path that was ever asked for.
pub trait PathStore: Send {
    /// The record of a path.
    fn get(&mut self, path: &Path) -> Option<Record>;

    /// Keeps the record of a path in place of an older one.
    fn put(&mut self, path: &Path, record: Record);

    /// All records that are kept, for [`PathMemory::snapshot`](super::PathMemory::snapshot). By
    /// default none.
    fn list(&self) -> Vec<(Path, Record)> {
        Vec::new()
    }

    /// Forgets all records, if it can. [`PathMemory::forget`](super::PathMemory::forget) does not
    /// rely on it: it also ignores all records that were put before.
    fn clear(&mut self) {}
}

/// Keeps nothing: every path is Unknown at every request, and nothing is ever held against it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NullStore;

/// The default: in memory, bounded.
///
/// Paths are kept in 64 shelves, chosen by a keyed hash of the remote /24 (IPv4) or /48 (IPv6).
/// Whoever has many addresses in one prefix can push out the records of one shelf, not the others.
/// A full shelf gives up the record that was reported on longest ago.
pub struct MemoryStore {
    shelves: Vec<HashMap<Path, Record>>,
    /// Paths on one shelf.
    depth: usize,
    hasher: RandomState,
}

const SHELVES: usize = 64;

/// Paths that a [`MemoryStore`] keeps by default; about 3 MB if they are all there.
const CAPACITY: usize = 8192;

impl MemoryStore {
    /// For `capacity` paths, rounded up to a multiple of 64. Default 8,192.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            shelves: vec![HashMap::new(); SHELVES],
            depth: capacity.div_ceil(SHELVES).max(1),
            hasher: RandomState::new(),
        }
    }

    /// How many paths are kept.
    pub fn len(&self) -> usize {
        self.shelves.iter().map(HashMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shelf(&mut self, path: &Path) -> &mut HashMap<Path, Record> {
        let at = self.hasher.hash_one(path.prefix()) as usize % SHELVES;
        &mut self.shelves[at]
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl PathStore for MemoryStore {
    fn get(&mut self, path: &Path) -> Option<Record> {
        self.shelf(path).get(path).copied()
    }

    fn put(&mut self, path: &Path, record: Record) {
        let depth = self.depth;
        let shelf = self.shelf(path);
        if let Some(kept) = shelf.get_mut(path) {
            *kept = record;
            return;
        }
        if shelf.len() >= depth {
            // A shelf is short: looking at all of it costs less than keeping it in order.
            let oldest = shelf.iter().min_by_key(|(_, record)| (record.touched, record.written));
            if let Some(oldest) = oldest.map(|(path, _)| *path) {
                shelf.remove(&oldest);
            }
        }
        shelf.insert(*path, record);
    }

    fn list(&self) -> Vec<(Path, Record)> {
        self.shelves.iter().flatten().map(|(path, record)| (*path, *record)).collect()
    }

    fn clear(&mut self) {
        self.shelves.iter_mut().for_each(HashMap::clear);
    }
}

impl PathStore for NullStore {
    fn get(&mut self, _: &Path) -> Option<Record> {
        None
    }

    fn put(&mut self, _: &Path, _: Record) {}
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("len", &self.len())
            .field("capacity", &(self.depth * SHELVES))
            .finish_non_exhaustive()
    }
}
