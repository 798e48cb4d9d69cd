//! What may ride: how many leading bytes of a first flight are provably replay-safe.
//!
//! A SYN can be delivered twice (RFC 7413 2.1), and whoever recorded one can send it again: bytes in it may reach
//! the application more than once. Both ends ask the same question before they let that happen. The client asks it
//! about the bytes that the application has written up to its first flush; the server asks it about the bytes that
//! arrived in a SYN, before it hands them to the application.
//!
//! The answer is the *cut*: that many leading bytes hold nothing but requests with safe methods and without a body
//! (RFC 9110 9.2.1), protocol furniture that asks for nothing, and possibly the harmless beginning of something that
//! the sender has yet to finish. Whoever finishes it does so behind the handshake, and has proven the address.
//!
//! ```
//! use tfo_core::first_flight::{FirstFlight, Protocol, Stop};
//!
//! let get = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
//! let flight = FirstFlight::classify(get);
//! assert!(flight.is_whole());
//! assert_eq!((flight.protocol(), flight.requests()), (Protocol::Http1, 1));
//!
//! let pipelined = [get.as_slice(), b"DELETE /1 HTTP/1.1\r\nHost: example.org\r\n\r\n"].concat();
//! let flight = FirstFlight::classify(&pipelined);
//! assert_eq!((flight.cut(), flight.stop()), (get.len(), Some(Stop::UnsafeMethod)));
//! ```
//!
//! # The yardstick
//!
//! The peer's parser is not known, and many are more lenient than the standard. So the classifier is strict: the cut
//! ends where anything begins that it does not know to be well-formed, because a parser that accepts it could see
//! another message than we do. What it takes for *unfinished* is a strict prefix of a well-formed message, so no
//! parser can see more in it than the bytes say.
//!
//! What no classifier can know: a service that changes its state on GET. RFC 9110 9.2.1 puts that on the service.

use core::fmt;

mod fields;
pub mod frame;
mod hpack;
mod http1;
mod http2;
mod huffman;
mod tls;

/// What a first flight holds, and how much of it is provably replay-safe.
///
/// See the [module](self) for what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstFlight {
    cut: usize,
    requests: usize,
    protocol: Protocol,
    stop: Option<Stop>,
}

impl FirstFlight {
    /// Classifies `flight` by the default rules: `Classifier::new().classify(flight)`.
    #[must_use]
    pub fn classify(flight: &[u8]) -> Self {
        Classifier::new().classify(flight)
    }

    /// How many leading bytes are provably replay-safe; at most the length of the flight.
    #[must_use]
    pub const fn cut(&self) -> usize {
        self.cut
    }

    /// Whether all of the flight is replay-safe, so that all of it may ride. True for an empty flight.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.stop.is_none()
    }

    /// The protocol that the flight speaks, as far as the classifier knows it.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How many requests with a complete head the cut holds. All of them are safe. Always 0 for TLS.
    #[must_use]
    pub const fn requests(&self) -> usize {
        self.requests
    }

    /// Why the cut ends before the flight does; `None` if the flight [is whole](Self::is_whole).
    #[must_use]
    pub const fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// All `len` bytes are replay-safe.
    const fn whole(protocol: Protocol, len: usize, requests: usize) -> Self {
        Self { cut: len, requests, protocol, stop: None }
    }

    /// The bytes from `cut` on are not, and there is at least one of them.
    const fn stopped(protocol: Protocol, cut: usize, requests: usize, stop: Stop) -> Self {
        Self { cut, requests, protocol, stop: Some(stop) }
    }
}

/// The protocol of a first flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 3.3): the flight starts with the whole connection preface.
    Http2,
    /// TLS (RFC 8446): the flight starts with a ClientHello.
    Tls,
    /// None of these, or too few bytes to tell.
    #[default]
    Unknown,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1",
            Self::Http2 => "HTTP/2",
            Self::Tls => "TLS",
            Self::Unknown => "an unknown protocol",
        })
    }
}

/// Why a cut ended before its flight did: what begins with the first byte behind the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// Nothing that the classifier knows, or too few bytes to tell.
    UnknownProtocol,
    /// A request whose method is not safe, or not known.
    UnsafeMethod,
    /// The beginning of a request, too short to show the whole method.
    UnfinishedMethod,
    /// A request that announces or carries a body.
    RequestBody,
    /// A request with a header that tells the server to act on another method than the one in the request.
    MethodOverride,
    /// A request head that breaks the grammar of HTTP, so that two parsers may read it in two ways.
    MalformedRequest,
    /// Bytes behind a request that asks to change the protocol.
    BehindUpgrade,
    /// A request whose header block cannot be read without the state of an HPACK decoder.
    CompressedHeaders,
    /// An HTTP/2 frame that is not known to be harmless.
    UnsafeFrame,
    /// An HTTP/2 frame that breaks the rules of its type, or too few bytes of one to tell its type.
    MalformedFrame,
    /// TLS early data that nobody has vouched for.
    EarlyData,
    /// Bytes in a TLS first flight that are neither a ClientHello nor what may follow it.
    UnsafeRecord,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownProtocol => "the protocol is unknown",
            Self::UnsafeMethod => "the method is not safe",
            Self::UnfinishedMethod => "the method is cut off",
            Self::RequestBody => "the request has a body",
            Self::MethodOverride => "a header overrides the method",
            Self::MalformedRequest => "the request is malformed",
            Self::BehindUpgrade => "the protocol may change here",
            Self::CompressedHeaders => "the header compression hides what the request does",
            Self::UnsafeFrame => "the HTTP/2 frame is not known to be harmless",
            Self::MalformedFrame => "the HTTP/2 frame is malformed or cut off",
            Self::EarlyData => "nobody vouched for the TLS early data",
            Self::UnsafeRecord => "the TLS record is not part of a ClientHello",
        })
    }
}

