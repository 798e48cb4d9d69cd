//! HPACK (RFC 7541): what a header block does, without an HPACK decoder.
//!
//! # Why no dynamic table is needed
//!
//! A field of a request is *telling* if it decides whether the request is safe: `:method` and `content-length` (the
//! others, like `transfer-encoding` or a method override, make a request unsafe by being there). The scanner must see
//! the name of every telling field, and its value. A representation can name a field in four ways:
//!
//! 1. By an index into the static table (1 to 61). The table is fixed (RFC 7541 Appendix A): the name is known, and so
//!    is the value where the representation takes that too.
//! 2. By a literal name: it is decoded, and the name is known.
//! 3. By an index into the dynamic table (62 and up), for the name only, with a literal value.
//! 4. By such an index for the whole field.
//!
//! For 3 and 4 the scanner keeps no table but one bit, [`Table::telling`], and this invariant:
//!
//! > As long as the bit is not set, no entry of the decoder's dynamic table has a telling name.
//!
//! - It holds at first: RFC 7541 2.3.2: "The dynamic table is initially empty."
//! - Entries come from nowhere but literals with incremental indexing (RFC 7541 6.2.1), and HTTP/2 has one table for
//!   all blocks of a direction (RFC 9113 4.3). The cut ends at the first block that was not scanned to its end, and
//!   at every frame type that could hold a block that is not scanned (PUSH_PROMISE, CONTINUATION, unknown types). So
//!   the scanner has seen every insertion that a decoder of the bytes in front of the cut performs.
//! - An inserted entry's name came by one of the four ways. By 1 and 2 it is known, and the bit is set if it is
//!   telling. By 3 it is the name of an entry that was there, which by the invariant is not telling.
//! - Eviction and size updates (RFC 7541 4.3, 4.4) only remove entries, so they keep it.
//!
//! Hence while the bit is not set, 3 and 4 yield a field that is not telling, or an index that is not in the table,
//! which every decoder must refuse (RFC 7541 2.3.3); both are harmless. Once it is set, any such index makes the block
//! unsafe, because `content-length: 0` may have been inserted and its name used with another value, or `:method: GET`
//! and its name with `POST`. The bit is set at the insertion itself, since the same block can refer to the entry.
//! Fields that make a request unsafe by being there end the cut before they could be referred to.

use super::fields::{self, Field};
use super::{Classifier, End, Stop, huffman};

/// What must be known of the decoder's dynamic table. See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Table {
    /// Whether an entry may have a telling name.
    telling: bool,
}

impl Table {
    /// Reads `block` and returns what it says of its `:method`, which then is an allowed one; `None` if it has none.
    ///
    /// Only a block that was read to its end and has a `:method` is provably safe.
    pub(super) fn scan(&mut self, block: &[u8], rules: &Classifier) -> Result<Option<Method>, End> {
        let mut method = None;
        let mut rest = block;
        // RFC 7541 4.2: a size update "MUST occur at the beginning of the first header block".
        while let [0x20..=0x3f, ..] = rest {
            let size;
            (size, rest) = integer(rest, 5)?;
            if size > MAX_TABLE {
                return Err(End::Unsafe(Stop::CompressedHeaders));
            }
        }
        while let Some(&byte) = rest.first() {
            let name;
            let value;
            match byte {
                // RFC 7541 6.1: an indexed field.
                0x80.. => {
                    let index;
                    (index, rest) = integer(rest, 7)?;
                    name = self.name(index)?;
                    value = match index {
                        2 => Text::plain(b"GET"),
                        3 => Text::plain(b"POST"),
                        _ => Text::plain(b""),
                    };
                }
                // RFC 7541 6.3: a size update, which is too late here.
                0x20..0x40 => return Err(End::Unsafe(Stop::CompressedHeaders)),
                // RFC 7541 6.2: a literal, with an index for its name, or 0 and a literal name.
                _ => {
                    let is_inserted = byte >= 0x40;
                    let index;
                    (index, rest) = integer(rest, if is_inserted { 6 } else { 4 })?;
                    if index == 0 {
                        let text;
                        (text, rest) = string(rest)?;
                        name = literal_name(text)?;
                    } else {
                        name = self.name(index)?;
                    }
                    (value, rest) = string(rest).map_err(|end| name.without_value(end))?;
                    self.telling |= is_inserted && name != Name::Plain;
                }
            }
            let value = value.read(|_, byte| fields::is_value_byte(byte))?;
            match name {
                Name::Plain => {}
                Name::Method if method.is_some() => return Err(End::Unsafe(Stop::MalformedRequest)),
                Name::Method if rules.allows(value.get()) => {
                    method = Some(Method { may_have_body: rules.allows_body(value.get()) });
                }
                Name::Method => return Err(End::Unsafe(Stop::UnsafeMethod)),
                Name::ContentLength if value.get() == b"0" => {}
                // HTTP/2 does not need it to find the end, but a gateway to HTTP/1 will.
                Name::ContentLength
                    if method.is_some_and(|method| method.may_have_body)
                        && fields::decimal(value.get()).is_some() => {}
                Name::ContentLength => return Err(End::Unsafe(Stop::RequestBody)),
            }
        }
        Ok(method)
    }

