//! Instructions per operation, counted by valgrind, and the gate that compares them with committed
//! numbers. They do not depend on how busy the machine is.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::ops::Op;

/// The argument that makes a program run one operation, and nothing else.
pub const ROLE: &str = "run-operation";
/// Two lengths of a run: what they differ by is the operations alone.
const TIMES: [u32; 2] = [100, 1100];
/// More than this above the committed number is a failure.
const TOLERANCE: f64 = 0.05;

/// The numbers that are committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the file's own fields")]
pub struct Committed {
    /// The compiler that they were counted with; another may count otherwise.
    pub rustc: String,
    /// Instructions per operation, by its name.
    pub instructions: BTreeMap<String, f64>,
}

/// Runs the operation that a command line names, if it is one for [`count`].
///
/// Both programs that count call this first in `main`.
pub fn run_if_asked() -> bool {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(ROLE) {
        return false;
    }
    let op = args.next().and_then(|name| Op::of(&name));
    let times = args.next().and_then(|times| times.parse().ok());
    if let (Some(op), Some(times)) = (op, times) {
        op.run(times);
    }
    true
}

/// Counts the instructions of one operation: `program` is run under callgrind, a few times and many times.
///
/// Where the stack begins depends on the environment and on the arguments, and with it what copying costs: of
/// four ways to lie in a cache line the cheapest counts.
///
/// # Errors
/// If valgrind is not there, or fails.
pub fn count(program: &Path, op: Op) -> Result<f64, String> {
    let cheapest = |times| {
        let all: Result<Vec<_>, _> = (0..4).map(|way| collected(program, op, times, way)).collect();
        all.map(|all| all.into_iter().min().unwrap_or_default())
    };
    let [few, many] = [cheapest(TIMES[0])?, cheapest(TIMES[1])?];
    Ok((many as f64 - few as f64) / f64::from(TIMES[1] - TIMES[0]))
}

fn collected(program: &Path, op: Op, times: u32, way: usize) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .env("WAY", "=".repeat(16 * way))
        // The C library copies by what the processor has; here by what all of them have.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX2_Usable,-AVX,-ERMS,-FSRM",
        )
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([ROLE, op.name(), &times.to_string()])
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "valgrind is not installed (try: apt-get install valgrind)".to_owned(),
            _ => format!("valgrind does not start: {error}"),
        })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("valgrind counted nothing: {}: {}", output.status, said.trim()))
}

/// One operation, against its committed number.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// The operation.
    pub op: Op,
    /// What was counted now.
    pub counted: f64,
    /// What is committed; `None` if nothing is.
    pub committed: Option<f64>,
}

impl Comparison {
    /// Compares a count with the committed number.
    pub fn new(op: Op, counted: f64, committed: &Committed) -> Self {
        Self { op, counted, committed: committed.instructions.get(op.name()).copied() }
    }

    /// Whether it costs no more than 5 % above what is committed.
    pub fn holds(&self) -> bool {
        self.committed.is_some_and(|committed| self.counted <= committed * (1.0 + TOLERANCE))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20} {:>9.1} instructions", self.op.name(), self.counted)?;
        match self.committed {
            None => f.write_str(", and no number is committed"),
            Some(committed) => {
                let change = (self.counted / committed - 1.0) * 100.0;
                write!(f, ", committed {committed:.1}: {change:+.1} %")?;
                if self.holds() { Ok(()) } else { f.write_str(", more than 5 % above") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_more_fails() {
        let committed = Committed {
            rustc: String::new(),
            instructions: BTreeMap::from([("ask_path".to_owned(), 100.0)]),
        };
        for (counted, holds) in [(60.0, true), (100.0, true), (105.0, true), (105.1, false), (200.0, false)] {
            assert_eq!(Comparison::new(Op::AskPath, counted, &committed).holds(), holds, "{counted}");
        }
        assert!(!Comparison::new(Op::DeriveKeys, 1.0, &committed).holds(), "nothing is committed");
    }
}
