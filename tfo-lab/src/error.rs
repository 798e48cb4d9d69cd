//! What can go wrong when a lab is made, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::iter;

/// Linux's number, on all architectures: a device rule. File permissions are `EACCES`.
const EPERM: i32 = 1;

/// Why a lab, or something in it, could not be made.
///
/// `Display` says what failed, and what to do about it. The system's own error is the
/// [`source`](Error::source). `Debug` is both, because that is what a `main` prints that returns an error.
#[non_exhaustive]
pub enum LabError {
    /// The lab is made of Linux network namespaces; this is another system.
    NotLinux,
    /// The process may not make network namespaces (`CAP_SYS_ADMIN` and `CAP_NET_ADMIN` are missing),
    /// and has not entered a user namespace of its own.
    NotPrivileged {
        /// What it may not do.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A user namespace can only be entered by a process with one thread.
    Multithreaded {
        /// How many threads the process has.
        threads: usize,
    },
    /// The system does not let this user make a user namespace.
    UserNamespaceDenied {
        /// What forbids it, as far as can be seen, and how to allow it.
        fix: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// There is no `/dev/net/tun`.
    NoTunDevice,
    /// `/dev/net/tun` cannot be opened: by this user, or in this container.
    TunDenied {
        /// What the kernel answered.
        source: io::Error,
    },
    /// A sysctl could not be read or written.
    Sysctl {
        /// Its dotted name.
        name: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The cached cookies could not be flushed: the kernel wants `CAP_NET_ADMIN` in the initial user
    /// namespace, which a rootless lab has not got.
    FlushDenied {
        /// What the kernel answered.
        source: io::Error,
    },
    /// An argument makes no sense.
    Argument {
        /// What is wrong with it.
        problem: String,
    },
    /// A step of the set-up failed in a way that has no better name.
    Setup {
        /// The step.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl LabError {
    pub(crate) fn setup(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Setup { step, source }
    }

    pub(crate) fn argument(problem: impl Into<String>) -> Self {
        Self::Argument { problem: problem.into() }
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinux => f.write_str(
                "a lab needs Linux: it is made of network namespaces; run it in a Linux virtual machine",
            ),
            Self::NotPrivileged { step, .. } => write!(
                f,
                "{step} needs CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root, or call \
                 tfo_lab::enter_user_namespace() first in main(); in a container add `--privileged`, or \
                 `--cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun`; on Ubuntu also run \
                 `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
            ),
            Self::Multithreaded { threads } => write!(
                f,
                "a user namespace can only be entered by a process with one thread, this one has {threads}: \
                 call tfo_lab::enter_user_namespace() first in main(), before any thread or runtime is started",
            ),
            Self::UserNamespaceDenied { fix, .. } => {
                write!(f, "this user may not make a user namespace: {fix}; or run as root")
            }
            Self::NoTunDevice => f.write_str(
                "there is no /dev/net/tun: run `sudo modprobe tun`; in a container add `--device /dev/net/tun`",
            ),
            Self::TunDenied { source } if source.raw_os_error() == Some(EPERM) => f.write_str(
                "/dev/net/tun is forbidden by the device rules of this container: run it with \
                 `--device /dev/net/tun`",
            ),
            Self::TunDenied { .. } => f.write_str(
                "/dev/net/tun is closed to this user: run `sudo chmod 666 /dev/net/tun`, or run as root",
            ),
            Self::Sysctl { name, .. } => write!(
                f,
                "the sysctl {name} cannot be read or written: check its name and value; in a container \
                 /proc/sys is often read-only: run it with `--privileged`",
            ),
            Self::FlushDenied { .. } => f.write_str(
                "cached cookies cannot be flushed without CAP_NET_ADMIN in the initial user namespace: run \
                 as root, or make a new lab, whose hosts start with no cookies",
            ),
            Self::Argument { problem } => f.write_str(problem),
            Self::Setup { step, .. } => write!(
                f,
                "the lab could not be set up: {step} failed; if this is a container, its seccomp or \
                 capability set may forbid it: run it with `--privileged`",
            ),
        }
    }
}

/// Not the variant: whoever sees this may not know the source, and wants to know what to do.
impl fmt::Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        iter::successors(self.source(), |&cause| cause.source()).try_for_each(|cause| write!(f, " ({cause})"))
    }
}

impl Error for LabError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotPrivileged { source, .. }
            | Self::UserNamespaceDenied { source, .. }
            | Self::TunDenied { source }
            | Self::Sysctl { source, .. }
            | Self::FlushDenied { source }
            | Self::Setup { source, .. } => Some(source),
            Self::NotLinux | Self::Multithreaded { .. } | Self::NoTunDevice | Self::Argument { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_that_returns_it_prints_what_to_do_and_why() {
        let denied = |code| LabError::TunDenied { source: io::Error::from_raw_os_error(code) };
        let boxed: Box<dyn Error> = denied(13).into();
        let text = format!("{boxed:?}");
        assert!(text.contains("sudo chmod 666 /dev/net/tun") && text.contains("(os error 13)"), "{text}");
        assert!(denied(EPERM).to_string().contains("--device /dev/net/tun"));
        assert_eq!(format!("{:?}", LabError::NotLinux), LabError::NotLinux.to_string());
    }
}