    /// What the name at `index` means.
    fn name(&self, index: usize) -> Result<Name, End> {
        match index {
            // RFC 7541 6.1: "The index value of 0 is not used."
            0 => Err(End::Unsafe(Stop::CompressedHeaders)),
            2 | 3 => Ok(Name::Method),
            // `:status` has no place in a request (RFC 9113 8.3).
            8..=14 => Err(End::Unsafe(Stop::MalformedRequest)),
            28 => Ok(Name::ContentLength),
            57 => Err(End::Unsafe(Stop::RequestBody)),
            1..=61 => Ok(Name::Plain),
            _ if self.telling => Err(End::Unsafe(Stop::CompressedHeaders)),
            _ => Ok(Name::Plain),
        }
    }
}

/// The `:method` of a block that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) may_have_body: bool,
}

/// RFC 9113 6.5.2: the table size that a client must assume before it has seen the server's SETTINGS.
const MAX_TABLE: usize = 4096;

/// What the name of a field means. Names that make a request unsafe have no variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Method,
    ContentLength,
    Plain,
}

impl Name {
    /// What it means that the block ended in the value of such a field. Of a telling one the value counts: an
    /// unfinished `POS` need not wait for its `T`.
    fn without_value(self, end: End) -> End {
        match (self, end) {
            (Self::Method, End::Unfinished) => End::Unsafe(Stop::UnfinishedMethod),
            (Self::ContentLength, End::Unfinished) => End::Unsafe(Stop::RequestBody),
            _ => end,
        }
    }
}

/// What a literal name means.
fn literal_name(text: Text<'_>) -> Result<Name, End> {
    // RFC 9113 8.2.1: no upper case, and no colon but in front.
    let name = text.read(|at, byte| match byte {
        b':' => at == 0,
        b'A'..=b'Z' => false,
        _ => fields::is_token_byte(byte),
    })?;
    match name.get() {
        b":method" => Ok(Name::Method),
        b":authority" | b":path" | b":scheme" => Ok(Name::Plain),
        // `:protocol` (RFC 8441 4) makes the stream a tunnel; others are not defined.
        [] | [b':', ..] => Err(End::Unsafe(Stop::MalformedRequest)),
        name => match Field::of(name) {
            Field::Plain => Ok(Name::Plain),
            Field::ContentLength => Ok(Name::ContentLength),
            Field::TransferEncoding => Err(End::Unsafe(Stop::RequestBody)),
            Field::MethodOverride => Err(End::Unsafe(Stop::MethodOverride)),
            // RFC 9113 8.2.2: a connection-specific field; a gateway to HTTP/1 might pass it on.
            Field::Upgrade => Err(End::Unsafe(Stop::MalformedRequest)),
        },
    }
}

/// RFC 7541 5.1: an integer with a prefix of that many bits, and what follows it.
fn integer(bytes: &[u8], prefix: u32) -> Result<(usize, &[u8]), End> {
    let [first, rest @ ..] = bytes else {
        return Err(End::Unfinished);
    };
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Ok((value, rest));
    }
    // RFC 7541 5.1: "Integer encodings that exceed implementation limits [...] MUST be treated as decoding errors."
    // Four more bytes hold more than any index or length in a frame of 16 kB.
    for (at, &byte) in rest.iter().enumerate() {
        if at == 4 {
            return Err(End::Unsafe(Stop::CompressedHeaders));
        }
        value += usize::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok((value, rest.get(at + 1..).unwrap_or_default()));
        }
    }
    Err(End::Unfinished)
}

