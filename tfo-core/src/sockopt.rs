//! The socket options of TCP Fast Open, and one that goes with it, named as `tcp(7)` names them.
//!
//! They work on anything that is a socket: `std`, `socket2` and `tokio` types alike. Getters are
//! bare, setters begin with `set_`.
//!
//! # Errors
//!
//! Every function fails with the kernel's error inside an [`Error`]; where the kernel, the
//! namespace or the system has no TCP Fast Open, [`Error::is_unsupported`] is true.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Error;
use crate::sys::{self, AsSocket, TcpOption};

/// `TCP_FASTOPEN`: the length of a listener's queue of connections whose handshake is not complete
/// and whose SYN carried a valid cookie; 0 if off.
pub fn fastopen(listener: &impl AsSocket) -> Result<u32, Error> {
    get_int(listener, TcpOption::FastOpen, "getsockopt TCP_FASTOPEN")
}

/// Sets `TCP_FASTOPEN` on a listener, before or after `listen`; 0 turns it off.
///
/// The kernel cuts the length to `net.core.somaxconn`, without a word. Connections beyond it get an
/// ordinary handshake (RFC 7413 section 5.1), counted by
/// [`Counters::listen_overflow`](crate::Counters::listen_overflow). With `SO_REUSEPORT` each
/// listener has a queue of its own and needs the option itself.
///
/// Success proves nothing: the kernel accepts the option although the namespace's
/// `net.ipv4.tcp_fastopen` has the server bit off, as it has in every new container. Ask
/// [`Support`](crate::Support).
pub fn set_fastopen(listener: &impl AsSocket, queue: u32) -> Result<(), Error> {
    set_int(listener, TcpOption::FastOpen, queue, "setsockopt TCP_FASTOPEN")
}

/// `TCP_FASTOPEN_CONNECT`: whether `connect` is deferred to the first write when a cookie is cached.
pub fn fastopen_connect(socket: &impl AsSocket) -> Result<bool, Error> {
    get_int(socket, TcpOption::FastOpenConnect, "getsockopt TCP_FASTOPEN_CONNECT").map(|on| on != 0)
}

/// Sets `TCP_FASTOPEN_CONNECT`, before `connect`. Linux 4.11.
///
/// With a cookie in the kernel's cache, `connect` then answers 0 at once although nothing was sent,
/// and the first write goes into the SYN. Without one, `connect` is an ordinary handshake whose SYN
/// asks for a cookie.
pub fn set_fastopen_connect(socket: &impl AsSocket, on: bool) -> Result<(), Error> {
    set_int(socket, TcpOption::FastOpenConnect, on.into(), "setsockopt TCP_FASTOPEN_CONNECT")
}

/// `TCP_FASTOPEN_NO_COOKIE`: whether data is sent, or accepted, in a SYN without a cookie.
pub fn fastopen_no_cookie(socket: &impl AsSocket) -> Result<bool, Error> {
    get_int(socket, TcpOption::FastOpenNoCookie, "getsockopt TCP_FASTOPEN_NO_COOKIE").map(|on| on != 0)
}

/// Sets `TCP_FASTOPEN_NO_COOKIE`. Linux 4.15.
///
/// # Danger
///
/// On a listener this gives up the proof that the client owns its address: anyone can make the
/// server work for, and answer to, a forged address (RFC 7413 sections 5 and 7.3). For trusted
/// networks only.
pub fn set_fastopen_no_cookie(socket: &impl AsSocket, on: bool) -> Result<(), Error> {
    set_int(socket, TcpOption::FastOpenNoCookie, on.into(), "setsockopt TCP_FASTOPEN_NO_COOKIE")
}

/// `TCP_DEFER_ACCEPT`: for how many seconds a listener leaves connections without data unaccepted; 0 if
/// it is off.
pub fn defer_accept(listener: &impl AsSocket) -> Result<u32, Error> {
    get_int(listener, TcpOption::DeferAccept, "getsockopt TCP_DEFER_ACCEPT")
}

/// Sets `TCP_DEFER_ACCEPT`, in seconds; 0 turns it off.
///
/// A connection is accepted when its first data is here, or after about this time without. The kernel
/// counts in retransmissions of the SYN-ACK (1, 3, 7, 15 s, …), and rounds up to the next; what was set
/// is told by [`defer_accept`]. A connection whose data came in the SYN is accepted at once.
pub fn set_defer_accept(listener: &impl AsSocket, seconds: u32) -> Result<(), Error> {
    set_int(listener, TcpOption::DeferAccept, seconds, "setsockopt TCP_DEFER_ACCEPT")
}

