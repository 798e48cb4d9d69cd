//! Which keys are in force when: arithmetic, without a clock.

use std::fmt;
use std::time::{Duration, SystemTime};

use hkdf::Hkdf;
use sha2::Sha256;
use tfo_core::sockopt::CookieKey;
use zeroize::{Zeroize, Zeroizing};

use super::error::{KeyError, KeyErrorKind, MAX_EPOCH};
use super::key::{Key, KeyId};
use super::{MIN_EPOCH, SECRET_LENGTH};

/// How often keys change, and how far the clocks of the servers that share them may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    epoch: Duration,
    skew: Duration,
}

impl Rotation {
    /// A new key every `epoch`, for servers whose clocks differ by at most `skew`.
    ///
    /// A cookie lives for one epoch less `skew` at least, and for two epochs at most: the time for
    /// which a stolen one is of use, and a client can be told from others by it. An epoch below an hour
    /// makes clients that come back later lose their rides. A server that is late in changing its keys
    /// (a few milliseconds; a minute after it was suspended) counts as one whose clock is slow.
    ///
    /// # Errors
    ///
    /// An epoch below a second or above a hundred years; a skew that is not less than half of it.
    pub fn new(epoch: Duration, skew: Duration) -> Result<Self, KeyError> {
        if epoch < MIN_EPOCH || epoch > MAX_EPOCH {
            return Err(KeyError::new(KeyErrorKind::Epoch));
        }
        if skew >= epoch / 2 {
            return Err(KeyError::new(KeyErrorKind::Skew));
        }
        Ok(Self { epoch, skew })
    }

    /// As [`new`](Self::new), with a skew of 60 s, or a quarter of an epoch that is shorter than 4 min.
    ///
    /// # Errors
    ///
    /// An epoch below a second or above a hundred years.
    pub fn every(epoch: Duration) -> Result<Self, KeyError> {
        Self::new(epoch, Self::default().skew.min(epoch / 4))
    }

    /// For how long cookies are made with one key.
    pub fn epoch(&self) -> Duration {
        self.epoch
    }

    /// For how long before each change the next key is accepted already.
    pub fn skew(&self) -> Duration {
        self.skew
    }
}

/// A new key every 24 hours, and a skew of 60 seconds.
impl Default for Rotation {
    fn default() -> Self {
        Self { epoch: Duration::from_secs(24 * 3600), skew: Duration::from_secs(60) }
    }
}

/// Keys derived from a secret and the time: servers that have the same secret and rotation, and clocks
/// that are about right, have the same keys without a word between them.
///
/// Epoch *n* begins at *n* × its length after 1970-01-01 00:00 UTC. Its key is the first 16 bytes of
/// HKDF-SHA256 (RFC 5869) with no salt, the secret as the input, and as the info
/// `"tfo-http cookie key"` ‖ *n* ‖ length of the epoch in nanoseconds, both as 64 bits, big-endian.
///
/// Linux has two slots: it makes cookies with the first key, and accepts those of both. So a change has
/// two phases:
///
/// | when | first | second |
/// |---|---|---|
/// | in epoch *n* | *n* | *n* − 1 |
/// | in the last [`skew`](Rotation::skew) of it | *n* | *n* + 1 |
/// | in epoch *n* + 1 | *n* + 1 | *n* |
///
/// No server makes cookies that another does not accept yet, or no more.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tfo_http_server::keys::{Rotation, Schedule};
///
/// let schedule = Schedule::new(b"a secret of at least 32 bytes, or more", Rotation::default())?;
/// let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600);
/// let monday = schedule.slots(day(20_000));
/// let tuesday = schedule.slots(day(20_001));
/// assert_eq!(monday.ids().0, tuesday.ids().1.unwrap());
/// assert_eq!(monday.valid_until(), Some(day(20_001) - Duration::from_secs(60)));
/// # Ok::<_, tfo_http_server::keys::KeyError>(())
/// ```
#[derive(Clone)]
pub struct Schedule {
    /// HKDF's pseudorandom key. The secret itself is not kept.
    prk: Zeroizing<[u8; 32]>,
    rotation: Rotation,
}

impl Schedule {
    /// Keys from a secret, which has nothing to do with other secrets and is known to the servers only.
    ///
    /// # Errors
    ///
    /// The secret has fewer than 32 bytes.
    pub fn new(secret: &[u8], rotation: Rotation) -> Result<Self, KeyError> {
        if secret.len() < SECRET_LENGTH {
            return Err(KeyError::new(KeyErrorKind::ShortSecret));
        }
        let (mut extracted, _) = Hkdf::<Sha256>::extract(None, secret);
        let mut prk = Zeroizing::new([0; 32]);
        prk.copy_from_slice(&extracted);
        extracted.zeroize();
        Ok(Self { prk, rotation })
    }

