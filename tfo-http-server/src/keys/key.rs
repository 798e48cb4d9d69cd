use std::fmt;

use sha2::{Digest, Sha256};
use tfo_core::sockopt::CookieKey;

/// Names a key without telling it: the first 32 bits of `SHA-256("tfo-http cookie key id" ‖ key)`, in
/// hex. For logs and metrics: servers that share their keys show the same ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// The id of a key.
    pub fn of(key: &CookieKey) -> Self {
        Self::short(&fingerprint(key))
    }

    fn short(print: &[u8; 32]) -> Self {
        Self([print[0], print[1], print[2], print[3]])
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A key and what tells it from others: keys are never compared themselves.
#[derive(Clone)]
pub(super) struct Key {
    cookie: CookieKey,
    print: [u8; 32],
}

impl Key {
    pub(super) fn new(cookie: CookieKey) -> Self {
        let print = fingerprint(&cookie);
        Self { cookie, print }
    }

    pub(super) fn cookie(&self) -> &CookieKey {
        &self.cookie
    }

    pub(super) fn id(&self) -> KeyId {
        KeyId::short(&self.print)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

fn fingerprint(key: &CookieKey) -> [u8; 32] {
    Sha256::new().chain_update(b"tfo-http cookie key id").chain_update(key.as_bytes()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_hash() {
        // printf 'tfo-http cookie key id0123456789abcdef' | sha256sum
        let key = CookieKey::from_bytes(*b"0123456789abcdef");
        assert_eq!(KeyId::of(&key).to_string(), "09452195");
        assert_eq!(KeyId::of(&key), Key::new(key.clone()).id());
        assert_eq!(format!("{:?}", Key::new(key)), "KeyId(09452195)");
        assert!(!Key::new(CookieKey::from_bytes([1; 16])).is(&Key::new(CookieKey::from_bytes([2; 16]))));
    }
}
