//! What the lab asks of the system: namespaces, TUN devices, netlink, a precise wait.
//!
//! Two modules with the same items: `linux` does it, `other` says that it cannot be done.

#[cfg(all(target_os = "linux", not(tfo_fallback)))]
mod linux;
#[cfg(all(target_os = "linux", not(tfo_fallback)))]
pub(crate) use linux::*;

#[cfg(not(all(target_os = "linux", not(tfo_fallback))))]
mod other;
#[cfg(not(all(target_os = "linux", not(tfo_fallback))))]
pub(crate) use other::*;
