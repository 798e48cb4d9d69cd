//! Fetching a cookie ahead of the first request.

use std::future::{Future, poll_fn};

use http::Uri;

use super::{Resolve, TfoConnector, addresses, dial};
use crate::error::{ConnectError, ConnectErrorKind};

impl<R: Resolve> TfoConnector<R> {
    /// Fetches a cookie for the server of a URI, so that the first request to it rides: an ordinary
    /// handshake that asks for one, then the end of the connection. Where a cookie is cached nothing
    /// is sent.
    ///
    /// True if a request could ride now. False if the server gave no cookie, if this system has no
    /// TCP Fast Open, if the [path memory](crate::PathMemory) advises against it, or if it is
    /// switched off (then nothing is sent either). Of several addresses it is about the one that
    /// answered; that is the kernel's cookie cache, which all processes of a network namespace share.
    ///
    /// Dropping the future gives it up.
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
    /// let rides = connector.warm("http://example.com/".parse().expect("a URI")).await?;
    /// println!("the first request {}", if rides { "rides" } else { "does not ride" });
    /// # Ok(())
    /// # }
    /// ```
    pub fn warm(&self, uri: Uri) -> impl Future<Output = Result<bool, ConnectError>> + Send + 'static {
        let (config, mut resolver) = (self.config.clone(), self.resolver.clone());
        async move {
            if !config.syn_data.is_wanted() {
                return Ok(false);
            }
            let ready = poll_fn(|cx| resolver.poll_ready(cx)).await;
            ready.map_err(|error| ConnectError::new(ConnectErrorKind::Dns, error))?;
            let (addresses, dns) = addresses(&config, resolver, &uri).await?;
            let address = dial::dial(config.clone(), addresses, dns).await?.remote_addr();
            dial::could_ride(&config, &address)
        }
    }
}