/// `TCP_FASTOPEN_KEY`: the primary and the backup key of this listener; none until they were set on
/// the listener itself (it then uses its namespace's `net.ipv4.tcp_fastopen_key`).
pub fn fastopen_key(listener: &impl AsSocket) -> Result<Option<(CookieKey, Option<CookieKey>)>, Error> {
    let mut bytes = Zeroizing::new([0_u8; 2 * CookieKey::LENGTH]);
    let length = sys::getsockopt(listener, TcpOption::FastOpenKey, &mut *bytes)
        .map_err(|error| Error::new("getsockopt TCP_FASTOPEN_KEY", error, sys::OPTION_UNSUPPORTED))?;
    let (primary, backup) = bytes.split_at(CookieKey::LENGTH);
    let key = |bytes: &[u8]| bytes.try_into().ok().map(CookieKey);
    Ok(match length {
        CookieKey::LENGTH => key(primary).map(|primary| (primary, None)),
        32 => key(primary).map(|primary| (primary, key(backup))),
        _ => None,
    })
}

/// Sets `TCP_FASTOPEN_KEY` on a listener: new cookies are made with `primary`, and cookies made
/// with either are accepted. Linux 4.15; with a backup 5.3.
///
/// Setting a primary alone drops the backup.
pub fn set_fastopen_key(
    listener: &impl AsSocket,
    primary: &CookieKey,
    backup: Option<&CookieKey>,
) -> Result<(), Error> {
    let mut bytes = Zeroizing::new([0_u8; 2 * CookieKey::LENGTH]);
    let length = CookieKey::LENGTH * (1 + usize::from(backup.is_some()));
    bytes[..CookieKey::LENGTH].copy_from_slice(&primary.0);
    if let Some(backup) = backup {
        bytes[CookieKey::LENGTH..].copy_from_slice(&backup.0);
    }
    sys::setsockopt(listener, TcpOption::FastOpenKey, &bytes[..length])
        .map_err(|error| Error::new("setsockopt TCP_FASTOPEN_KEY", error, sys::OPTION_UNSUPPORTED))
}

/// A key from which a listener makes cookies (RFC 7413 section 4.1.2). Never printed; its memory is
/// overwritten when it is dropped (copies that a move leaves behind are not).
#[derive(Clone, PartialEq, Eq)]
pub struct CookieKey([u8; Self::LENGTH]);

impl CookieKey {
    /// Bytes of a key.
    pub const LENGTH: usize = 16;

    /// A key from its bytes, in the order in which the socket option takes them.
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes: a secret.
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl Drop for CookieKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for CookieKey {}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(secret)")
    }
}

fn get_int(socket: &impl AsSocket, option: TcpOption, call: &'static str) -> Result<u32, Error> {
    let mut bytes = [0_u8; 4];
    sys::getsockopt(socket, option, &mut bytes)
        .map_err(|error| Error::new(call, error, sys::OPTION_UNSUPPORTED))?;
    Ok(u32::from_ne_bytes(bytes))
}

fn set_int(socket: &impl AsSocket, option: TcpOption, value: u32, call: &'static str) -> Result<(), Error> {
    // The kernel reads a signed int, and refuses a negative one as invalid.
    let value = i32::try_from(value).unwrap_or(i32::MAX);
    sys::setsockopt(socket, option, &value.to_ne_bytes())
        .map_err(|error| Error::new(call, error, sys::OPTION_UNSUPPORTED))
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;
    use std::ptr;

    use super::*;

    #[test]
    fn a_dropped_key_is_overwritten() {
        let mut key = ManuallyDrop::new(CookieKey::from_bytes([7; 16]));
        let bytes = ptr::from_ref(key.as_bytes());
        // SAFETY: it is dropped once, and not used afterwards but as the bytes below.
        unsafe { ManuallyDrop::drop(&mut key) };
        // SAFETY: the memory is still this function's; dropping an array of bytes does not free it.
        assert_eq!(unsafe { bytes.read_volatile() }, [0; 16]);
    }
}
