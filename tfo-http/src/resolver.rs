//! A resolver that remembers.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// A resolver that asks the name servers itself and keeps the answers for as long as these allow
/// (their TTLs): a repeat visit then costs no lookup, which often takes longer than the round trip that
/// a ride saves.
///
/// By [hickory](hickory_resolver). It asks for IPv6 and IPv4 addresses at once, as RFC 8305 section 3
/// has it. Unlike `getaddrinfo` it reads no `nsswitch.conf`: only `/etc/hosts` and name servers, no
/// mDNS, no LDAP. A clone shares the cache.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tfo_http::{CachingResolver, TfoConnector};
///
/// let connector = TfoConnector::new_with_resolver(CachingResolver::from_system()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CachingResolver(TokioResolver);

/// The default number of answers that are kept.
const CACHE_SIZE: u64 = 1024;

impl CachingResolver {
    /// As the system is set up (`/etc/resolv.conf`), with a cache of 1,024 answers.
    ///
    /// # Errors
    ///
    /// The system's configuration could not be read.
    pub fn from_system() -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.cache_size = CACHE_SIZE;
        options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv6AndIpv4;
        Ok(Self(builder.build()?))
    }

    /// A resolver of hickory's own making: other name servers, DNS over TLS, limits on TTLs.
    pub fn new(resolver: TokioResolver) -> Self {
        Self(resolver)
    }

    /// Forgets all answers, as after a change of network.
    pub fn clear(&self) {
        self.0.clear_cache();
    }
}

impl Service<Name> for CachingResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachingResolver").finish_non_exhaustive()
    }
}
