//! Header fields that decide what a request does.

/// What a field name means for replay safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Nothing.
    Plain,
    /// `Content-Length`: a body, unless the value is `0`.
    ContentLength,
    /// `Transfer-Encoding`: a body.
    TransferEncoding,
    /// The server may act on another method than the one in the request.
    MethodOverride,
    /// The bytes behind the request may belong to another protocol.
    Upgrade,
}

impl Field {
    /// The longest name that is not [`Plain`](Self::Plain).
    pub(super) const LONGEST: usize = b"x-http-method-override".len();

    /// What `name` means.
    ///
    /// Names are compared as the most careless of recipients would: without regard to case, and with every byte that
    /// is neither a letter nor a digit taken for `-`. CGI maps `-` to `_` (RFC 3875 4.1.18), and what stands on it
    /// maps other bytes as well, so `X_HTTP.Method` may end up as `X-HTTP-Method`.
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        // The length decides for nearly every field, so that few bytes are compared.
        match name.len() {
            7 if is(name, b"upgrade") => Self::Upgrade,
            13 if is(name, b"x-http-method") => Self::MethodOverride,
            14 if is(name, b"content-length") => Self::ContentLength,
            17 if is(name, b"transfer-encoding") => Self::TransferEncoding,
            17 if is(name, b"x-method-override") => Self::MethodOverride,
            22 if is(name, b"x-http-method-override") => Self::MethodOverride,
            _ => Self::Plain,
        }
    }
}

/// RFC 9110 5.6.2: `tchar`.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    ) || byte.is_ascii_alphanumeric()
}

/// RFC 9110 5.5: what a field value may hold: `field-vchar` (with `obs-text`), SP and HTAB.
pub(super) const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// RFC 9110 5.6.3: `value` without the optional white space around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 8.6: `1*DIGIT`, of a size that no parser overflows at, and in the form in which all write it.
pub(super) fn decimal(value: &[u8]) -> Option<usize> {
    let is_plain = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.len() <= 9;
    let digits = value.iter().map(|&byte| byte.is_ascii_digit().then(|| usize::from(byte - b'0')));
    digits.take_while(|_| is_plain).try_fold(0, |sum, digit| Some(10 * sum + digit?)).filter(|_| is_plain)
}

fn is(name: &[u8], canonical: &[u8]) -> bool {
    name.len() == canonical.len()
        && name.iter().zip(canonical).all(|(&byte, &wanted)| match byte.to_ascii_lowercase() {
            folded @ (b'a'..=b'z' | b'0'..=b'9') => folded == wanted,
            _ => wanted == b'-',
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_the_most_careless_would() {
        for name in ["X-HTTP-Method-Override", "x_http_method_override", "X.HTTP~METHOD-oVERRIDE"] {
            assert_eq!(Field::of(name.as_bytes()), Field::MethodOverride, "{name}");
        }
        for name in ["X-HTTP-Method", "x_http_method", "X-Method-Override", "x_method-override"] {
            assert_eq!(Field::of(name.as_bytes()), Field::MethodOverride, "{name}");
        }
        for name in ["Transfer-Encoding", "transfer_encoding", "TRANSFER-ENCODING"] {
            assert_eq!(Field::of(name.as_bytes()), Field::TransferEncoding, "{name}");
        }
        for name in ["Content-Length", "content_length", "cONTENT-lENGTH"] {
            assert_eq!(Field::of(name.as_bytes()), Field::ContentLength, "{name}");
        }
        assert_eq!(Field::of(b"UPGRADE"), Field::Upgrade);
        for name in ["", "Host", "Upgrad", "Upgrades", "Content-Lengths", "Content-Type", "X-HTTP-Methods"] {
            assert_eq!(Field::of(name.as_bytes()), Field::Plain, "{name}");
        }
    }

    #[test]
    fn longest_is_the_longest() {
        let longer = [b'x'; Field::LONGEST + 1];
        assert_eq!(Field::of(&longer), Field::Plain);
        assert_eq!(Field::of(b"x-http-method-override"), Field::MethodOverride);
        assert_eq!(Field::LONGEST, 22);
    }

    #[test]
    fn lengths_are_plain_numbers() {
        assert_eq!((decimal(b"0"), decimal(b"7"), decimal(b"120")), (Some(0), Some(7), Some(120)));
        assert_eq!(decimal(b"999999999"), Some(999_999_999));
        for value in [&b""[..], b"00", b"07", b"+7", b"-7", b"7 ", b"7,7", b"0x7", b"1000000000"] {
            assert_eq!(decimal(value), None, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn optional_white_space_is_trimmed() {
        assert_eq!(trim(b" \t 0 \t"), b"0");
        assert_eq!(trim(b"0 0"), b"0 0");
        assert_eq!(trim(b" \t"), b"");
    }
}
