//! The result file: what was measured, on what, when, and by which command.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::stats::Figure;

/// The schema that result files keep to.
pub const SCHEMA: &str = include_str!("../results.schema.json");

/// A run, as it is in `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the result file's own fields")]
pub struct Results {
    /// The version of the file's form.
    pub version: u32,
    /// When the run began, UTC.
    pub date: String,
    /// What was typed.
    pub command: String,
    /// How long the run took, seconds.
    pub seconds: f64,
    /// What it ran on.
    pub machine: Machine,
    /// The load average of the last minute, at the begin and at the end.
    pub load: [f64; 2],
    /// The versions of the programs beside us; those that are not installed are not here.
    pub peers: BTreeMap<String, String>,
    /// Every figure, and every one that could not be had.
    pub entries: Vec<Entry>,
}

/// What a run ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the result file's own fields")]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The system's name and kernel.
    pub kernel: String,
    /// The commit that was measured, with `+` if files differ from it.
    pub revision: String,
    /// The compiler.
    pub rustc: String,
}

/// One thing that was to be measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the result file's own fields")]
pub struct Entry {
    /// The set that it belongs to.
    pub set: Set,
    /// What is measured within the set: `client CPU`, say.
    pub what: String,
    /// The conditions, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub case: BTreeMap<String, String>,
    /// Who was measured.
    pub subject: String,
    /// What the figure counts.
    pub unit: String,
    /// The figure.
    pub value: Figure,
    /// The medians of the ratios to others that were measured beside it, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub ratio_to: BTreeMap<String, Figure>,
}

/// What can be measured, set by set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "matched by the pages of this crate only")]
pub enum Set {
    /// How long a request on a new connection takes, by round-trip time.
    RequestLatency,
    /// CPU time and system calls of a connection.
    ConnectionCost,
    /// What paths that mistreat TCP Fast Open cost.
    Hostile,
    /// What clients notice of restarts.
    Restart,
    /// Bytes for what is idle or remembered.
    Memory,
    /// Single operations.
    Micro,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestLatency => "request_latency",
            Self::ConnectionCost => "connection_cost",
            Self::Hostile => "hostile",
            Self::Restart => "restart",
            Self::Memory => "memory",
            Self::Micro => "micro",
        })
    }
}

impl Results {
    /// The form that this program writes.
    pub const VERSION: u32 = 1;

    /// The entries of a set that measure one thing.
    pub fn of<'a>(&'a self, set: Set, what: &'a str) -> impl Iterator<Item = &'a Entry> + 'a {
        self.entries.iter().filter(move |entry| entry.set == set && entry.what == what)
    }

    /// What is measured within a set, in the order of the file.
    pub fn whats(&self, set: Set) -> Vec<&str> {
        let mut whats = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.set == set) {
            if !whats.contains(&entry.what.as_str()) {
                whats.push(&entry.what);
            }
        }
        whats
    }
}

impl Entry {
    /// An entry without conditions and ratios.
    pub fn new(set: Set, what: &str, subject: &str, unit: &str, value: Figure) -> Self {
        Self {
            set,
            what: what.to_owned(),
            case: BTreeMap::new(),
            subject: subject.to_owned(),
            unit: unit.to_owned(),
            value,
            ratio_to: BTreeMap::new(),
        }
    }

    /// Adds a condition.
    #[must_use]
    pub fn case(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.case.insert(name.to_owned(), value.to_string());
        self
    }

    /// Adds a ratio.
    #[must_use]
    pub fn ratio(mut self, to: &str, ratio: Figure) -> Self {
        self.ratio_to.insert(to.to_owned(), ratio);
        self
    }

    /// A condition, or nothing.
    pub fn at(&self, name: &str) -> &str {
        self.case.get(name).map_or("", String::as_str)
    }
}
