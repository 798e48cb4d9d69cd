//! TLS (RFC 8446): the ClientHello, and what may follow it.

use super::{Classifier, FirstFlight, Protocol, Stop};

/// RFC 8446 5.1: the content type of a handshake record.
pub(super) const HANDSHAKE: u8 = 22;

/// RFC 8446 5.1: the content type of a record of application data.
const APPLICATION_DATA: u8 = 23;

/// RFC 8446 4: the type of a ClientHello message.
const CLIENT_HELLO: u8 = 1;

/// RFC 8446 5.1: "The length MUST NOT exceed 2^14 bytes."
const MAX_PLAINTEXT: usize = 1 << 14;

/// RFC 8446 5.2: "The length MUST NOT exceed 2^14 + 256 bytes."
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;

/// RFC 8446 D.4: a client that offers early data sends this between the ClientHello and the early data.
const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// RFC 8446 5.1: content type, version and length.
const RECORD_HEAD: usize = 5;

/// RFC 8446 4: message type and length.
const MESSAGE_HEAD: usize = 4;

/// Classifies a flight that starts with the content type of a handshake record.
pub(super) fn classify(flight: &[u8], rules: &Classifier) -> FirstFlight {
    let is_hello = matches!(flight, [HANDSHAKE, 3, 1..=3, _, _, CLIENT_HELLO, ..]);
    if !is_hello {
        return FirstFlight::stopped(Protocol::Unknown, 0, 0, Stop::UnknownProtocol);
    }
    let (mut cut, mut stop) = match client_hello(flight) {
        Hello::Complete(end) => (end, None),
        Hello::Unfinished => (flight.len(), None),
        Hello::Unsafe(end) => (end, Some(Stop::UnsafeRecord)),
    };
    if stop.is_none() {
        (cut, stop) = behind_client_hello(flight, cut, rules);
    }
    match stop {
        None => FirstFlight::whole(Protocol::Tls, cut, 0),
        Some(stop) => FirstFlight::stopped(Protocol::Tls, cut, 0, stop),
    }
}

enum Hello {
    /// The ClientHello ends here, and so does its last record.
    Complete(usize),
    /// The flight ends before the ClientHello does.
    Unfinished,
    /// The cut ends here: at a record that is none, or where a record goes on behind the ClientHello.
    Unsafe(usize),
}

/// Where the ClientHello ends. It may span records (RFC 8446 5.1: "Handshake messages MAY be [...] fragmented across
/// several records").
fn client_hello(flight: &[u8]) -> Hello {
    // The head of the message may itself be spread over records.
    let mut message = [0; MESSAGE_HEAD];
    let mut seen = 0;
    let mut at = 0;
    loop {
        let rest = flight.get(at..).unwrap_or_default();
        let record = match rest {
            [HANDSHAKE, 3, 1..=3, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, 1..=3] | [HANDSHAKE, 3, 1..=3, _] => {
                return Hello::Unfinished;
            }
            _ => return Hello::Unsafe(at),
        };
        // RFC 8446 5.1: "Implementations MUST NOT send zero-length fragments of Handshake types".
        if record == 0 || record > MAX_PLAINTEXT {
            return Hello::Unsafe(at);
        }
        let body = at + RECORD_HEAD;
        for (slot, &byte) in message.iter_mut().skip(seen).zip(flight.iter().skip(body).take(record)) {
            *slot = byte;
        }
        let before = seen;
        seen += record;
        at = body + record;
        if seen >= MESSAGE_HEAD && flight.len() >= body + (MESSAGE_HEAD.saturating_sub(before)) {
            let [_, high, middle, low] = message;
            let len = MESSAGE_HEAD + u32::from_be_bytes([0, high, middle, low]) as usize;
            if seen > len {
                // `before < len`, or the loop had ended: the message ends inside this record.
                let end = body + (len - before);
                return if end < flight.len() { Hello::Unsafe(end) } else { Hello::Unfinished };
            }
            if seen == len {
                return if at <= flight.len() { Hello::Complete(at) } else { Hello::Unfinished };
            }
        }
        if at >= flight.len() {
            return Hello::Unfinished;
        }
    }
}

