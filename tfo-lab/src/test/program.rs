//! Servers that are programs of others.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::need;
use crate::{Host, HostCommand};

/// How long a program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server, killed when it is dropped, with a directory of its own.
#[derive(Debug)]
pub struct Program {
    child: Child,
    _directory: TempDir,
}

impl Program {
    /// nginx, with what is in the `server` block of its configuration: `listen 80; return 200 hello;`. It
    /// finds the files of `directory` under relative names. The test is [skipped](super::skip) where nginx is
    /// missing.
    ///
    /// # Panics
    ///
    /// If it does not listen on `addr` within 10 s.
    pub fn nginx(host: &Host, addr: SocketAddr, directory: TempDir, server: &str) -> Self {
        let path = directory.path();
        let config = path.join("nginx.conf");
        fs::write(&config, nginx_config(path, server)).expect("a directory to write to");
        let command = host.command(need("nginx")).arg("-p").arg(path).arg("-c").arg(&config);
        Self::start(command, host, addr, directory)
    }

    /// Any program, when it listens on `addr`.
    ///
    /// # Panics
    ///
    /// If it does not within 10 s, or cannot be started.
    pub fn start(mut command: HostCommand, host: &Host, addr: SocketAddr, directory: TempDir) -> Self {
        let program = Self { child: command.spawn().expect("a program that starts"), _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        // On the host itself, which is not on the wire.
        while host.run(|| TcpStream::connect(addr)).is_err() {
            assert!(Instant::now() < deadline, "nobody listens on {addr}");
            std::thread::sleep(Duration::from_millis(10));
        }
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx_config(directory: &Path, server: &str) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log stderr warn;
         events {{ worker_connections 64; }}
         http {{
             access_log off;
             client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
             fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
             server {{ {server} }}
         }}"
    )
}
