//! What is said on a connection, and what is told about it.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::client::legacy::connect::{HttpInfo, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tfo_http::{ConnInfo, SynOutcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{
    NOT_THESE, PlainBody, Stage, Syn, WatchedIo, builder, client, get, head, mirror, request, send, soon,
};
use crate::support::subject::Subject;
use crate::support::tcp::TcpServer;

pub(crate) async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(request.headers().get("host"), None);
    Ok(Response::new(Full::from("hello")))
}

async fn serve_http_2(stream: TcpStream) {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.enable_connect_protocol();
    let _ = http.serve_connection(TokioIo::new(stream), service_fn(hello)).await;
}

pub(crate) fn host_is_set<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let expected = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", stage.addr().ip());
    stage.run(async move { assert_eq!(get(&client(watched), &uri).await, expected) });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn host_is_left_out<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/page?query"));
    stage.run(async move {
        let client = builder().set_host(false).build(watched);
        let target = format!("GET {uri} HTTP/1.1\r\n\r\n")
            .replace(&format!("http://{}", uri.authority().unwrap()), "");
        assert_eq!(get(&client, &uri).await, target);
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn a_post_has_its_body<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            assert!(head.contains("content-length: 4\r\n"), "{head}");
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    stage.run(async move {
        let client = client(watched);
        for text in ["once", "more"] {
            let post = Request::post(uri.clone()).body(PlainBody::from(text)).unwrap();
            assert_eq!(send(&client, post).await.unwrap().into_body(), text);
        }
    });
    stage.shows(&[Syn::DataLess]);
}

/// Also of a connection whose socket does not know its peer yet when hyper asks.
pub(crate) fn addresses_and_captured_connections<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri, addr) = (stage.watched(), stage.uri("/"), stage.addr());
    let (local, info, theirs) = stage.run(async move {
        let client = client(watched);
        let mut captured = Vec::new();
        let mut locals = Vec::new();
        let mut last = None;
        for _ in 0..2 {
            let mut request = request(&uri);
            let capture = capture_connection(&mut request);
            assert!(capture.connection_metadata().is_none(), "there is none yet");
            let response = send(&client, request).await.unwrap();
            let (remote, local) = C::addresses(response.extensions()).expect("addresses");
            assert_eq!(remote, addr);
            locals.push(local);
            let mut extensions = hyper::http::Extensions::new();
            capture.connection_metadata().as_ref().expect("metadata").get_extras(&mut extensions);
            captured.push(C::addresses(&extensions).expect("addresses"));
            assert_eq!(captured.last(), Some(&(remote, local)));
            last = Some(response);
        }
        assert_eq!(locals[0], locals[1], "both on one connection");
        let extensions = last.unwrap().into_parts().0.extensions;
        (locals[0], extensions.get::<ConnInfo>().cloned(), extensions.get::<HttpInfo>().is_some())
    });
    assert_eq!(stage.flows()[0].client(), local);
    stage.shows(&[Syn::Rode]);
    assert_eq!(theirs, !C::DEFERS, "HttpInfo cannot be made without a peer");
    assert_eq!(info.map(|info| info.outcome()), C::DEFERS.then_some(SynOutcome::SynDataAcked));
}

/// With bytes right behind the answer, which belong to the new protocol.
pub(crate) fn an_upgrade_gives_the_connection_away<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let head = head(&mut stream).await.unwrap();
        assert!(head.contains("upgrade: echo\r\n"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nready";
        stream.write_all(answer).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        let mut request = request(&uri);
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "echo".parse().unwrap());
        let response = soon(client.request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        drop(client);
        let parts = upgraded.downcast::<WatchedIo<C::Response>>().unwrap();
        assert_eq!(parts.read_buf, "ready");
        let mut io = TokioIo::new(parts.io);
        io.write_all(b"ping").await.unwrap();
        io.flush().await.unwrap();
        io.shutdown().await.unwrap();
        let mut echo = Vec::new();
        soon(io.read_to_end(&mut echo)).await.unwrap();
        assert_eq!((&echo[..], log.drops()), (&b"ping"[..], 0));
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn http_2_alone<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(serve_http_2);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().http2_only(true).build(watched);
        for _ in 0..3 {
            let (one, two) = tokio::join!(get(&client, &uri), get(&client, &uri));
            assert_eq!((&one[..], &two[..]), (&b"hello"[..], &b"hello"[..]));
        }
        assert_eq!((log.connects(), log.drops()), (1, 0));
    });
    stage.shows(&[Syn::Rode]);
}