/// How far the cut reaches behind a ClientHello that ended at `at`, and why it ends there.
fn behind_client_hello(flight: &[u8], mut at: usize, rules: &Classifier) -> (usize, Option<Stop>) {
    let rest = flight.get(at..).unwrap_or_default();
    if CHANGE_CIPHER_SPEC.starts_with(rest) {
        return (flight.len(), None);
    }
    if rest.starts_with(&CHANGE_CIPHER_SPEC) {
        at += CHANGE_CIPHER_SPEC.len();
    }
    loop {
        let (len, end) = match flight.get(at..).unwrap_or_default() {
            [] => return (at, None),
            [APPLICATION_DATA, ..] if !rules.tls_early_data => return (at, Some(Stop::EarlyData)),
            [APPLICATION_DATA]
            | [APPLICATION_DATA, 3]
            | [APPLICATION_DATA, 3, 3]
            | [APPLICATION_DATA, 3, 3, _] => {
                return (flight.len(), None);
            }
            [APPLICATION_DATA, 3, 3, high, low, ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                (len, at + RECORD_HEAD + len)
            }
            _ => return (at, Some(Stop::UnsafeRecord)),
        };
        if len == 0 || len > MAX_CIPHERTEXT {
            return (at, Some(Stop::UnsafeRecord));
        }
        if end >= flight.len() {
            return (flight.len(), None);
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello message with a body of `len` bytes.
    fn hello(len: u32) -> Vec<u8> {
        let mut message = len.to_be_bytes().to_vec();
        message[0] = CLIENT_HELLO;
        message.resize(MESSAGE_HEAD + len as usize, 0xab);
        message
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, if kind == HANDSHAKE { 1 } else { 3 }], len.as_slice(), body].concat()
    }

    fn classify(flight: &[u8]) -> (usize, Option<Stop>) {
        let seen = FirstFlight::classify(flight);
        assert_eq!((seen.protocol(), seen.requests()), (Protocol::Tls, 0));
        (seen.cut(), seen.stop())
    }

    fn vouched(flight: &[u8]) -> (usize, Option<Stop>) {
        let seen = Classifier::new().vouch_for_tls_early_data(true).classify(flight);
        (seen.cut(), seen.stop())
    }

    #[test]
    fn a_client_hello_rides() {
        for len in [1, 200, 512, 16_380] {
            let flight = record(HANDSHAKE, &hello(len));
            assert_eq!(classify(&flight), (flight.len(), None));
        }
    }

    #[test]
    fn every_beginning_of_a_client_hello_rides_from_its_type_on() {
        let flight = record(HANDSHAKE, &hello(100));
        for len in 1..flight.len() {
            let seen = FirstFlight::classify(&flight[..len]);
            assert_eq!(seen.cut(), if len < 6 { 0 } else { len });
        }
    }

    #[test]
    fn a_client_hello_may_span_records() {
        let message = hello(300);
        for split in [1, 2, 3, 4, 5, 100, 303] {
            let flight =
                [record(HANDSHAKE, &message[..split]), record(HANDSHAKE, &message[split..]), b"x".to_vec()]
                    .concat();
            assert_eq!(classify(&flight), (flight.len() - 1, Some(Stop::UnsafeRecord)), "{split}");
            let hello = &flight[..flight.len() - 1];
            for len in 6..=hello.len() {
                assert_eq!(classify(&hello[..len]), (len, None), "{split} {len}");
            }
        }
        let bytewise: Vec<u8> = message.iter().flat_map(|byte| record(HANDSHAKE, &[*byte])).collect();
        assert_eq!(classify(&bytewise), (bytewise.len(), None));
        assert_eq!(classify(&[&bytewise[..], b"x"].concat()), (bytewise.len(), Some(Stop::UnsafeRecord)));
    }

    #[test]
    fn nothing_hides_in_the_record_of_the_client_hello() {
        let mut body = hello(50);
        body.extend_from_slice(&[11, 0, 0, 0]);
        let flight = record(HANDSHAKE, &body);
        assert_eq!(classify(&flight), (5 + 54, Some(Stop::UnsafeRecord)));
        let split = [record(HANDSHAKE, &body[..20]), record(HANDSHAKE, &body[20..])].concat();
        assert_eq!(classify(&split), (10 + 54, Some(Stop::UnsafeRecord)));
        assert_eq!(classify(&split[..10 + 54]), (10 + 54, None));
    }

    #[test]
    fn a_broken_record_stops_the_cut() {
        let message = hello(300);
        let first = record(HANDSHAKE, &message[..100]);
        let empty = record(HANDSHAKE, b"");
        let alert = record(21, &[1, 0]);
        let long = [&[HANDSHAKE, 3, 1, 0x40, 1], message.as_slice()].concat();
        for second in [empty, alert, long] {
            assert_eq!(classify(&[first.clone(), second].concat()), (first.len(), Some(Stop::UnsafeRecord)));
        }
        for start in [[22, 3, 0, 0, 9, 1], [22, 3, 4, 0, 9, 1], [22, 2, 1, 0, 9, 1], [22, 3, 1, 0, 9, 2]] {
            let seen = FirstFlight::classify(&start);
            assert_eq!((seen.cut(), seen.protocol()), (0, Protocol::Unknown));
        }
    }

    #[test]
    fn early_data_needs_somebody_who_vouches() {
        let hello = record(HANDSHAKE, &hello(100));
        let early = record(APPLICATION_DATA, b"secret");
        for middle in [&[][..], &CHANGE_CIPHER_SPEC] {
            let front = [&hello, middle].concat();
            assert_eq!(classify(&front), (front.len(), None));
            let flight = [&front[..], &early, &early].concat();
            assert_eq!(classify(&flight), (front.len(), Some(Stop::EarlyData)));
            for len in front.len()..=flight.len() {
                assert_eq!(vouched(&flight[..len]), (len, None));
            }
            let flight = [&flight[..], &CHANGE_CIPHER_SPEC].concat();
            assert_eq!(vouched(&flight), (flight.len() - 6, Some(Stop::UnsafeRecord)));
        }
    }

    #[test]
    fn one_change_cipher_spec_and_only_the_right_one() {
        let hello = record(HANDSHAKE, &hello(100));
        let twice = [&hello[..], &CHANGE_CIPHER_SPEC, &CHANGE_CIPHER_SPEC].concat();
        assert_eq!(vouched(&twice), (hello.len() + 6, Some(Stop::UnsafeRecord)));
        for len in 0..6 {
            let flight = [&hello[..], &CHANGE_CIPHER_SPEC[..len]].concat();
            assert_eq!(classify(&flight), (flight.len(), None));
        }
        let wrong = [&hello[..], &[20, 3, 3, 0, 1, 2]].concat();
        assert_eq!(vouched(&wrong), (hello.len(), Some(Stop::UnsafeRecord)));
        for record in [record(APPLICATION_DATA, b""), [23, 3, 3, 0x41, 1].to_vec(), [23, 3, 1, 0, 1].to_vec()]
        {
            let flight = [&hello[..], &record].concat();
            assert_eq!(vouched(&flight), (hello.len(), Some(Stop::UnsafeRecord)));
        }
    }
}