/// The rules by which first flights are judged.
///
/// The default takes nothing on trust: safe methods only, and no TLS early data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classifier {
    methods: Methods,
    tls_early_data: bool,
}

/// Which methods a request may have that may be processed twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Methods {
    /// GET, HEAD, OPTIONS and TRACE, without a body (RFC 9110 9.2.1).
    #[default]
    Safe,
    /// These, and PUT and DELETE, which may have a body (RFC 9110 9.2.2).
    ///
    /// Twice is as good as once, if nothing else happens between: a copy of the SYN that comes late undoes what was
    /// done since.
    Idempotent,
}

impl Classifier {
    /// The default rules.
    #[must_use]
    pub const fn new() -> Self {
        Self { methods: Methods::Safe, tls_early_data: false }
    }

    /// Which methods count as replay-safe. Default: [`Methods::Safe`].
    #[must_use]
    pub const fn methods(mut self, methods: Methods) -> Self {
        self.methods = methods;
        self
    }

    /// Whether TLS early data (RFC 8446 2.3) counts as replay-safe. Default: no.
    ///
    /// It is encrypted, so only the layer that wrote it, or that can decide later what to do with it, can say so.
    /// A caller that passes `true` vouches for **all** records of application data that follow a ClientHello.
    #[must_use]
    pub const fn vouch_for_tls_early_data(mut self, vouch: bool) -> Self {
        self.tls_early_data = vouch;
        self
    }

    /// Classifies `flight`, which must start with the first byte of the connection.
    ///
    /// Pure, without allocation, and linear in the length of the flight.
    #[must_use]
    #[inline]
    pub fn classify(&self, flight: &[u8]) -> FirstFlight {
        match flight.first() {
            None => FirstFlight::whole(Protocol::Unknown, 0, 0),
            Some(&tls::HANDSHAKE) => tls::classify(flight, self),
            Some(_) if flight.starts_with(frame::PREFACE) => http2::classify(flight, self),
            Some(_) => http1::classify(flight, self),
        }
    }

    /// The methods whose requests may be processed twice: the one place that knows them.
    ///
    /// RFC 9110 9.2.1: "Of the request methods defined by this specification, the GET, HEAD, OPTIONS, and TRACE
    /// methods are defined to be safe." RFC 9110 9.2.2: "PUT, DELETE, and safe request methods are idempotent."
    /// Frequent ones first: they are compared in this order.
    const fn allowed(&self) -> &'static [&'static [u8]] {
        match self.methods {
            Methods::Safe => &[b"GET", b"HEAD", b"OPTIONS", b"TRACE"],
            Methods::Idempotent => &[b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"],
        }
    }

    /// Whether a request with this method may be processed twice.
    ///
    /// RFC 9110 9.1: "The method token is case-sensitive".
    fn allows(&self, method: &[u8]) -> bool {
        self.allowed().contains(&method)
    }

    /// Whether such a request may have a body. With a safe method nobody knows what a body is for (RFC 9110 9.3.1).
    fn allows_body(&self, method: &[u8]) -> bool {
        self.methods == Methods::Idempotent && matches!(method, b"PUT" | b"DELETE")
    }
}

/// Why a step of a parser gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The bytes ran out, and all that were there were well-formed.
    Unfinished,
    /// The message is not provably safe, whatever may follow.
    Unsafe(Stop),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_flight_is_whole() {
        let flight = FirstFlight::classify(b"");
        assert_eq!(flight, FirstFlight::whole(Protocol::Unknown, 0, 0));
        assert!(flight.is_whole());
    }

    #[test]
    fn what_is_not_known_does_not_ride() {
        let unknown: [&[u8]; 16] = [
            b"\0",
            b"\r\n",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b" GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            b"\x04\x01\0\x50\xc0\0\x02\x01\0",
            b"\x05\x01\0",
            b"get key\r\n",
            b"set key 0 0 1\r\nx\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO example.org\r\n",
            b"SSH-2.0-x\r\n",
            b"\x15\x03\x01\0\x02\x01\0",
            b"\x17\x03\x03\0\x01x",
        ];
        for flight in unknown {
            let seen = FirstFlight::classify(flight);
            let expected = FirstFlight::stopped(Protocol::Unknown, 0, 0, Stop::UnknownProtocol);
            assert_eq!(seen, expected, "{}", flight.escape_ascii());
        }
    }

    #[test]
    fn stops_speak_plainly() {
        let text = Stop::UnsafeMethod.to_string();
        assert_eq!(text, "the method is not safe");
        assert_eq!(Protocol::Http2.to_string(), "HTTP/2");
    }
}
