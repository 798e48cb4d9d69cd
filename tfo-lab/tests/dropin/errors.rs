//! What fails, and how it is told.

use std::error::Error as _;
use std::time::{Duration, Instant};

use hyper::Uri;
use hyper::service::service_fn;
use hyper_util::client::legacy::Error;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tfo_http::{connect_error, is_connect_error};
use tfo_lab::{Packet, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::protocols::hello;
use crate::stage::{NOT_THESE, Stage, Syn, Watched, builder, client, get, head, mirror, request, send, soon};
use crate::support::subject::Subject;

/// Whether there was no connection: theirs answers by its method, ours by our function as well.
fn is_connect<C: Subject>(error: &Error) -> bool {
    error.is_connect() || (C::DEFERS && is_connect_error(error))
}

pub(crate) fn refused<C: Subject>() {
    let stage = Stage::<C>::new();
    let (watched, uri, addr) = (stage.watched(), stage.uri("/"), stage.addr());
    let error = stage.run(async move { send(&client(watched), request(&uri)).await.unwrap_err() });
    assert!(is_connect::<C>(&error) && is_connect_error(&error), "{error:?}");
    assert!(all(&error).contains("onnection refused"), "{}", all(&error));
    if let Some(error) = connect_error(&error) {
        assert_eq!(error.address(), Some(addr));
    }
    // A plain attempt takes the place of the refused one.
    if C::DEFERS {
        let syns: Vec<_> = stage.flows().iter().map(Syn::of).collect();
        assert!(syns == [Syn::NotAcked, Syn::Plain], "{}{syns:?}", NOT_THESE);
        assert!(!error.is_connect(), "the difference that the documentation names");
    } else {
        stage.shows(&[Syn::Plain]);
        assert!(error.is_connect());
    }
}

pub(crate) fn refused_over_http_2<C: Subject>() {
    let stage = Stage::<C>::new();
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    let error = stage.run(async move {
        let client = builder().http2_only(true).build(watched);
        soon(send(&client, request(&uri))).await.unwrap_err()
    });
    assert_eq!(log.connects(), 1);
    if C::DEFERS {
        let syn = Syn::of(&stage.flows()[0]);
        assert!(syn == Syn::NotAcked, "{NOT_THESE}{syn:?}");
    }
    assert!(is_connect::<C>(&error), "{error:?}");
}

pub(crate) fn unreachable<C: Subject>() {
    let stage = Stage::<C>::new();
    let server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let client = builder().pool_max_idle_per_host(0).build(watched);
    let (again, to) = (client.clone(), uri.clone());
    stage.run(async move { get(&again, &to).await });
    drop(server);
    let route = ["route", "add", "unreachable", &format!("{}/32", stage.addr().ip())];
    assert!(stage.client.command("ip").args(route).status().unwrap().success());
    let error = stage.run(async move { send(&client, request(&uri)).await.unwrap_err() });
    assert!(is_connect::<C>(&error) && all(&error).contains("No route to host"), "{}", all(&error));
    stage.shows(&[Syn::Rode]);
}

/// The connect timeout is kept, by a connect that was deferred as well.
pub(crate) fn silent<C: Subject>() {
    let stage = Stage::<C>::new();
    let uri = stage.uri("/");
    stage.lab.middlebox(|_: &Packet| Verdict::Drop);
    let mut connector = stage.connector();
    connector.set_connect_timeout(Some(Duration::from_millis(600)));
    let begun = Instant::now();
    let error = stage
        .run(async move { soon(send(&client(Watched::new(connector)), request(&uri))).await.unwrap_err() });
    let took = begun.elapsed();
    assert!(is_connect::<C>(&error) && is_connect_error(&error), "{error:?}");
    assert!(took >= Duration::from_millis(550) && took < Duration::from_secs(4), "{took:?}");
    if C::DEFERS {
        let syn = Syn::of(&stage.flows()[0]);
        assert!(syn == Syn::NotAcked, "{NOT_THESE}{syn:?}");
        assert!(connect_error(&error).unwrap().is_timeout());
    }
}

/// Then nothing is on the wire, and the next request rides.
pub(crate) fn names_that_have_no_address<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    stage.run(async move {
        let client = client(watched);
        for name in ["unknown.test", "empty.test"] {
            let uri: Uri = format!("http://{name}/").parse().unwrap();
            let error = send(&client, request(&uri)).await.unwrap_err();
            assert!(error.is_connect() && is_connect_error(&error), "{error:?}");
            assert!(
                name == "empty.test" || all(&error).contains("no such name: unknown.test"),
                "{}",
                all(&error)
            );
        }
        get(&client, &uri).await;
    });
    stage.shows(&[Syn::Rode]);
}