/// RFC 7541 5.2: a string literal, and what follows it.
fn string(bytes: &[u8]) -> Result<(Text<'_>, &[u8]), End> {
    let is_huffman = matches!(bytes, [0x80..=0xff, ..]);
    let (len, rest) = integer(bytes, 7)?;
    let (coded, rest) = rest.split_at_checked(len).ok_or(End::Unfinished)?;
    Ok((Text { is_huffman, coded }, rest))
}

/// A string as it stands in a block.
#[derive(Clone, Copy, Debug)]
struct Text<'a> {
    is_huffman: bool,
    coded: &'a [u8],
}

impl<'a> Text<'a> {
    const fn plain(bytes: &'a [u8]) -> Self {
        Self { is_huffman: false, coded: bytes }
    }

    /// Reads all of it and keeps the beginning. Every byte must be `allowed` in its position.
    ///
    /// A value with a line end is more than malformed (RFC 9113 8.2.1): a careless gateway would make a second request
    /// of it.
    fn read(self, allowed: impl Fn(usize, u8) -> bool) -> Result<Short, End> {
        let mut short = Short { bytes: [0; SHORT], len: 0 };
        let mut at = 0;
        let mut push = |byte| {
            if !allowed(at, byte) {
                return Err(End::Unsafe(Stop::MalformedRequest));
            }
            if let Some(slot) = short.bytes.get_mut(at) {
                *slot = byte;
                short.len += 1;
            }
            at += 1;
            Ok(())
        };
        if self.is_huffman {
            huffman::decode(self.coded, push)?;
        } else {
            self.coded.iter().try_for_each(|&byte| push(byte))?;
        }
        Ok(short)
    }
}

/// One byte more than the longest text that means something, so that the beginning of a longer one means nothing.
const SHORT: usize = Field::LONGEST + 1;

/// The beginning of a text, or all of it.
struct Short {
    bytes: [u8; SHORT],
    len: usize,
}

impl Short {
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(block: &[u8]) -> Result<bool, End> {
        Table::default().scan(block, &Classifier::new()).map(|method| method.is_some())
    }

    fn plain(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// A literal field with a literal name.
    fn literal(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[kind][..], &plain(name), &plain(value)].concat()
    }

    const HIDDEN: Result<bool, End> = Err(End::Unsafe(Stop::CompressedHeaders));
    const METHOD: Result<bool, End> = Err(End::Unsafe(Stop::UnsafeMethod));
    const BODY: Result<bool, End> = Err(End::Unsafe(Stop::RequestBody));
    const MALFORMED: Result<bool, End> = Err(End::Unsafe(Stop::MalformedRequest));

