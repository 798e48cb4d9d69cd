//! What a real HTTP/2 client writes first: its safe requests ride, and its others do not.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request};
use tfo_core::first_flight::{FirstFlight, Protocol, Stop};

#[test]
fn requests_of_the_h2_client_ride() {
    let flight = h2_flight(&[(Method::GET, None), (Method::GET, None), (Method::GET, None)]);
    let class = FirstFlight::classify(&flight);
    assert!(class.is_whole(), "{class:?}");
    assert_eq!((class.protocol(), class.requests()), (Protocol::Http2, 3));
    for method in [Method::HEAD, Method::OPTIONS, Method::TRACE] {
        let class = FirstFlight::classify(&h2_flight(&[(method.clone(), None)]));
        assert!(class.is_whole() && class.requests() == 1, "{method}: {class:?}");
    }
}

#[test]
fn what_is_not_safe_of_the_h2_client_does_not_ride() {
    let get = (Method::GET, None);
    let before = h2_flight(std::slice::from_ref(&get)).len();
    for (request, stop) in [
        ((Method::POST, None), Stop::UnsafeMethod),
        ((Method::DELETE, None), Stop::UnsafeMethod),
        ((Method::POST, Some("body")), Stop::RequestBody),
        ((Method::GET, Some("body")), Stop::RequestBody),
    ] {
        let flight = h2_flight(&[get.clone(), request.clone(), get.clone()]);
        let class = FirstFlight::classify(&flight);
        assert_eq!((class.cut(), class.requests(), class.stop()), (before, 1, Some(stop)), "{request:?}");
    }
}

/// A known limit, kept on purpose: the client puts `:method: HEAD` into HPACK's table, and the classifier keeps none.
#[test]
fn behind_a_method_in_the_table_of_hpack_the_cut_ends_early() {
    let head = (Method::HEAD, None);
    let class = FirstFlight::classify(&h2_flight(&[head.clone(), head]));
    assert_eq!((class.requests(), class.stop()), (1, Some(Stop::CompressedHeaders)));
}

/// All that the h2 client writes before it hears from the server.
fn h2_flight(requests: &[(Method, Option<&'static str>)]) -> Vec<u8> {
    let wire = Wire::default();
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = pin!(h2::client::handshake(wire.clone()));
    let Poll::Ready(Ok((mut client, connection))) = handshake.as_mut().poll(&mut cx) else {
        panic!("the handshake waits for nothing");
    };
    let mut connection = pin!(connection);
    let mut kept = Vec::new();
    for (method, body) in requests {
        let request = Request::builder().method(method).uri("http://example.org/x?y=z");
        let request = request
            .header("user-agent", "test/1.0")
            .header("accept", "*/*")
            .body(())
            .expect("a valid request");
        let (response, mut stream) =
            client.send_request(request, body.is_none()).expect("an open connection");
        if let Some(body) = body {
            stream.send_data(Bytes::from_static(body.as_bytes()), true).expect("an open stream");
        }
        kept.push((response, stream));
        assert!(connection.as_mut().poll(&mut cx).is_pending());
    }
    wire.written.take()
}

/// A connection to a server that is silent.
#[derive(Clone, Default)]
struct Wire {
    written: Rc<RefCell<Vec<u8>>>,
}

impl tokio::io::AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl tokio::io::AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.written.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