/// What a connector is not asked in vain by the client, it refuses by itself.
pub(crate) fn uris_that_are_no_use<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (connector, uri) = (stage.connector(), stage.uri("/"));
    let watched = Watched::new(connector.clone());
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        for useless in ["/path", "*", "10.0.0.2:80"] {
            let useless: Uri = useless.parse().unwrap();
            let mut connector = connector.clone();
            assert!(connector.call(useless.clone()).await.is_err(), "{useless}");
            connector.enforce_http(false);
            assert!(connector.call(useless.clone()).await.is_err(), "{useless}");
            let error = send(&client, request(&useless)).await.unwrap_err();
            assert!(!error.is_connect() && !is_connect_error(&error), "{error:?}");
        }
        assert_eq!(log.connects(), 0);
        get(&client, &uri).await;
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn https_where_only_http_is_allowed<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let https: Uri =
        stage.uri("/").to_string().replace("http:", "https:").replace("2/", "2:80/").parse().unwrap();
    let mut connector = stage.connector();
    stage.run(async move {
        let error = send(&client(connector.clone()), request(&https)).await.unwrap_err();
        assert!(error.is_connect() && all(&error).contains("http"), "{}", all(&error));
        connector.enforce_http(false);
        get(&client(connector), &https).await;
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn closed_without_an_answer<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move { drop(head(&mut stream).await) });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    let error = stage.run(async move { soon(send(&client(watched), request(&uri))).await.unwrap_err() });
    let inner = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()).unwrap();
    assert!(inner.is_incomplete_message() && !is_connect_error(&error), "{error:?}");
    assert_eq!(log.connects(), 1, "a request that may have been executed is not sent again");
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn reset_in_the_middle<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let _ = head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        // The client sees the half before the reset.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.set_zero_linger().unwrap();
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    stage.run(async move {
        use http_body_util::BodyExt as _;
        let response = soon(client(watched).request(request(&uri))).await.unwrap();
        let error = soon(response.into_body().collect()).await.unwrap_err();
        assert!(all(&error).contains("reset"), "{}", all(&error));
        assert!(!is_connect_error(&error));
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn an_answer_that_is_none<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|stream| crate::stage::answer_once(stream, "220 mail.test ESMTP\r\n\r\n"));
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let error = stage.run(async move { soon(send(&client(watched), request(&uri))).await.unwrap_err() });
    let inner = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()).unwrap();
    assert!(inner.is_parse() && !is_connect_error(&error), "{error:?}");
    stage.shows(&[Syn::Rode]);
}

/// It says so by a SETTINGS frame and GOAWAY, which is no HTTP/1 answer.
pub(crate) fn http_1_to_an_http_2_server<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|stream| async {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(stream), service_fn(hello)).await;
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let error = stage.run(async move { soon(send(&client(watched), request(&uri))).await.unwrap_err() });
    assert!(error.source().is_some_and(|source| source.is::<hyper::Error>()), "{error:?}");
    assert!(!is_connect_error(&error), "{error:?}");
    // It may reset the connection before its frames are read: a ride is tried once more, plainly.
    let first = Syn::of(&stage.flows()[0]);
    assert!(!C::DEFERS || first == Syn::Rode, "{NOT_THESE}{first:?}");
}

/// It answers the preface by `400 Bad Request`, which is no HTTP/2 frame.
pub(crate) fn http_2_to_an_http_1_server<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let error = stage.run(async move {
        let client = builder().http2_only(true).build(watched);
        soon(send(&client, request(&uri))).await.unwrap_err()
    });
    assert!(error.source().is_some_and(|source| source.is::<hyper::Error>()), "{error:?}");
    assert!(!is_connect_error(&error), "{error:?}");
    stage.shows(&[Syn::Rode]);
}

/// An error with all its sources.
pub(crate) fn all(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |&source| source.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
