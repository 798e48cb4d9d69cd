//! What the administrator asks for, on an address of its own: `/metrics` and `/healthz`.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use tfo_http_server::TfoListener;
use tfo_http_server::server::{
    Limits, PROMETHEUS_CONTENT_TYPE, RequestBody, Server, ServerError, ServerHandle,
};

/// Listens, without TCP Fast Open. In a restart the successor listens at the same time.
pub(super) fn bind(address: SocketAddr, is_successor: bool) -> Result<Server, ServerError> {
    if !is_successor {
        // With SO_REUSEPORT alone it would join whoever listens there, the files' server too.
        drop(TfoListener::builder().fastopen(false).bind(address)?);
    }
    let listener = TfoListener::builder().fastopen(false).reuse_port(true).bind(address)?;
    // Nothing rides, so nothing is ungated.
    let listener = listener.into_std().map_err(ServerError::Worker)?;
    let limits = Limits::default().connections(100);
    Server::builder().listener(TfoListener::builder().fastopen(false)).limits(limits).from_std(vec![listener])
}

/// Answers until the process ends.
pub(super) async fn serve(server: Server, served: ServerHandle) {
    let service = service_fn(move |request| {
        let response = answer(&request, &served);
        async { Ok::<_, Infallible>(response) }
    });
    // Without workers nothing is left that could fail.
    let _ = server.serve(service).await;
}

fn answer(request: &Request<RequestBody>, served: &ServerHandle) -> Response<Full<Bytes>> {
    let get = [Method::GET, Method::HEAD].contains(request.method());
    let (status, kind, text) = match request.uri().path() {
        "/metrics" if get => (StatusCode::OK, PROMETHEUS_CONTENT_TYPE, served.prometheus()),
        // Who ends shall get no new clients.
        "/healthz" if get && served.is_shutting_down() => {
            (StatusCode::SERVICE_UNAVAILABLE, TEXT, "ending\n".to_owned())
        }
        "/healthz" if get => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
