//! What may ride in the SYN: the caller's choice, applied to a first flight.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, LazyLock};

use http::request::Parts;
use tfo_core::FirstFlight;
use tfo_core::first_flight::{Classifier, Methods, Protocol};

use crate::heads;
use crate::info::Reason;

/// Which first flights may ride in the SYN.
///
/// What rides may reach the server twice: the network may deliver a SYN twice (RFC 7413 section
/// 2.1), and whoever has recorded one can send it again, at any time. With the default that does no
/// harm. It holds for *all* requests of a first flight: what begins with one that may not ride
/// follows behind the handshake.
///
/// `TFO_HTTP=off` in the environment, when the first connection is made, is [`SynData::Never`] for
/// the whole process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SynData {
    /// Requests with a safe method (RFC 9110 section 9.2.1: GET, HEAD, OPTIONS, TRACE) and without a
    /// body, and TLS ClientHellos. Everything else gets a handshake without data.
    #[default]
    SafeMethods,
    /// These, and PUT and DELETE with their bodies (RFC 9110 section 9.2.2). A SYN that is delivered
    /// again late may undo what was done since: the old PUT comes back.
    IdempotentMethods,
    /// What a rule of the caller's allows: [`SynData::rule`].
    Rule(Rule),
    /// Everything, whatever it does. A request may be executed twice, by a packet that the network
    /// repeats or a recording that somebody plays.
    ///
    /// It is not repeated by this side: a refused or silent server is a
    /// [`ConnectError`](crate::ConnectError) with
    /// [`maybe_executed`](crate::ConnectError::maybe_executed), and no second connection is tried. So is
    /// a path that swallows what follows the handshake: a connection on which no answer comes, and whose
    /// peer's kernel leaves five TCP keepalive probes in five seconds unanswered.
    DangerEverything,
    /// None: no option is set, no cookie asked for. A cookie lets a server recognise a client.
    Never,
}

impl SynData {
    /// By a rule of the caller's: it is asked about every request of a first flight, in order, safe
    /// ones too.
    ///
    /// The rule sees the head of the request: method, URI (with HTTP/1 without host, which is in the
    /// headers) and headers. It runs on the connection's task, and must not block; it may be asked
    /// about a request more than once. A rule that panics has said [`Ride::No`]: the request is sent,
    /// behind the handshake.
    ///
    /// It is not asked about what it could not judge, which does not ride: a head that is not
    /// complete in the first flight, or has errors; with HTTP/1 a body without a length
    /// (`Transfer-Encoding`). About HTTP/2 it is asked with the feature `http2`; without that
    /// HTTP/2 does not ride by a rule. Of TLS a ClientHello rides, as by default.
    ///
    /// ```
    /// use tfo_http::{Ride, SynData, TfoConnector};
    ///
    /// let mut connector = TfoConnector::new();
    /// connector.set_syn_data(SynData::rule(|head| {
    ///     if head.method.is_safe() || head.headers.contains_key("idempotency-key") {
    ///         Ride::Repeatable // the server knows what it has done
    ///     } else {
    ///         Ride::No
    ///     }
    /// }));
    /// ```
    pub fn rule(rule: impl Fn(&Parts) -> Ride + Send + Sync + 'static) -> Self {
        Self::Rule(Rule(Arc::new(rule)))
    }

    /// Whether TCP Fast Open is wanted at all.
    pub(crate) fn is_wanted(&self) -> bool {
        *self != Self::Never && !*SWITCHED_OFF
    }

    /// Whether requests with a body may ride: then it is worth waiting for the body.
    pub(crate) fn may_take_bodies(&self) -> bool {
        !matches!(self, Self::SafeMethods | Self::Never)
    }

    /// Judges a first flight.
    pub(crate) fn judge(&self, flight: &[u8]) -> Clearance {
        let class = FirstFlight::classify(flight);
        match self {
            Self::Never => Clearance { early: 0, repeatable: true, safe: true, stop: Some(Reason::Off) },
            Self::SafeMethods => Clearance::of(&class),
            Self::DangerEverything => Clearance {
                early: flight.len(),
                repeatable: class.is_whole(),
                safe: class.is_whole(),
                stop: None,
            },
            Self::IdempotentMethods => {
                let wider = Classifier::new().methods(Methods::Idempotent).classify(flight);
                Clearance { safe: wider.cut() <= class.cut(), ..Clearance::of(&wider) }
            }
            Self::Rule(rule) => match class.protocol() {
                Protocol::Tls => Clearance::of(&class),
                _ => {
                    let judged = heads::judge(flight, &class, |head| rule.ask(head));
                    Clearance { safe: judged.early <= class.cut(), ..judged }
                }
            },
        }
    }
}

/// A caller's rule: made by [`SynData::rule`]. A clone is the same rule; two rules are equal if one
/// is a clone of the other.
#[derive(Clone)]
pub struct Rule(Arc<dyn Fn(&Parts) -> Ride + Send + Sync>);

