//! [`TfoListener`] where axum takes a listener.

use std::io;
use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
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
