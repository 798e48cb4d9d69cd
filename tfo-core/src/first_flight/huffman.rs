//! The Huffman code of HPACK (RFC 7541 5.2 and Appendix B).
//!
//! The code is canonical: the codes of one length are consecutive numbers, in the order of their symbols, and follow
//! those of the lengths before. So two short tables say all of it.

use super::{End, Stop};

/// How many codes there are of 5 bits, of 6, and so on up to 30.
const COUNTS: [u8; 26] =
    [10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// The length of the shortest codes.
const SHORTEST: u32 = 5;

/// The symbols in the order of their codes. The last code is EOS, which is not a byte.
const SYMBOLS: &[u8; 256] = b"\
    012aceiost\
    \x20%-./3456789=A_bdfghlmnpru\
    :BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz\
    &*,;XZ\
    !\"()?\
    '+|\
    #>\
    \x00$@[]~\
    ^}\
    <`{\
    \\\xc3\xd0\
    \x80\x82\x83\xa2\xb8\xc2\xe0\xe2\
    \x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6\
    \x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9\
    \x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef\
    \x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed\
    \xc7\xcf\xea\xeb\
    \xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff\
    \xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe\
    \x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9\
    \x0a\x0d\x16";

/// Decodes `coded` and hands each byte to `sink`, which may refuse it.
pub(super) fn decode(coded: &[u8], mut sink: impl FnMut(u8) -> Result<(), End>) -> Result<(), End> {
    let malformed = End::Unsafe(Stop::CompressedHeaders);
    let bits = coded.len() * 8;
    let mut at = 0;
    while at < bits {
        let window = window(coded, at);
        let left = bits - at;
        // RFC 7541 5.2: the padding is shorter than 8 bits and consists of "the most significant bits of the code for
        // the EOS symbol", which are ones. No code is as short and all ones.
        if left < 8 && window == u32::MAX {
            return Ok(());
        }
        let (symbol, len) = symbol(window).ok_or(malformed)?;
        if len > left {
            return Err(malformed);
        }
        sink(symbol)?;
        at += len;
    }
    Ok(())
}

/// The 32 bits from bit `at` on. Behind the end there are ones, as in the padding.
#[inline]
fn window(coded: &[u8], at: usize) -> u32 {
    let rest = coded.get(at / 8..).unwrap_or_default();
    let word = match rest.first_chunk() {
        Some(word) => u64::from_be_bytes(*word),
        None => {
            let mut word = [0xff; 8];
            for (slot, &byte) in word.iter_mut().zip(rest) {
                *slot = byte;
            }
            u64::from_be_bytes(word)
        }
    };
    ((word << (at % 8)) >> 32) as u32
}

/// The symbol that `window` starts with, and the length of its code; `None` for EOS.
#[inline]
fn symbol(window: u32) -> Option<(u8, usize)> {
    // `LEVELS` ends with all there is, so the search finds one.
    let level = LEVELS.iter().find(|level| window <= level.last)?;
    let index = (window - level.first) >> (32 - level.len);
    let symbol = SYMBOLS.get(level.index as usize + index as usize)?;
    Some((*symbol, level.len as usize))
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Level {
    /// The least and the greatest number of 32 bits that start with one of them.
    first: u32,
    last: u32,
    len: u32,
    /// The index of the first of them in `SYMBOLS`.
    index: u32,
}

const LEVELS: [Level; COUNTS.len()] = {
    let mut levels = [Level { first: 0, last: 0, len: 0, index: 0 }; COUNTS.len()];
    let mut next: u64 = 0;
    let mut index = 0;
    let mut at = 0;
    while at < COUNTS.len() {
        let len = SHORTEST + at as u32;
        let first = next as u32;
        next += (COUNTS[at] as u64) << (32 - len);
        // A length without codes gets an empty range, which is behind the one before and finds nothing new.
        let last = next.saturating_sub(1) as u32;
        levels[at] = Level { first, last, len, index };
        index += COUNTS[at] as u32;
        at += 1;
    }
    assert!(next == 1 << 32 && index == 257, "the code is complete: 256 bytes and EOS");
    levels
};

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, End> {
        let mut bytes = Vec::new();
        decode(coded, |byte| {
            bytes.push(byte);
            Ok(())
        })?;
        Ok(bytes)
    }

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541 C.4.1, C.4.2, C.4.3 and C.6.1.
        let www = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(decoded(www).unwrap(), b"www.example.com");
        assert_eq!(decoded(b"\xa8\xeb\x10\x64\x9c\xbf").unwrap(), b"no-cache");
        assert_eq!(decoded(b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf").unwrap(), b"custom-value");
        let date =
            b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff";
        assert_eq!(decoded(date).unwrap(), b"Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(decoded(b"").unwrap(), b"");
    }

    #[test]
    fn single_codes_of_the_appendix() {
        // Appendix B: NUL 0x1ff8 [13], LF 0x3ffffffc [30], '~' 0x1ffd [13], 0x7f 0xffffffc [28], 0xff 0x3ffffee [26].
        for (code, len, byte) in [
            (0x1ff8_u32, 13, 0),
            (0x3fff_fffc, 30, 10),
            (0x1ffd, 13, b'~'),
            (0xfff_fffc, 28, 0x7f),
            (0x3ff_ffee, 26, 0xff),
            (0x7_fff0, 19, b'\\'),
            (0, 5, b'0'),
        ] {
            let window = (code << (32 - len)) | (u32::MAX >> len);
            assert_eq!(symbol(window), Some((byte, len as usize)));
        }
        assert_eq!(symbol(u32::MAX), None);
    }

    #[test]
    fn every_symbol_is_there_once() {
        let mut sorted = *SYMBOLS;
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(at, &symbol)| at == usize::from(symbol)));
        let mut at = 0;
        for count in COUNTS {
            let level = &SYMBOLS[at..(at + usize::from(count)).min(256)];
            assert!(level.is_sorted());
            at += usize::from(count);
        }
    }

    #[test]
    fn padding_is_short_and_made_of_ones() {
        // 'a' is 00011: three ones complete the byte.
        assert_eq!(decoded(b"\x1f").unwrap(), b"a");
        for wrong in [&b"\x1e"[..], b"\x18", b"\x1f\xff", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfc"] {
            assert_eq!(decoded(wrong), Err(End::Unsafe(Stop::CompressedHeaders)), "{wrong:x?}");
        }
    }

    #[test]
    fn the_sink_may_refuse() {
        assert_eq!(decode(b"\x1f", |_| Err(End::Unfinished)), Err(End::Unfinished));
    }
}