/// Nobody knows before the first connection that they can share one.
pub(crate) fn http_2_negotiated<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(serve_http_2);
    let (watched, uri) = (stage.watched().negotiated_h2(), stage.uri("/"));
    let log = watched.log.clone();
    let made = stage.run(async move {
        let client = client(watched);
        tokio::join!(get(&client, &uri), get(&client, &uri), get(&client, &uri));
        let made = log.connects();
        assert!(made <= 3, "{made}");
        get(&client, &uri).await;
        let mut request = request(&uri);
        *request.version_mut() = Version::HTTP_2;
        assert_eq!(send(&client, request).await.unwrap().version(), Version::HTTP_2);
        assert_eq!(log.connects(), made, "they are on one now");
        made
    });
    // A connect that is deferred is there at once: the second request knows of the first one's protocol.
    let syns = vec![Syn::Rode; made];
    stage.shows(&syns);
    assert_eq!(made, if C::DEFERS { 1 } else { 3 });
}

/// RFC 8441: a WebSocket inside HTTP/2.
pub(crate) fn http_2_extended_connect<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server: TcpServer = stage.serve(|stream| async {
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.enable_connect_protocol();
        let service = service_fn(|request: Request<Incoming>| async {
            assert_eq!(request.extensions().get::<Protocol>(), Some(&Protocol::from_static("websocket")));
            let upgrade = hyper::upgrade::on(request);
            tokio::spawn(async {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            Ok::<_, Infallible>(Response::new(PlainBody::default()))
        });
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    });
    let (watched, uri) = (stage.watched().negotiated_h2(), stage.uri("/up"));
    stage.run(async move {
        let client = client(watched);
        let request = Request::connect(uri)
            .version(Version::HTTP_2)
            .extension(Protocol::from_static("websocket"))
            .body(PlainBody::default())
            .unwrap();
        let response = soon(client.request(request)).await.unwrap();
        assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
        let mut io = TokioIo::new(soon(hyper::upgrade::on(response)).await.unwrap());
        io.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        soon(io.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"ping");
    });
    // The preface and the settings may ride, the CONNECT behind them may not.
    let flow = stage.flows().remove(0);
    let mut frames = flow.syn().payload().get(24..).unwrap_or_default();
    while let [high, middle, low, kind, ..] = *frames {
        assert_ne!(kind, 1, "HEADERS are in the SYN: {flow}");
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    let syn = Syn::of(&flow);
    assert!(!C::DEFERS || matches!(syn, Syn::Rode | Syn::DataLess), "{NOT_THESE}{syn:?}");
}

pub(crate) fn names_are_resolved<C: Subject>() {
    let stage = Stage::<C>::new();
    let addrs = [stage.server.addr(80), stage.server.addr_v6(80)];
    let _servers = addrs.map(|addr| TcpServer::start(&stage.server, addr, mirror));
    let watched = stage.watched();
    stage.run(async move {
        let client = client(watched);
        for (name, addr) in [("v4", addrs[0]), ("v6", addrs[1]), ("both", addrs[1])] {
            let uri = format!("http://server.{name}.test/").parse().unwrap();
            let response = client.request(request(&uri)).await.unwrap();
            assert_eq!(C::addresses(response.extensions()).unwrap().0, addr);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.ends_with(format!("host: server.{name}.test\r\n\r\n").as_bytes()), "{body:?}");
        }
    });
    stage.shows(&[Syn::Rode; 3]);
}