    /// How often the keys change.
    pub fn rotation(&self) -> Rotation {
        self.rotation
    }

    /// The keys that are in force at a time: any time.
    pub fn slots(&self, now: SystemTime) -> Slots {
        let Rotation { epoch, skew } = self.rotation;
        let (epoch, skew) = (nanos(epoch), nanos(skew));
        let now = since_1970(now);
        let number = now.div_euclid(epoch);
        let end = (number + 1) * epoch;
        let (other, until) = if now < end - skew { (number - 1, end - skew) } else { (number + 1, end) };
        Slots { primary: self.key(number), backup: Some(self.key(other)), valid_until: at(until) }
    }

    fn key(&self, number: i128) -> Key {
        let mut bytes = Zeroizing::new([0; CookieKey::LENGTH]);
        // Both fit, as an epoch has at least a second and at most a hundred years.
        let (number, epoch) = (number as i64, nanos(self.rotation.epoch) as u64);
        let info = [b"tfo-http cookie key".as_slice(), &number.to_be_bytes(), &epoch.to_be_bytes()];
        let hkdf = Hkdf::<Sha256>::from_prk(self.prk.as_slice()).expect("32 bytes are a key");
        hkdf.expand_multi_info(&info, bytes.as_mut_slice()).expect("16 bytes are not too many");
        Key::new(CookieKey::from_bytes(*bytes))
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

/// What the kernel's two slots are to hold, and until when.
#[derive(Clone, Debug)]
pub struct Slots {
    pub(super) primary: Key,
    pub(super) backup: Option<Key>,
    pub(super) valid_until: Option<SystemTime>,
}

impl Slots {
    /// The key that cookies are made with.
    pub fn primary(&self) -> &CookieKey {
        self.primary.cookie()
    }

    /// The key whose cookies are accepted too.
    pub fn backup(&self) -> Option<&CookieKey> {
        self.backup.as_ref().map(Key::cookie)
    }

    /// The ids of both.
    pub fn ids(&self) -> (KeyId, Option<KeyId>) {
        (self.primary.id(), self.backup.as_ref().map(Key::id))
    }

    /// When the next change is due; `None` if none is.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.valid_until
    }

    /// Whether cookies made with a key are accepted.
    pub(super) fn accept(&self, key: &Key) -> bool {
        self.primary.is(key) || self.backup.as_ref().is_some_and(|backup| backup.is(key))
    }

    pub(super) fn same_keys(&self, other: &Self) -> bool {
        let backups = match (&self.backup, &other.backup) {
            (Some(one), Some(other)) => one.is(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.primary.is(&other.primary) && backups
    }
}

fn nanos(duration: Duration) -> i128 {
    // 2^64 seconds in nanoseconds are less than 2^94.
    duration.as_nanos() as i128
}

fn since_1970(time: SystemTime) -> i128 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

/// `None` where the clock does not reach.
fn at(nanos: i128) -> Option<SystemTime> {
    const SECOND: u128 = 1_000_000_000;
    let distance = nanos.unsigned_abs();
    let distance = Duration::new(u64::try_from(distance / SECOND).ok()?, (distance % SECOND) as u32);
    match nanos {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn schedule(epoch: u64, skew: u64) -> Schedule {
        let rotation = Rotation::new(Duration::from_millis(epoch), Duration::from_millis(skew)).unwrap();
        Schedule::new(SECRET, rotation).unwrap()
    }

    fn ms(millis: i64) -> SystemTime {
        at(i128::from(millis) * 1_000_000).unwrap()
    }

    /// Made with another implementation: Python's hmac and hashlib, by RFC 5869.
    #[test]
    fn keys_are_those_of_hkdf() {
        let schedule = Schedule::new(SECRET, Rotation::default()).unwrap();
        let slots = schedule.slots(ms(20_000 * 24 * 3600 * 1000));
        let hex =
            |key: &CookieKey| key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(slots.primary()), "7d3db73d163df89399511a92e1342ec2");
        assert_eq!(hex(slots.backup().unwrap()), "38fd01e6153bf81c127270d0844ad29c");
        // Another length is another key, even for the epoch of the same number.
        let longer = schedule_of(Duration::from_secs(24 * 3600 + 1));
        let later = longer.slots(at(20_000 * nanos(longer.rotation.epoch)).unwrap());
        assert_ne!(later.ids(), slots.ids());
    }

    fn schedule_of(epoch: Duration) -> Schedule {
        Schedule::new(SECRET, Rotation::new(epoch, Duration::ZERO).unwrap()).unwrap()
    }

    #[test]
    fn a_change_has_two_phases() {
        let schedule = schedule(10_000, 2_000);
        let ids = |millis| schedule.slots(ms(millis)).ids();
        let key = |number| schedule.key(number).id();
        for epoch in [-3_i64, -1, 0, 1, 170_000] {
            let (n, start) = (i128::from(epoch), epoch * 10_000);
            assert_eq!(ids(start), (key(n), Some(key(n - 1))));
            assert_eq!(ids(start + 7_999), (key(n), Some(key(n - 1))));
            assert_eq!(ids(start + 8_000), (key(n), Some(key(n + 1))));
            assert_eq!(ids(start + 9_999), (key(n), Some(key(n + 1))));
            assert_eq!(schedule.slots(ms(start)).valid_until(), Some(ms(start + 8_000)));
            assert_eq!(schedule.slots(ms(start + 8_000)).valid_until(), Some(ms(start + 10_000)));
        }
    }

    #[test]
    fn limits() {
        let rotation = |epoch, skew| Rotation::new(epoch, skew).map_err(|error| error.kind());
        let second = Duration::from_secs(1);
        assert_eq!(rotation(second * 4, second * 2), Err(KeyErrorKind::Skew));
        assert!(rotation(second * 4, second * 2 - Duration::from_nanos(1)).is_ok());
        assert_eq!(rotation(second - Duration::from_nanos(1), Duration::ZERO), Err(KeyErrorKind::Epoch));
        assert_eq!(rotation(Duration::MAX, second), Err(KeyErrorKind::Epoch));
        assert_eq!(Rotation::every(second * 24 * 3600).unwrap(), Rotation::default());
        assert_eq!(Rotation::every(second * 4).unwrap().skew(), second);
        assert!(Rotation::every(Duration::ZERO).is_err());
        assert_eq!(Rotation::default(), rotation(24 * 3600 * second, 60 * second).unwrap());
        let short = Schedule::new(&SECRET[1..], Rotation::default()).unwrap_err();
        assert_eq!(short.kind(), KeyErrorKind::ShortSecret);
        assert!(short.to_string().contains("32 bytes"), "{short}");
    }

    #[test]
    fn the_ends_of_the_clock() {
        let mut far = Duration::from_secs(1 << 62);
        let (mut last, mut first) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        while far > Duration::from_nanos(100) {
            last = last.checked_add(far).unwrap_or(last);
            first = first.checked_sub(far).unwrap_or(first);
            far /= 2;
        }
        for schedule in [schedule(1_000, 0), schedule(86_400_000, 60_000), schedule_of(MAX_EPOCH)] {
            for now in [first, last] {
                let slots = schedule.slots(now);
                assert!(slots.valid_until().is_none_or(|until| until > now), "{slots:?}");
                assert_ne!(slots.ids().1, Some(slots.ids().0));
            }
        }
    }

    /// Times from 1900 to 2100, epochs from a second to a week, skews up to the limit.
    fn case() -> impl Strategy<Value = (Schedule, i64)> {
        let century = 3_155_760_000_000_i64;
        let times = prop_oneof![-century..century, 0..200_000_i64];
        (1_000..604_800_000_u64, 0.0..1.0, times).prop_map(|(epoch, share, time)| {
            let most = (epoch - 1) / 2;
            (schedule(epoch, ((most as f64) * share) as u64), time)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn what_one_server_makes_all_accept((schedule, now) in case(), shares in (-1.0..=1.0, -1.0..=1.0)) {
            let reach = schedule.rotation.skew.as_millis() as f64 / 2.0;
            let off = |share: f64| ms(now + (share * reach).trunc() as i64);
            let (maker, taker) = (schedule.slots(off(shares.0)), schedule.slots(off(shares.1)));
            prop_assert!(taker.accept(&maker.primary));
        }

        #[test]
        fn a_cookie_lives_for_an_epoch_less_the_skew_and_for_two_at_most((schedule, now) in case(), share in 0.0..1.0) {
            let (epoch, skew) = (schedule.rotation.epoch, schedule.rotation.skew);
            let made = schedule.slots(ms(now)).primary;
            let accepted = |after: Duration| schedule.slots(ms(now) + after).accept(&made);
            prop_assert!(accepted((epoch - skew).mul_f64(share)));
            prop_assert!(!accepted(2 * epoch + skew.mul_f64(share)));
        }

        #[test]
        fn two_slots_hold_two_keys_until_the_time_that_is_told((schedule, now) in case(), share in 0.0..1.0) {
            let slots = schedule.slots(ms(now));
            let backup = slots.backup.as_ref().unwrap();
            prop_assert!(!slots.primary.is(backup));
            let until = slots.valid_until.unwrap();
            let left = until.duration_since(ms(now)).unwrap();
            prop_assert!(!left.is_zero() && left <= schedule.rotation.epoch);
            prop_assert!(slots.same_keys(&schedule.slots(ms(now) + left.mul_f64(share * 0.999))));
            prop_assert!(!slots.same_keys(&schedule.slots(until)));
        }
    }
}