    #[test]
    fn a_method_is_read_in_all_its_forms() {
        assert_eq!(scan(b"\x82\x84\x86"), Ok(true));
        assert_eq!(scan(b"\x83\x84\x86"), METHOD);
        assert_eq!(scan(b"\x84\x86"), Ok(false));
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "POST", "get", "", "GETGETGETGETGETGETGETGETGET"] {
            let expected = if Classifier::new().allows(method.as_bytes()) { Ok(true) } else { METHOD };
            let value = plain(method.as_bytes());
            for index in [2, 3] {
                for kind in [0x40, 0x10, 0x00] {
                    assert_eq!(scan(&[&[kind | index], &value[..]].concat()), expected, "{method}");
                }
            }
            for kind in [0x40, 0x10, 0x00] {
                assert_eq!(scan(&literal(kind, b":method", method.as_bytes())), expected, "{method}");
            }
        }
        // RFC 7541 Appendix B: H 1100011, E 1100000, A 100001, D 1011111; padding 111111.
        assert_eq!(scan(b"\x42\x84\xc7\x82\x1b\xff"), Ok(true));
        // P 1101011, O 1101010, S 1101110, T 1101111; padding 1111.
        assert_eq!(scan(b"\x42\x84\xd7\xab\x76\xff"), METHOD);
        assert_eq!(scan(b"\x82\x82"), MALFORMED);
    }

    #[test]
    fn telling_fields_are_read() {
        assert_eq!(scan(b"\x82\x9c"), BODY);
        assert_eq!(scan(b"\x82\x5c\x010"), Ok(true));
        assert_eq!(scan(b"\x82\x5c\x011"), BODY);
        assert_eq!(scan(b"\x82\x0f\x0d\x011"), BODY);
        assert_eq!(scan(b"\x82\xb9"), BODY);
        assert_eq!(scan(b"\x82\x79\x07chunked"), BODY);
        assert_eq!(scan(b"\x82\x88"), MALFORMED);
        let with = |field: Vec<u8>| scan(&[&b"\x82"[..], &field].concat());
        assert_eq!(with(literal(0, b"content-length", b"0")), Ok(true));
        assert_eq!(with(literal(0, b"content-length", b"00")), BODY);
        assert_eq!(with(literal(0, b"transfer-encoding", b"")), BODY);
        assert_eq!(with(literal(0, b"x-http-method", b"")), Err(End::Unsafe(Stop::MethodOverride)));
        assert_eq!(with(literal(0x40, b"x_method_override", b"x")), Err(End::Unsafe(Stop::MethodOverride)));
        assert_eq!(with(literal(0, b"x-http-method-override", b"")), Err(End::Unsafe(Stop::MethodOverride)));
        assert_eq!(with(literal(0, b"x-http-method-override2", b"")), Ok(true));
        for name in
            [&b":protocol"[..], b":status", b":x", b"", b"upgrade", b"Host", b"a b", b"a:b", b"a\0", b":"]
        {
            assert_eq!(with(literal(0, name, b"x")), MALFORMED, "{}", name.escape_ascii());
        }
        for value in [&b"a\r\nb"[..], b"\0", b"\n", b"\x7f"] {
            assert_eq!(with(literal(0, b"a", value)), MALFORMED);
        }
    }

    #[test]
    fn the_dynamic_table_may_be_used_until_it_may_tell() {
        let rules = Classifier::new();
        let mut table = Table::default();
        const GET: Result<Option<Method>, End> = Ok(Some(Method { may_have_body: false }));
        const UNSEEN: Result<Option<Method>, End> = Err(End::Unsafe(Stop::CompressedHeaders));
        assert_eq!(table.scan(&[&b"\x82"[..], &literal(0x40, b"a", b"b")].concat(), &rules), GET);
        assert_eq!(table.scan(b"\x82\xbe", &rules), GET);
        assert_eq!(table.scan(b"\x82\x7e\x01c", &rules), GET);
        // Not inserted, so not in the table.
        assert_eq!(table.scan(b"\x02\x03GET\x0f\x0d\x010\xbe", &rules), GET);
        for insert in [&b"\x42\x03GET"[..], b"\x82\x5c\x010", b"\x40\x07:method\x03GET"] {
            let mut table = table;
            assert_eq!(table.scan(insert, &rules), GET);
            assert_eq!(table.scan(b"\x82\x84", &rules), GET);
            assert_eq!(table.scan(b"\x82\xbe", &rules), UNSEEN);
            assert_eq!(table.scan(b"\x82\x7e\x015", &rules), UNSEEN);
            assert_eq!(table.scan(b"\x82\x0f\x2f\x015", &rules), UNSEEN);
            assert_eq!(table.scan(b"\x82\xff\x10", &rules), UNSEEN);
        }
        // In the same block.
        assert_eq!(scan(b"\x42\x03GET\xbe"), HIDDEN);
        assert_eq!(scan(b"\x82\x5c\x010\x7e\x015"), HIDDEN);
    }

    #[test]
    fn size_updates_come_first_and_are_small() {
        assert_eq!(scan(b"\x20\x82"), Ok(true));
        assert_eq!(scan(b"\x20\x3f\xe1\x1f\x82"), Ok(true));
        assert_eq!(scan(b"\x3f\xe2\x1f\x82"), HIDDEN);
        assert_eq!(scan(b"\x82\x20"), HIDDEN);
    }

    #[test]
    fn broken_blocks_are_not_safe() {
        assert_eq!(scan(b"\x82\x80"), HIDDEN);
        assert_eq!(scan(b"\x82\xff\x80\x80\x80\x80\x00"), HIDDEN);
        assert_eq!(scan(b"\x82\xff\x80\x80\x80\x00"), Ok(true));
        assert_eq!(scan(b"\x82\x00\x81\x18\x01b"), HIDDEN);
        let block = b"\x82\x40\x01a\x01b\x5c\x010\x10\x81\x1f\x7f\x02abcde";
        for len in 0..block.len() {
            let end = scan(&block[..len]);
            assert!(
                matches!(end, Ok(_) | Err(End::Unfinished | End::Unsafe(Stop::RequestBody))),
                "{len}: {end:?}"
            );
        }
        for (beginning, stop) in [
            (&b"\x42"[..], Stop::UnfinishedMethod),
            (b"\x42\x04POS", Stop::UnfinishedMethod),
            (b"\x5c", Stop::RequestBody),
        ] {
            assert_eq!(scan(beginning), Err(End::Unsafe(stop)));
        }
    }
}
