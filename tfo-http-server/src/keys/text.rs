//! Keys as text, in the form of `net.ipv4.tcp_fastopen_key`.

use tfo_core::sockopt::CookieKey;
use zeroize::{Zeroize, Zeroizing};

use super::error::{KeyError, KeyErrorKind};
use super::key::Key;

/// `xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx`
const KEY_LENGTH: usize = 4 * 8 + 3;

/// One key, or a primary and a backup. A backup that is the primary once more is none.
///
/// The kernel reads shorter groups too, and passes over what follows; this does not: a key whose end is
/// missing must not be taken for another key.
pub(super) fn parse(text: &[u8]) -> Result<(Key, Option<Key>), KeyError> {
    let text = text.trim_ascii();
    let comma = text.iter().position(|byte| *byte == b',');
    let (primary, backup) = match comma {
        None => (text, None),
        Some(at) => (&text[..at], Some(&text[at + 1..])),
    };
    let primary = parse_key(primary.trim_ascii())?;
    let backup = backup.map(|backup| parse_key(backup.trim_ascii())).transpose()?;
    let backup = backup.filter(|backup| !backup.is(&primary));
    Ok((primary, backup))
}

/// Each group is a number, whose bytes the kernel stores with the lowest first
/// (`proc_tcp_fastopen_key`: `cpu_to_le32`), whatever the byte order of the machine; the socket option
/// takes the bytes as they are stored.
fn parse_key(text: &[u8]) -> Result<Key, KeyError> {
    let malformed = || KeyError::new(KeyErrorKind::Malformed);
    if text.len() != KEY_LENGTH {
        return Err(malformed());
    }
    let mut bytes = Zeroizing::new([0; CookieKey::LENGTH]);
    for (index, group) in text.chunks(9).enumerate() {
        if group.get(8).is_some_and(|dash| *dash != b'-') {
            return Err(malformed());
        }
        let digits = group.iter().take(8).try_fold(0, |number, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            Some(number << 4 | digit)
        });
        let mut number = digits.ok_or_else(malformed)?;
        bytes[4 * index..][..4].copy_from_slice(&number.to_le_bytes());
        number.zeroize();
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(KeyError::new(KeyErrorKind::Zero));
    }
    Ok(Key::new(CookieKey::from_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> ([u8; 16], Option<[u8; 16]>) {
        let (primary, backup) = parse(text.as_bytes()).unwrap();
        (*primary.cookie().as_bytes(), backup.map(|key| *key.cookie().as_bytes()))
    }

    fn kind(text: &str) -> KeyErrorKind {
        parse(text.as_bytes()).unwrap_err().kind()
    }

    const ONE: &str = "01020304-05060708-090a0b0c-0d0e0fFF";
    const TWO: &str = "00000001-00000000-00000000-00000000";

    #[test]
    fn groups_are_numbers_whose_lowest_byte_comes_first() {
        let one = [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 0xff, 15, 14, 13];
        assert_eq!(bytes(ONE), (one, None));
        let two = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes(&format!("{ONE},{TWO}\n")), (one, Some(two)));
        assert_eq!(bytes(&format!(" {ONE} , {TWO} \r\n")), (one, Some(two)));
        assert_eq!(bytes(&format!("{ONE},{ONE}")), (one, None), "twice the same is one");
    }

    #[test]
    fn malformed_is_refused() {
        let short = &ONE[..34];
        let cases = [
            "",
            ",",
            "-",
            "\n",
            short,
            "1-2-3-4",
            &format!("{ONE},"),
            &format!(",{ONE}"),
            &format!("{ONE},{short}"),
            &format!("{ONE},{TWO},{TWO}"),
            &format!("{ONE} {TWO}"),
            &format!("{ONE}0"),
            &format!("{ONE}\n{TWO}"),
            "0x020304-05060708-090a0b0c-0d0e0f10",
            "+1020304-05060708-090a0b0c-0d0e0f10",
            "01020304-05060708-090a0b0c_0d0e0f10",
            "0102030g-05060708-090a0b0c-0d0e0f10",
            "010203040506070809-0a0b0c0d0e0f1011",
            "é1020304-05060708-090a0b0c-0d0e0f1",
        ];
        for text in cases {
            assert_eq!(kind(text), KeyErrorKind::Malformed, "{text:?}");
        }
        assert_eq!(kind("00000000-00000000-00000000-00000000"), KeyErrorKind::Zero);
        assert_eq!(kind(&format!("{ONE},00000000-00000000-00000000-00000000")), KeyErrorKind::Zero);
    }

    proptest! {
        #[test]
        fn every_key_is_read_and_no_part_of_one(words in proptest::array::uniform4(1..=u32::MAX), cut in 0..KEY_LENGTH) {
            let text = words.map(|word| format!("{word:08x}")).join("-");
            let read = bytes(&text).0;
            for (word, bytes) in words.iter().zip(read.chunks(4)) {
                prop_assert_eq!(word.to_le_bytes(), bytes);
            }
            prop_assert!(parse(&text.as_bytes()[..cut]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_the_error_does_not_repeat_them(text in "[0-9a-f,\\- \\PC]{0,80}") {
            if let Err(error) = parse(text.as_bytes()) {
                let told = format!("{error} {error:?}");
                prop_assert!(text.trim().len() < 20 || !told.contains(text.trim()), "{}", told);
            }
        }
    }
}
