//! Processes in a host of the lab, and what they use.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tfo_lab::Host;

use crate::run::find;

/// For a server to listen.
const START: Duration = Duration::from_secs(10);

/// A program that runs in a host, and is ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Where a process may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "for the programs of this crate only")]
pub enum Cpus {
    /// On the first processor only: client and server share it, and their figures repeat well.
    One,
    /// On all of them.
    All,
}

impl Process {
    /// Starts a program.
    ///
    /// # Errors
    /// If it does not start; it may just not be installed.
    pub fn start(
        host: &Host,
        cpus: Cpus,
        program: impl Into<OsString>,
        args: &[String],
    ) -> Result<Self, String> {
        let program = program.into();
        let mut command = match cpus {
            Cpus::One => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", "0"]).arg(&program);
                command
            }
            Cpus::All => Command::new(&program),
        };
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |what: &str| format!("{} does not start: {what}", program.to_string_lossy());
        let mut child = host.run(|| command.spawn()).map_err(|error| failed(&error.to_string()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let Some(stdout) = stdout else { return Err(failed("no output")) };
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    /// This program in another role, once it says that it is ready.
    ///
    /// # Errors
    /// If it does not start.
    pub fn role(host: &Host, cpus: Cpus, args: &[&str]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("no path of this program: {error}"))?;
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut process = Self::start(host, cpus, program, &args)?;
        match process.line()?.as_str() {
            "ready" => Ok(process),
            other => Err(format!("{}: it says {other:?}", args.join(" "))),
        }
    }

    /// A program that listens, once it does.
    ///
    /// # Errors
    /// If it does not start, or does not listen within ten seconds.
    pub fn listening(
        host: &Host,
        cpus: Cpus,
        program: &str,
        args: &[String],
        address: SocketAddr,
    ) -> Result<Self, String> {
        let found = find(program).ok_or_else(|| format!("{program} is not installed"))?;
        let mut process = Self::start(host, cpus, found, args)?;
        let deadline = Instant::now() + START;
        while host.run(|| TcpStream::connect(address)).is_err() {
            if Instant::now() > deadline || process.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Err(format!("{program} does not listen on {address}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }

    /// Says a line to it, and waits for its answer.
    ///
    /// # Errors
    /// If it has ended.
    pub fn ask(&mut self, line: &str) -> Result<String, String> {
        let stdin = self.stdin.as_mut().ok_or("it cannot be asked")?;
        writeln!(stdin, "{line}").map_err(|error| format!("asked {line:?}: {error}"))?;
        self.line()
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err("a process of this run has ended".to_owned()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(format!("a process of this run does not answer: {error}")),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The time that its threads, and those of its children, have spent on a processor, kernel included.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn cpu(&self) -> Result<Duration, String> {
        let mut nanos = 0_u64;
        for pid in [self.pid()].into_iter().chain(self.children()) {
            let tasks = format!("/proc/{pid}/task");
            let failed = |error: std::io::Error| format!("{tasks}: {error}");
            for task in fs::read_dir(&tasks).map_err(failed)? {
                let file = task.map_err(failed)?.path().join("schedstat");
                let text = fs::read_to_string(file).map_err(failed)?;
                let first = text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
                nanos += first.ok_or_else(|| format!("{tasks}: no time in it"))?;
            }
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The processes that its first thread has started, and that are there still.
    fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Bytes of memory that are its own, those in the kernel not counted.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn memory(&self) -> Result<u64, String> {
        memory_of(self.pid())
    }
}

/// Bytes of memory that are a process's own, those in the kernel not counted.
pub(crate) fn memory_of(pid: u32) -> Result<u64, String> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let anonymous = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = anonymous.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| format!("{file}: no such line"))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        let children = self.children();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Not before it, who would start others.
        for pid in children.into_iter().filter_map(|pid| pid.try_into().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
