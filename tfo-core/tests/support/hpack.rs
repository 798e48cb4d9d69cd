//! HPACK as the tests know it: a small writer that uses every representation there is, and the Huffman code both ways.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::dice::Dice;

/// RFC 7541 Appendix B: how many bits the code of each byte has.
const CODE_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];

/// RFC 7541 Appendix A: the entries that requests use, by index.
pub const STATIC: [(usize, &str, &str); 16] = [
    (1, ":authority", ""),
    (2, ":method", "GET"),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (5, ":path", "/index.html"),
    (6, ":scheme", "http"),
    (7, ":scheme", "https"),
    (16, "accept-encoding", "gzip, deflate"),
    (19, "accept", ""),
    (23, "authorization", ""),
    (28, "content-length", ""),
    (31, "content-type", ""),
    (32, "cookie", ""),
    (50, "range", ""),
    (57, "transfer-encoding", ""),
    (58, "user-agent", ""),
];

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Writer {
    /// The dynamic table, newest first.
    table: Vec<(String, String)>,
}

impl Writer {
    /// A header block, each field in a random representation.
    pub fn block(&mut self, fields: &[(&str, &str)], is_hostile: bool, dice: &mut Dice) -> Vec<u8> {
        let mut block = Vec::new();
        if dice.one_in(16) {
            self.table.clear();
            integer(&mut block, 0x20, 5, 0);
            integer(&mut block, 0x20, 5, if is_hostile { 100 + dice.below(4900) } else { 4096 });
        }
        for &(name, value) in fields {
            self.field(&mut block, name, value, dice);
        }
        if is_hostile && dice.one_in(16) {
            integer(&mut block, 0x80, 7, dice.below(70));
        }
        block
    }

    fn field(&mut self, block: &mut Vec<u8>, name: &str, value: &str, dice: &mut Dice) {
        let dynamic = self.table.iter().enumerate().map(|(at, (n, v))| (at + 62, n.as_str(), v.as_str()));
        let entries: Vec<_> = STATIC.into_iter().chain(dynamic).filter(|entry| entry.1 == name).collect();
        let full = entries.iter().find(|entry| entry.2 == value).map(|entry| entry.0);
        if let Some(index) = full
            && !dice.one_in(4)
        {
            return integer(block, 0x80, 7, index);
        }
        let (kind, prefix) = [(0x40, 6), (0x40, 6), (0x00, 4), (0x10, 4)][dice.below(4)];
        match entries.get(dice.below(entries.len() + 1)) {
            Some(&(index, ..)) => integer(block, kind, prefix, index),
            None => {
                block.push(kind);
                string(block, name.as_bytes(), dice);
            }
        }
        string(block, value.as_bytes(), dice);
        if kind == 0x40 {
            self.table.insert(0, (name.to_owned(), value.to_owned()));
        }
    }
}

/// RFC 7541 5.1.
fn integer(block: &mut Vec<u8>, kind: u8, prefix: u32, value: usize) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        return block.push(kind | value as u8);
    }
    block.push(kind | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn string(block: &mut Vec<u8>, bytes: &[u8], dice: &mut Dice) {
    let coded = if dice.one_in(2) { Some(huffman(bytes)) } else { None };
    integer(block, if coded.is_some() { 0x80 } else { 0 }, 7, coded.as_deref().unwrap_or(bytes).len());
    block.extend_from_slice(coded.as_deref().unwrap_or(bytes));
}

static CODES: LazyLock<[u32; 256]> = LazyLock::new(codes);

/// RFC 7541 5.2.
pub fn huffman(bytes: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    let mut held = 0_u64;
    let mut bits = 0;
    for &byte in bytes {
        let len = CODE_LENGTHS[usize::from(byte)];
        held = held << len | u64::from(CODES[usize::from(byte)]);
        bits += len;
        while bits >= 8 {
            bits -= 8;
            coded.push((held >> bits) as u8);
        }
    }
    if bits > 0 {
        coded.push((held << (8 - bits)) as u8 | (0xff >> bits));
    }
    coded
}

/// RFC 7541 5.2, as far as the bits make sense; what is left is taken for padding.
pub fn unhuffman(coded: &[u8]) -> Vec<u8> {
    static BYTES: LazyLock<HashMap<(u8, u32), u8>> = LazyLock::new(|| {
        (0..=255).map(|byte| ((CODE_LENGTHS[byte as usize], CODES[byte as usize]), byte)).collect()
    });
    let mut bytes = Vec::new();
    let (mut len, mut code) = (0, 0);
    for at in 0..coded.len() * 8 {
        len += 1;
        code = code << 1 | u32::from(coded[at / 8] >> (7 - at % 8) & 1);
        if let Some(&byte) = BYTES.get(&(len, code)) {
            bytes.push(byte);
            (len, code) = (0, 0);
        } else if len == 30 {
            break;
        }
    }
    bytes
}

/// The code is canonical: codes of one length count up in the order of the bytes.
fn codes() -> [u32; 256] {
    let mut order: Vec<usize> = (0..256).collect();
    order.sort_by_key(|&byte| (CODE_LENGTHS[byte], byte));
    let mut codes = [0; 256];
    let mut next = 0_u64;
    for byte in order {
        let len = CODE_LENGTHS[byte];
        codes[byte] = (next >> (32 - len)) as u32;
        next += 1 << (32 - len);
    }
    codes
}
