//! TCP options, and the Fast Open option among them.

/// The option number of TCP Fast Open (RFC 7413 4.1.1).
const FAST_OPEN: u8 = 34;
/// The two experimental option numbers (RFC 6994).
const EXPERIMENTAL: [u8; 2] = [253, 254];
/// The experiment id that TCP Fast Open used before it had a number (RFC 7413 9).
const FAST_OPEN_EXID: [u8; 2] = [0xF9, 0x89];

/// A TCP Fast Open option, as one packet carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastOpenOption {
    cookie: Vec<u8>,
    experimental: bool,
}

impl FastOpenOption {
    /// The cookie; empty in a request for one.
    pub fn cookie(&self) -> &[u8] {
        &self.cookie
    }

    /// Whether it asks for a cookie instead of carrying one.
    pub fn is_request(&self) -> bool {
        self.cookie.is_empty()
    }

    /// Whether it is the old form: option 254 or 253 with the experiment id `0xF989`.
    pub fn is_experimental(&self) -> bool {
        self.experimental
    }

    pub(super) fn find(options: &[u8]) -> Option<Self> {
        walk(options).find_map(|option| option.fast_open())
    }
}

/// One option of a TCP header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpOption<'a> {
    /// The option number.
    pub(crate) kind: u8,
    /// Where it starts in the options area.
    pub(crate) offset: usize,
    /// What follows the number and the length.
    pub(crate) data: &'a [u8],
}

impl TcpOption<'_> {
    /// The bytes it takes, number and length included.
    pub(crate) fn len(&self) -> usize {
        self.data.len() + 2
    }

    pub(crate) fn fast_open(&self) -> Option<FastOpenOption> {
        // RFC 7413 erratum 4238: length 2 (no cookie) to 18.
        if self.kind == FAST_OPEN && self.data.len() <= 16 {
            return Some(FastOpenOption { cookie: self.data.to_vec(), experimental: false });
        }
        let cookie = self.data.strip_prefix(&FAST_OPEN_EXID)?;
        let experimental = EXPERIMENTAL.contains(&self.kind) && cookie.len() <= 16;
        experimental.then(|| FastOpenOption { cookie: cookie.to_vec(), experimental })
    }

    pub(crate) fn mss(&self) -> Option<u16> {
        match (self.kind, self.data) {
            (2, &[high, low]) => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    }
}

/// Goes through the options up to the end mark, or to the first that makes no sense. Padding is left out.
pub(crate) fn walk(options: &[u8]) -> impl Iterator<Item = TcpOption<'_>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        loop {
            match *options.get(offset)? {
                0 => return None,
                1 => offset += 1,
                kind => {
                    let len = usize::from(*options.get(offset + 1)?);
                    let data = options.get(offset + 2..offset + len)?;
                    let option = TcpOption { kind, offset, data };
                    offset += len;
                    return Some(option);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_both_forms() {
        let ours = FastOpenOption::find(&[2, 4, 5, 180, 1, 34, 6, 1, 2, 3, 4]).unwrap();
        assert_eq!((ours.cookie(), ours.is_experimental()), (&[1, 2, 3, 4][..], false));
        let old = FastOpenOption::find(&[254, 4, 0xF9, 0x89]).unwrap();
        assert!(old.is_request() && old.is_experimental());
        assert_eq!(FastOpenOption::find(&[254, 4, 0, 1]), None);
    }

    #[test]
    fn stops_at_nonsense() {
        for options in [&[34][..], &[34, 0, 34, 2], &[34, 1], &[34, 9, 1], &[0, 34, 2]] {
            assert_eq!(FastOpenOption::find(options), None, "{options:?}");
        }
    }
}
