//! [`TfoListener`] where axum takes a listener.

use std::io;
use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::extract::connect_info::Connected;
use axum::http::Request;
use axum::serve::{IncomingStream, Listener};

use crate::{AcceptInfo, AcceptedStream, TfoListener};

/// `axum::serve(listener, …)`. Survives errors as [`TfoListener::accept_next`] does.
impl Listener for TfoListener {
    type Io = AcceptedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (AcceptedStream, SocketAddr) {
        self.accept_next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(Self::local_addr(self))
    }
}

/// `ConnectInfo<AcceptInfo>` in handlers: `app.into_make_service_with_connect_info::<AcceptInfo>()`.
impl Connected<IncomingStream<'_, TfoListener>> for AcceptInfo {
    fn connect_info(stream: IncomingStream<'_, TfoListener>) -> Self {
        stream.io().info()
    }
}

/// Adds `ConnectInfo<SocketAddr>`, which libraries for axum ask for, to requests that have
/// `ConnectInfo<AcceptInfo>`: `app.layer(axum::middleware::map_request(with_socket_addr))`.
///
/// axum gives `ConnectInfo<SocketAddr>` to its own listeners alone, and a service one connect info.
pub async fn with_socket_addr<B>(mut request: Request<B>) -> Request<B> {
    let info = request.extensions().get::<ConnectInfo<AcceptInfo>>();
    if let Some(remote) = info.map(|ConnectInfo(info)| info.remote_addr()) {
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(remote));
    }
    request
}
