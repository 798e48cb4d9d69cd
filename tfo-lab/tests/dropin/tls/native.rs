//! TLS by `hyper_tls`, that is OpenSSL here.

use super::{Ca, hello_rode, nginx, nobody_signed, openssl, refused, visit};
use crate::stage::{Stage, mirror};
use crate::support::subject::Subject;

pub(crate) fn to_nginx<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let _server = nginx(&stage.server, stage.addr(), &ca);
    let response = visit(&stage, native_over(stage.watched_any(), &ca));
    assert_eq!(response.body(), "hello");
    hello_rode(&stage, &response);
}

pub(crate) fn to_openssl<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let _server = openssl(&stage.server, stage.addr(), &ca);
    let response = visit(&stage, native_over(stage.watched_any(), &ca));
    assert!(response.body().starts_with(b"<HTML>"), "{response:?}");
    hello_rode(&stage, &response);
}

pub(crate) fn to_tokio_rustls<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let acceptor = ca.acceptor(&[]);
    let _server = stage.serve(move |stream| {
        let acceptor = acceptor.clone();
        async move { mirror(acceptor.accept(stream).await.unwrap()).await }
    });
    let response = visit(&stage, native_over(stage.watched_any(), &ca));
    assert!(response.body().starts_with(b"GET / HTTP/1.1\r\n"), "{response:?}");
    hello_rode(&stage, &response);
}

/// Found out inside of the connect, which therefore is what failed.
pub(crate) fn a_certificate_that_nobody_signed<C: Subject>() {
    nobody_signed::<C, _>(native_over);
}

pub(crate) fn refused_behind_tls<C: Subject>() {
    refused::<C, _>(native_over);
}

fn native_over<T>(connector: T, ca: &Ca) -> hyper_tls::HttpsConnector<T> {
    let root = native_tls::Certificate::from_pem(ca.root_pem.as_bytes()).unwrap();
    let tls = native_tls::TlsConnector::builder().add_root_certificate(root).build().unwrap();
    hyper_tls::HttpsConnector::from((connector, tls.into()))
}
