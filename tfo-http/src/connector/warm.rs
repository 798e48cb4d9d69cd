//! Fetching a cookie ahead of the first request.

use std::future::{Future, poll_fn};

use http::Uri;

use super::dial::{self, FirstCall};
use super::{Resolve, TfoConnector, addresses};
use crate::error::{ConnectError, ConnectErrorKind};
use crate::info::{Reason, SynOutcome};

/// What [`TfoConnector::warm`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warm {
    /// A cookie was asked for. Whether the server gave one, the next visit tells.
    Asked,
    /// A cookie was cached, or none is needed: nothing was sent.
    Ready,
    /// Nothing that helps, and why.
    Not(Reason),
}

impl<R: Resolve> TfoConnector<R> {
    /// Fetches a cookie for the server of a URI, so that the first request to it rides: an ordinary
    /// handshake that asks for one, then the end of the connection. Where a cookie is cached nothing
    /// is sent.
    ///
    /// Of several addresses the one that answers first gives the cookie. It goes into the kernel's
    /// cache, which all processes of a network namespace share. Where TCP Fast Open is switched off
    /// nothing is sent either. Dropping the future gives it up.
    ///
    /// # Errors
    ///
    /// As for a request: the name was not resolved, or no address answered.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), tfo_http::ConnectError> {
    /// use tfo_http::TfoConnector;
    ///
    /// let connector = TfoConnector::new();
    /// let warm = connector.warm("http://example.com/".parse().expect("a URI")).await?;
    /// println!("{warm:?}"); // Asked: the first request rides, if the server gave a cookie
    /// # Ok(())
    /// # }
    /// ```
    pub fn warm(&self, uri: Uri) -> impl Future<Output = Result<Warm, ConnectError>> + Send + 'static {
        let (config, mut resolver) = (self.config.clone(), self.resolver.clone());
        async move {
            if !config.syn_data.is_wanted() {
                return Ok(Warm::Not(Reason::Off));
            }
            let ready = poll_fn(|cx| resolver.poll_ready(cx)).await;
            ready.map_err(|error| ConnectError::new(ConnectErrorKind::Dns, error))?;
            let (addresses, dns) = addresses(&config, resolver, &uri).await?;
            let stream = dial::dial(config, addresses, dns, FirstCall::Connect).await?;
            let info = stream.conn_info();
            Ok(match info.outcome() {
                SynOutcome::CookieRequested => Warm::Asked,
                SynOutcome::Unknown => Warm::Ready,
                _ => Warm::Not(info.reason().unwrap_or(Reason::NoCookie)),
            })
        }
    }
}
