//! System calls, counted: "this connection costs exactly these".
//!
//! A test runs its own program again under `strace` and asks what one thread called between two
//! points. The numbers do not depend on the machine's speed, so they can be committed.
//!
//! ```no_run
//! use tfo_lab::syscalls;
//!
//! // in a test named `opening_a_file_costs_two_calls`
//! let trace = syscalls::trace_test("opening_a_file_costs_two_calls", || {
//!     syscalls::section("open", || drop(std::fs::File::open("/dev/null")));
//! });
//! assert_eq!(trace.section("open").unwrap().counts().to_string(), "close 1, openat 1");
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::test::skip;

/// The environment variable that tells a program which of its tests is being traced.
const TRACED: &str = "TFO_LAB_TRACED";

/// A path that does not exist; looking at it leaves a mark in the trace.
const MARK: &str = "/tfo-lab-mark/";

/// The allocator's business: left out of all counts, as is the check that the standard library makes
/// before each `close` in debug builds, so that both kinds of build have the same numbers.
const MEMORY: [&str; 6] = ["brk", "madvise", "mmap", "mprotect", "mremap", "munmap"];

/// Runs the calling test once more, alone and under `strace`, up to and including `work`; then tells
/// what was called.
///
/// `test` is the name by which the test's program knows it. `work` runs in that second process only,
/// which ends behind it. Put [`section`] around what is to be counted, and everything that is not
/// (the first use of a thread-local, a lookup, a warm-up) before it.
///
/// Where there is no `strace`, or it may not trace, the test is [skipped](crate::test::skip).
///
/// # Panics
///
/// If the second process fails. This is a helper for tests: a panic is a failed test.
pub fn trace_test(test: &str, work: impl FnOnce()) -> Trace {
    if std::env::var_os(TRACED).is_some_and(|traced| traced == test) {
        work();
        std::process::exit(0);
    }
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture"]).env(TRACED, test);
    match trace(&command) {
        Ok(trace) => trace,
        Err(error @ (TraceError::NoStrace | TraceError::NotPermitted { .. })) => skip(error.to_string()),
        Err(error) => panic!("{error}: {error:?}"),
    }
}

/// Marks what `work` calls, on this thread, as a section of the trace. Costs one system call before
/// and one behind it, which are not counted.
pub fn section<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let _section = begin(name);
    work()
}

/// Begins a [`section`] that ends, on the same thread, when what is returned is dropped: for async
/// code on a current-thread runtime.
pub fn begin(name: &str) -> Section<'_> {
    mark("begin", name);
    Section(name)
}

/// A section of a trace that is under way.
#[derive(Debug)]
#[must_use]
pub struct Section<'a>(&'a str);

impl Drop for Section<'_> {
    fn drop(&mut self) {
        mark("end", self.0);
    }
}

/// Marks one end of a section: `begin` or `end`.
fn mark(end: &str, name: &str) {
    // The answer is always "not found"; the call is what counts.
    let _ = std::fs::metadata(format!("{MARK}{end}/{name}"));
}

/// Runs `command` to its end under `strace` and tells what each of its threads called.
///
/// # Errors
///
/// [`TraceError`]: no `strace`, it may not trace, or the command failed.
pub fn trace(command: &Command) -> Result<Trace, TraceError> {
    let directory = tempfile::tempdir().map_err(TraceError::Io)?;
    let mut strace = Command::new("strace");
    // One file a thread: no call is torn by another thread's.
    strace.args(["-ff", "-qq", "-s", "200", "-o"]).arg(directory.path().join("thread")).arg("--");
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    if let Some(path) = command.get_current_dir() {
        strace.current_dir(path);
    }
    let output = strace.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TraceError::NoStrace,
        _ => TraceError::Io(error),
    })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("PTRACE") || said.contains("Operation not permitted") && !output.status.success() {
        return Err(TraceError::NotPermitted { said });
    }
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stdout);
        return Err(TraceError::Failed { said: format!("{}: {printed}{said}", output.status) });
    }
    Trace::read(directory.path()).map_err(TraceError::Io)
}

/// What the threads of a program called.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    threads: Vec<Vec<Call>>,
}

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Its name, as in section 2 of the manual.
    pub name: String,
    /// Its arguments and result, as `strace` prints them.
    pub detail: String,
}

impl Trace {
    fn read(directory: &Path) -> io::Result<Self> {
        let mut threads = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let text = std::fs::read(entry?.path())?;
            threads.push(String::from_utf8_lossy(&text).lines().filter_map(Call::parse).collect());
        }
        Ok(Self { threads })
    }

    /// What the thread that ran [`section`] with this name called within it; `None` if none did.
    /// If it ran several times, the first time.
    pub fn section(&self, name: &str) -> Option<Calls<'_>> {
        let marks = ["begin", "end"].map(|end| format!("\"{MARK}{end}/{name}\""));
        let [begin, end] = &marks;
        self.threads.iter().find_map(|calls| {
            let first = calls.iter().position(|call| call.detail.contains(begin))? + 1;
            let length = calls[first..].iter().position(|call| call.detail.contains(end))?;
            Some(Calls(&calls[first..first + length]))
        })
    }

    /// All that was called, a slice for each thread.
    pub fn threads(&self) -> impl Iterator<Item = Calls<'_>> {
        self.threads.iter().map(|calls| Calls(calls))
    }
}