impl Rule {
    /// A panic would end the connection's task, and with HTTP/2 poison what all requests on it share:
    /// they would fail although nothing was sent.
    fn ask(&self, head: &Parts) -> Ride {
        // What it leaves half-made is its own.
        panic::catch_unwind(AssertUnwindSafe(|| (self.0)(head))).unwrap_or(Ride::No)
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rule")
    }
}

/// What a [rule](SynData::rule) says of a request: may it ride in the SYN, and may this side send it
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ride {
    /// It waits for the handshake.
    No,
    /// It may ride, and is not sent again by the connection: as [`SynData::DangerEverything`], for this
    /// request. A [`Client`](crate::Client) that repeats what it may (safe methods) repeats it all the same.
    Once,
    /// It may ride, and if the SYN is refused or not answered, be sent again on another connection.
    Repeatable,
}

/// What a policy says of a first flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clearance {
    /// How many leading bytes may go out before a handshake is complete; 0: none may.
    pub(crate) early: usize,
    /// Whether this side may send them a second time.
    pub(crate) repeatable: bool,
    /// Whether they are replay-safe whatever the policy says: a server may act on them at once.
    pub(crate) safe: bool,
    /// Why it is not the whole flight.
    pub(crate) stop: Option<Reason>,
}

impl Clearance {
    /// What the classifier says. A beginning without a request gains nothing.
    fn of(class: &FirstFlight) -> Self {
        let gains = class.is_whole() || class.requests() > 0 || class.protocol() == Protocol::Tls;
        let early = if gains { class.cut() } else { 0 };
        Self { early, repeatable: true, safe: true, stop: class.stop().map(Reason::NotReplaySafe) }
    }
}

/// `TFO_HTTP=off`; read once.
static SWITCHED_OFF: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("TFO_HTTP").is_some_and(|value| value.eq_ignore_ascii_case("off")));

#[cfg(test)]
mod tests {
    use tfo_core::first_flight::Stop;

    use super::*;

    const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    const PUT: &[u8] = b"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
    const POST: &[u8] = b"POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";

    fn judged(policy: &SynData, parts: &[&[u8]]) -> (usize, bool, bool, bool) {
        let clearance = policy.judge(&parts.concat());
        (clearance.early, clearance.repeatable, clearance.safe, clearance.stop.is_none())
    }

    #[test]
    fn each_policy_has_its_cut() {
        let (get, both) = (GET.len(), GET.len() + PUT.len());
        let safe = SynData::SafeMethods;
        assert_eq!(judged(&safe, &[GET]), (get, true, true, true));
        assert_eq!(judged(&safe, &[GET, POST]), (get, true, true, false));
        assert_eq!(judged(&safe, &[POST, GET]), (0, true, true, false));
        let idempotent = SynData::IdempotentMethods;
        assert_eq!(judged(&idempotent, &[GET]), (get, true, true, true));
        assert_eq!(judged(&idempotent, &[GET, PUT]), (both, true, false, true));
        assert_eq!(judged(&idempotent, &[GET, PUT, POST]), (both, true, false, false));
        let all = SynData::DangerEverything;
        assert_eq!(judged(&all, &[GET]), (get, true, true, true));
        assert_eq!(judged(&all, &[POST]), (POST.len(), false, false, true));
        assert_eq!(judged(&all, &[b"\0what"]), (5, false, false, true));
        assert_eq!(judged(&SynData::Never, &[GET]), (0, true, true, false));
    }

    #[test]
    fn a_rule_is_asked_about_every_request() {
        let rule = SynData::rule(|head| match head.uri.path() {
            "/a" => Ride::Repeatable,
            "/b" => Ride::Once,
            _ => Ride::No,
        });
        assert_eq!(judged(&rule, &[GET]), (GET.len(), true, true, true));
        assert_eq!(judged(&rule, &[PUT]), (PUT.len(), false, false, true));
        assert_eq!(judged(&rule, &[GET, PUT, POST]), (GET.len() + PUT.len(), false, false, false));
        assert_eq!(judged(&rule, &[POST, GET]), (0, true, true, false));
        let clearance = rule.judge(POST);
        assert_eq!(clearance.stop, Some(Reason::ByRule));
        let unknown = rule.judge(b"\0what");
        assert_eq!((unknown.early, unknown.stop), (0, Some(Reason::NotReplaySafe(Stop::UnknownProtocol))));
    }

    #[test]
    fn a_rule_that_panics_has_said_no() {
        let rule = SynData::rule(|head| {
            assert_eq!(head.uri.path(), "/a", "as this test wants it");
            Ride::Repeatable
        });
        assert_eq!(judged(&rule, &[GET, POST]), (GET.len(), true, true, false));
        assert_eq!(rule.judge(POST).stop, Some(Reason::ByRule));
    }

    #[test]
    fn rules_are_equal_to_their_clones_only() {
        let (one, other) = (SynData::rule(|_| Ride::No), SynData::rule(|_| Ride::No));
        assert!(one == one.clone() && one != other && one != SynData::Never);
    }
}
