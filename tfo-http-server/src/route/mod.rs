//! What a route asks of the connection that a request came on.
//!
//! The gate withholds what is unsafe by its method. A GET that changes something all the same is
//! the service's own matter (RFC 9110 9.2.1 puts it there): its route is wrapped in a [`ProofLayer`].

mod future;
#[cfg(feature = "hyper")]
mod hyper;
#[cfg(feature = "tower")]
mod tower;

use http::{HeaderName, Request};

use crate::AcceptInfo;

pub use future::ProofFuture;

/// RFC 8470 5.1. Whatever its value, and however often it is there, it means 1.
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// Lets requests run only when the connection they came on is proven.
///
/// A request that came in the SYN may be a replay until then; see [`AcceptInfo::proven`]. If it is
/// never proven the connection is aborted with a RST and the handler does not run.
///
/// A request that an intermediary has marked with `Early-Data` (RFC 8470 5.1) came to *it* early. No
/// wait on this side makes that safe: such a request is answered with 425 (Too Early) at once, and
/// the intermediary, or its client, sends it again.
///
/// It has to know the connection. Behind `axum::serve` with `ConnectInfo<AcceptInfo>`, and behind
/// tonic, it is in the request's extensions; elsewhere say [`of_connection`](Self::of_connection).
/// A request whose connection is not known is answered with 500 and does not run.
///
/// The other way round, an unsafe request that need not wait, is no layer but
/// [`replayable`](crate::ListenerBuilder::replayable): a layer comes too late to release bytes.
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "tower"))] mod example {
/// use axum::Router;
/// use axum::routing::get;
/// use tfo_http_server::ProofLayer;
///
/// # fn app() -> Router {
/// Router::new()
///     .route("/", get("hello")) // answered one round trip early
///     .route("/unsubscribe", get("done").layer(ProofLayer::every_request()))
/// # }
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ProofLayer {
    rule: Rule,
    connection: Option<AcceptInfo>,
}

impl ProofLayer {
    /// Every request needs a proven connection: for routes whose GET changes something.
    pub fn every_request() -> Self {
        Self { rule: Rule { only_unsafe: false, too_early: false }, connection: None }
    }

    /// Requests with an unsafe or unknown method need one: for a whole service.
    ///
    /// The listener's gate sees to that already for what came in its own SYN, but for what was
    /// declared [`replayable`](crate::ListenerBuilder::replayable). What this adds: requests marked
    /// `Early-Data` are answered with 425 if they are not safe, as RFC 8470 asks of an origin.
    pub fn unsafe_methods() -> Self {
        Self { rule: Rule { only_unsafe: true, too_early: false }, connection: None }
    }

    /// Answers 425 (Too Early, RFC 8470 5.2) instead of waiting. Only requests that came early get
    /// it, never one on a proven connection.
    ///
    /// Only for clients that are known to send such a request again by themselves. To all others it
    /// is a failed request that plain TCP would have completed; waiting costs them one round trip.
    pub fn answer_too_early(mut self) -> Self {
        self.rule.too_early = true;
        self
    }

    /// All requests come on this connection: for services that are made for one, as with plain hyper.
    pub fn of_connection(mut self, connection: AcceptInfo) -> Self {
        self.connection = Some(connection);
        self
    }

    /// Wraps a service: a tower one (feature `tower`), or a hyper one (feature `hyper`).
    pub fn wrap<S>(&self, service: S) -> ProofService<S> {
        ProofService { inner: service, layer: self.clone() }
    }
}

/// A service behind a [`ProofLayer`]. The inner service must be cheap to clone: the one that runs
/// after a wait is a clone.
#[derive(Clone, Debug)]
pub struct ProofService<S> {
    inner: S,
    layer: ProofLayer,
}

impl<S> ProofService<S> {
    fn judge<B>(&self, request: &Request<B>) -> Judgement {
        let connection = || self.layer.connection.clone().or_else(|| connection_of(request));
        self.layer.rule.judge(request, connection)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    only_unsafe: bool,
    too_early: bool,
}

/// What becomes of one request.
enum Judgement {
    Run,
    Wait(AcceptInfo),
    TooEarly,
    ConnectionUnknown,
}

impl Rule {
    fn judge<B>(self, request: &Request<B>, connection: impl FnOnce() -> Option<AcceptInfo>) -> Judgement {
        if self.only_unsafe && request.method().is_safe() {
            return Judgement::Run;
        }
        // RFC 8470 5.2: "A server cannot make a request that contains the Early-Data header field safe
        // for processing by waiting for the handshake to complete."
        if request.headers().contains_key(EARLY_DATA) {
            return Judgement::TooEarly;
        }
        match connection() {
            None => Judgement::ConnectionUnknown,
            Some(info) if info.is_proven() => Judgement::Run,
            Some(_) if self.too_early => Judgement::TooEarly,
            Some(info) => Judgement::Wait(info),
        }
    }
}

/// As axum and tonic put it there.
fn connection_of<B>(request: &Request<B>) -> Option<AcceptInfo> {
    let extensions = request.extensions();
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(info)) = extensions.get() {
        return Some(AcceptInfo::clone(info));
    }
    extensions.get().cloned()
}
