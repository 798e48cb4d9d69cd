//! Connectors under test: `hyper_util`'s, ours, and ours with TCP Fast Open off, behind one trait.

use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::http::Extensions;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connection, HttpConnector, HttpInfo};
use tfo_http::{ConnInfo, SynData, TfoConnector};
use tower_service::Service;

/// What stands where `HttpConnector` stands.
pub(crate) trait Subject:
    Service<
        Uri,
        Response: Read + Write + Connection + Unpin + Send + 'static,
        Error: Error + Send + Sync + 'static,
        Future: Unpin + Send + 'static,
    > + Settings
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// Whether it is said to defer its connects once there is a cookie.
    const DEFERS: bool;

    /// With the resolver [`Names`].
    fn new() -> Self;

    /// The server's address and its own, as its users find them beside a response.
    fn addresses(extensions: &Extensions) -> Option<(SocketAddr, SocketAddr)>;
}

macro_rules! settings {
    ($($name:ident($($argument:ident: $type:ty),+);)+) => {
        /// All setters of `HttpConnector`.
        pub(crate) trait Settings {
            $(fn $name(&mut self, $($argument: $type),+);)+
        }

        impl Settings for HttpConnector<Names> {
            $(fn $name(&mut self, $($argument: $type),+) { let _ = Self::$name(self, $($argument),+); })+
        }

        impl Settings for TfoConnector<Names> {
            $(fn $name(&mut self, $($argument: $type),+) { let _ = Self::$name(self, $($argument),+); })+
        }

        impl Settings for SwitchedOff {
            $(fn $name(&mut self, $($argument: $type),+) { let _ = self.0.$name($($argument),+); })+
        }
    };
}

settings! {
    enforce_http(enforce: bool);
    set_keepalive(time: Option<Duration>);
    set_keepalive_interval(interval: Option<Duration>);
    set_keepalive_retries(retries: Option<u32>);
    set_nodelay(nodelay: bool);
    set_send_buffer_size(size: Option<usize>);
    set_recv_buffer_size(size: Option<usize>);
    set_local_address(address: Option<IpAddr>);
    set_local_addresses(ipv4: Ipv4Addr, ipv6: Ipv6Addr);
    set_connect_timeout(timeout: Option<Duration>);
    set_happy_eyeballs_timeout(timeout: Option<Duration>);
    set_reuse_address(reuse: bool);
    set_interface(interface: &str);
    set_mark(mark: Option<u32>);
    set_tcp_user_timeout(timeout: Option<Duration>);
}

impl Subject for HttpConnector<Names> {
    const DEFERS: bool = false;

    fn new() -> Self {
        Self::new_with_resolver(Names)
    }

    fn addresses(extensions: &Extensions) -> Option<(SocketAddr, SocketAddr)> {
        extensions.get::<HttpInfo>().map(|info| (info.remote_addr(), info.local_addr()))
    }
}

impl Subject for TfoConnector<Names> {
    const DEFERS: bool = true;

    fn new() -> Self {
        Self::new_with_resolver(Names)
    }

    fn addresses(extensions: &Extensions) -> Option<(SocketAddr, SocketAddr)> {
        extensions.get::<ConnInfo>().and_then(|info| Some((info.remote_addr(), info.local_addr()?)))
    }
}

/// Ours with TCP Fast Open off, which says that it was on: what passes with it proves nothing.
#[derive(Clone, Debug)]
pub(crate) struct SwitchedOff(TfoConnector<Names>);

impl Subject for SwitchedOff {
    const DEFERS: bool = true;

    fn new() -> Self {
        let mut connector = <TfoConnector<Names> as Subject>::new();
        connector.set_syn_data(SynData::Never);
        Self(connector)
    }

    fn addresses(extensions: &Extensions) -> Option<(SocketAddr, SocketAddr)> {
        TfoConnector::<Names>::addresses(extensions)
    }
}

impl Service<Uri> for SwitchedOff {
    type Response = <TfoConnector<Names> as Service<Uri>>::Response;
    type Error = <TfoConnector<Names> as Service<Uri>>::Error;
    type Future = <TfoConnector<Names> as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.0.call(uri)
    }
}

/// A resolver that knows the labels of a name: `server.v4.test`, `server.v6.test`, `server.both.test`
/// (IPv6 first) are the second host of a lab, `empty.test` has no address, others are unknown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names;

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = std::future::Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let v4 = SocketAddr::from(([10, 0, 0, 2], 0));
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 2], 0));
        std::future::ready(match name.as_str() {
            "server.v4.test" => Ok(vec![v4].into_iter()),
            "server.v6.test" => Ok(vec![v6].into_iter()),
            "server.both.test" => Ok(vec![v6, v4].into_iter()),
            "empty.test" => Ok(Vec::new().into_iter()),
            other => Err(io::Error::other(format!("no such name: {other}"))),
        })
    }
}
