use std::io;
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};

use crate::sockopt;
use crate::sys;
use crate::{Error, TcpInfo};

/// Where [`Support`](crate::Support) reads: this host, or one that is made up.
pub trait Host {
    /// Whether the system is Linux and this build calls its kernel.
    fn is_linux(&self) -> bool;

    /// The kernel's release, as `uname -r` prints it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn kernel_release(&self) -> io::Result<String>;

    /// The text of a setting, by its dotted name; network settings are those of the calling
    /// thread's namespace.
    ///
    /// # Errors
    ///
    /// `NotFound` where the kernel has no such setting.
    fn sysctl(&self, name: &str) -> io::Result<String>;

    /// Tries `TCP_FASTOPEN`, `TCP_FASTOPEN_CONNECT` or `TCP_INFO` on a new socket.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn try_option(&self, option: &str) -> io::Result<()>;
}

/// The host that the program runs on, in the calling thread's network namespace.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ThisHost;

impl Host for ThisHost {
    fn is_linux(&self) -> bool {
        sys::IS_LINUX
    }

    fn kernel_release(&self) -> io::Result<String> {
        sys::read_proc(Path::new("/proc/sys/kernel/osrelease"))
    }

    fn sysctl(&self, name: &str) -> io::Result<String> {
        let path: PathBuf = ["/proc/sys"].into_iter().chain(name.split('.')).collect();
        sys::read_proc(&path)
    }

    fn try_option(&self, option: &str) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)
            .or_else(|_| Socket::new(Domain::IPV6, Type::STREAM, None))?;
        let result = match option {
            "TCP_FASTOPEN" => sockopt::set_fastopen(&socket, 1),
            "TCP_FASTOPEN_CONNECT" => sockopt::set_fastopen_connect(&socket, true),
            "TCP_INFO" => TcpInfo::read(&socket).map(drop),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        result.map_err(Error::into_io_error)
    }
}
