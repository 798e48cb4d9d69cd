//! Hosts: network namespaces of their own, in which closures, threads and commands run.

use std::fmt;
use std::fs;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::command::HostCommand;
use crate::error::LabError;
use crate::sys::{self, Namespace};

/// One host of a [`Lab`](crate::Lab). A clone is the same host.
///
/// It is loopback and one device, through which every other address is reached. Sockets and threads made in
/// it stay in it, also after the lab is dropped; then the device is gone.
#[derive(Clone)]
pub struct Host {
    pub(crate) index: usize,
    name: Arc<str>,
    namespace: Arc<Namespace>,
}

impl Host {
    pub(crate) fn new(index: usize, name: Arc<str>, namespace: Namespace) -> Self {
        Self { index, name, namespace: Arc::new(namespace) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address: `10.0.0.1` for the first host, `10.0.0.2` for the second, and so on.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + self.index as u32)
    }

    /// Its IPv6 address: `fd00::1` for the first host, `fd00::2` for the second, and so on.
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).to_bits() + self.index as u128)
    }

    /// A port at its IPv4 address.
    pub fn addr(&self, port: u16) -> SocketAddr {
        (self.ipv4(), port).into()
    }

    /// A port at its IPv6 address.
    pub fn addr_v6(&self, port: u16) -> SocketAddr {
        (self.ipv6(), port).into()
    }

    /// Runs a closure in the host, on a thread of its own, and waits for it. It may borrow.
    ///
    /// Sockets that it makes belong to the host for ever, wherever they are used later. So do threads that it
    /// starts.
    ///
    /// # Panics
    /// If the closure does.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                self.enter_now();
                f()
            };
            let thread = thread::Builder::new().name(self.thread_name()).spawn_scoped(scope, inside);
            thread.expect("a thread can be started").join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a closure in the host, on a thread of its own, in the background.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let host = self.clone();
        let inside = move || {
            host.enter_now();
            f()
        };
        let thread = thread::Builder::new().name(self.thread_name()).spawn(inside);
        thread.expect("a thread can be started")
    }

    /// A function that moves the *calling thread* into the host, for good.
    ///
    /// A thread is born into the host of the thread that starts it, so a runtime that is built and driven
    /// inside [`run`](Self::run) needs nothing more: its workers, and the blocking threads that its tasks ask
    /// for, are there too. A runtime that is built elsewhere needs this, in tokio as
    /// `Builder::on_thread_start(host.enter())`; and the thread that calls `block_on` has to enter by itself.
    ///
    /// The function panics if the thread cannot enter.
    pub fn enter(&self) -> impl Fn() + Clone + Send + Sync + 'static {
        let host = self.clone();
        move || host.enter_now()
    }

    /// A command that will run in the host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> HostCommand {
        HostCommand::new(self.clone(), program.as_ref())
    }

    /// Reads a sysctl of the host: `net.ipv4.tcp_fastopen`.
    ///
    /// # Errors
    /// If it is not a `net.` one (the others are the whole machine's), or cannot be read.
    pub fn sysctl(&self, name: &str) -> Result<String, LabError> {
        let file = sysctl_file(name)?;
        let result = self.run(|| fs::read_to_string(file));
        let text = result.map_err(|source| LabError::Sysctl { name: name.to_owned(), source })?;
        Ok(text.trim().to_owned())
    }

    /// Writes a sysctl of the host.
    ///
    /// # Errors
    /// If it is not a `net.` one (the others are the whole machine's), or cannot be written.
    pub fn set_sysctl(&self, name: &str, value: impl fmt::Display) -> Result<(), LabError> {
        let file = sysctl_file(name)?;
        let value = value.to_string();
        let result = self.run(|| fs::write(file, value));
        result.map_err(|source| LabError::Sysctl { name: name.to_owned(), source })
    }

    /// Switches Fast Open: the bits of `net.ipv4.tcp_fastopen`. 0 is off, 1 client, 2 server, 3 both. It counts
    /// from the next connection on.
    ///
    /// # Errors
    /// As [`set_sysctl`](Self::set_sysctl).
    pub fn set_fastopen(&self, bits: u32) -> Result<(), LabError> {
        self.set_sysctl("net.ipv4.tcp_fastopen", bits)
    }

    /// Sets the key that the host's cookies are made with, and one that is still accepted. Without it each host
    /// has a random key of its own.
    ///
    /// # Errors
    /// As [`set_sysctl`](Self::set_sysctl).
    pub fn set_fastopen_key(&self, key: [u8; 16], backup: Option<[u8; 16]>) -> Result<(), LabError> {
        // The kernel reads each group as a little-endian word, and prints it that way too.
        let group =
            |bytes: &[u8]| bytes.iter().rev().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let text = |key: [u8; 16]| key.chunks(4).map(group).collect::<Vec<_>>().join("-");
        let keys: Vec<_> = iter::once(key).chain(backup).map(text).collect();
        self.set_sysctl("net.ipv4.tcp_fastopen_key", keys.join(","))
    }

    /// Forgets all Fast Open cookies, and the other TCP metrics, that the host's kernel has cached.
    ///
    /// # Errors
    /// [`LabError::FlushDenied`] in a rootless lab.
    pub fn flush_cookies(&self) -> Result<(), LabError> {
        self.run(sys::flush_cookies)
    }

    pub(crate) fn add_address(&self, ip: IpAddr) -> Result<(), LabError> {
        self.run(|| sys::add_address(ip))
    }

    pub(crate) fn remove_address(&self, ip: IpAddr) -> Result<(), LabError> {
        self.run(|| sys::remove_address(ip))
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    fn enter_now(&self) {
        if let Err(error) = self.namespace.enter() {
            panic!("a thread cannot enter the host {}: {error}", self.name);
        }
    }

    fn thread_name(&self) -> String {
        format!("lab-{}", self.name)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("name", &self.name)
            .field("ipv4", &self.ipv4())
            .field("ipv6", &self.ipv6())
            .finish_non_exhaustive()
    }
}

/// `net.ipv4.tcp_fastopen` to its file.
fn sysctl_file(name: &str) -> Result<String, LabError> {
    let sane = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !name.starts_with("net.") || !sane || name.contains("..") {
        return Err(LabError::argument(format!(
            "{name:?} is no sysctl of a host: their names begin with `net.`"
        )));
    }
    Ok(format!("/proc/sys/{}", name.replace('.', "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names() {
        assert_eq!(sysctl_file("net.ipv4.tcp_fastopen").unwrap(), "/proc/sys/net/ipv4/tcp_fastopen");
        for bad in ["kernel.hostname", "net...kernel.hostname", "net./etc/passwd", "net"] {
            assert!(sysctl_file(bad).is_err(), "{bad}");
        }
    }
}