/// System calls of one thread, in order. `Display` is a line a call.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a>(&'a [Call]);

impl<'a> Calls<'a> {
    /// The calls, those for memory left out.
    pub fn iter(self) -> impl Iterator<Item = &'a Call> {
        self.0.iter().filter(|call| {
            let debug_check = call.name == "fcntl" && call.detail.contains("F_GETFD");
            !debug_check && !MEMORY.contains(&call.name.as_str())
        })
    }

    /// How often each was called, those for memory left out.
    pub fn counts(self) -> Counts {
        let mut counts = BTreeMap::new();
        for call in self.iter() {
            *counts.entry(call.name.clone()).or_insert(0) += 1;
        }
        Counts(counts)
    }
}

impl fmt::Display for Calls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|call| writeln!(f, "{}{}", call.name, call.detail))
    }
}

/// System calls by name. `Display` is `close 1, sendmsg 1, socket 1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, usize>);

impl Counts {
    /// How often the call was made.
    pub fn of(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// The same without some calls.
    #[must_use]
    pub fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|name, _| !names.contains(&name.as_str()));
        self
    }

    /// All calls together.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, count)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {count}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Call {
    /// A line of `strace`: `name(arguments) = result`; signals and exits are no calls.
    fn parse(line: &str) -> Option<Self> {
        let open = line.find('(')?;
        let (name, detail) = line.split_at(open);
        let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        named.then(|| Self { name: name.to_owned(), detail: detail.to_owned() })
    }
}

/// Why there is no trace.
#[derive(Debug)]
#[non_exhaustive]
pub enum TraceError {
    /// `strace` is not installed.
    NoStrace,
    /// `strace` may not trace here.
    #[non_exhaustive]
    NotPermitted {
        /// What it said.
        said: String,
    },
    /// The traced command failed.
    #[non_exhaustive]
    Failed {
        /// What it said.
        said: String,
    },
    /// The trace could not be written or read.
    Io(io::Error),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStrace => f.write_str(
                "system calls cannot be counted: strace is not installed (try: apt-get install strace)",
            ),
            Self::NotPermitted { said } => write!(
                f,
                "system calls cannot be counted: strace may not trace here; run as root, or allow \
                 ptrace (sysctl -w kernel.yama.ptrace_scope=0; in a container: --cap-add SYS_PTRACE): {}",
                said.trim()
            ),
            Self::Failed { said } => write!(f, "the traced program failed: {}", said.trim()),
            Self::Io(_) => f.write_str("the trace could not be written or read"),
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_calls_and_lines_that_are_not() {
        let call = Call::parse("close(3)                                = 0").unwrap();
        assert_eq!(call.name, "close");
        assert!(call.detail.starts_with("(3)"));
        for line in
            ["", "+++ exited with 0 +++", "--- SIGCHLD {si_signo=SIGCHLD} ---", "strace: x(", "(3) = 0"]
        {
            assert_eq!(Call::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_section_is_what_its_thread_called_between_its_marks() {
        let lines = [
            "statx(AT_FDCWD, \"/tfo-lab-mark/begin/a\", AT_STATX_SYNC_AS_STAT) = -1 ENOENT",
            "socket(AF_INET, SOCK_STREAM, IPPROTO_TCP) = 3",
            "mmap(NULL, 4096) = 0x7f",
            "close(3) = 0",
            "statx(AT_FDCWD, \"/tfo-lab-mark/end/a\", AT_STATX_SYNC_AS_STAT) = -1 ENOENT",
            "close(4) = 0",
        ];
        let trace = Trace { threads: vec![lines.iter().filter_map(|line| Call::parse(line)).collect()] };
        let counts = trace.section("a").unwrap().counts();
        assert_eq!(counts.to_string(), "close 1, socket 1");
        assert_eq!((counts.of("close"), counts.of("mmap"), counts.total()), (1, 0, 2));
        assert!(trace.section("b").is_none());
    }

    #[test]
    fn a_missing_program_is_a_failure_that_is_told() {
        match trace(&Command::new("/no/such/program")) {
            Err(TraceError::NoStrace | TraceError::NotPermitted { .. }) => {}
            Err(error @ TraceError::Failed { .. }) => assert!(error.to_string().contains("/no/such/program")),
            other => panic!("{other:?}"),
        }
    }
}
