//! A running `tfo serve`, and a site for it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{PATIENCE, TFO};

/// A running `tfo serve`.
pub(crate) struct Serve {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
}

impl Serve {
    pub(crate) fn start(root: &Path, args: &[&str]) -> Self {
        Self::run(Command::new(TFO).arg("serve").arg("--root").arg(root).args(args))
    }

    pub(crate) fn run(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").expect(&line).parse().unwrap();
        Self { process, address }
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"))
    }

    pub(crate) fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    pub(crate) fn status(&self, path: &str) -> u16 {
        self.get(path, "").split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill {signal} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// The exit code, and what it said on standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = self.process.wait().unwrap().code();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) const ANY: &[&str] = &["--listen", "127.0.0.1:0"];

/// A root with all that should be found, and all that should not.
pub(crate) fn site() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    let root = directory.path().join("root");
    for path in
        [&outside, &root, &root.join("dir"), &root.join("empty"), &root.join(".git"), &root.join("stolen")]
    {
        fs::create_dir(path).unwrap();
    }
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(root.join("index.html"), "index").unwrap();
    fs::write(root.join("a b.txt"), "0123456789").unwrap();
    fs::write(root.join("dir/index.html"), "dir").unwrap();
    fs::write(root.join(".env"), "secret").unwrap();
    fs::write(root.join(".git/config"), "secret").unwrap();
    symlink("a b.txt", root.join("inside.txt")).unwrap();
    symlink("dir", root.join("linked")).unwrap();
    symlink("../outside/secret", root.join("relative")).unwrap();
    symlink(outside.join("secret"), root.join("absolute")).unwrap();
    symlink(&outside, root.join("directory")).unwrap();
    symlink("../../outside/secret", root.join("stolen/index.html")).unwrap();
    // Links within the root, to what is hidden there.
    symlink(".env", root.join("dotlink")).unwrap();
    symlink(".git", root.join("gitlink")).unwrap();
    symlink("../gitlink/config", root.join("dir/chain")).unwrap();
    fs::write(root.join(".git/index.html"), "secret").unwrap();
    fs::create_dir(root.join(".git/plain")).unwrap();
    symlink("../../index.html", root.join(".git/plain/index.html")).unwrap();
    symlink(".git/plain", root.join("back")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    directory
}
