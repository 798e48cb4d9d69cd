//! Which connections are kept, for how long, and which are not.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::stage::{
    EMPTY, PlainBody, Stage, Syn, answer_once, builder, client, get, head, mirror, request, send, settle,
    soon,
};
use crate::support::subject::Subject;

pub(crate) fn keep_alive_serves_two_requests_on_one_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, one, two) = (stage.watched(), stage.uri("/1"), stage.uri("/2"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        for uri in [one, two] {
            assert!(
                get(&client, &uri).await.starts_with(format!("GET {} HTTP/1.1\r\n", uri.path()).as_bytes())
            );
            assert_eq!((log.connects(), log.drops()), (1, 0));
        }
    });
    stage.shows(&[Syn::Rode]);
}

/// The body is not allowed, and cannot be told from the next answer.
pub(crate) fn an_answer_to_head_with_a_body_ends_the_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server =
        stage.serve(|stream| answer_once(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        let head = Request::head(uri.clone()).body(PlainBody::default()).unwrap();
        send(&client, head).await.unwrap();
        log.dropped(1).await;
        assert_eq!(get(&client, &uri).await, "hello");
        assert_eq!(log.connects(), 2);
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

pub(crate) fn an_answer_before_the_end_of_the_request_body<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(EMPTY).await.unwrap();
        // Three chunks of a body, the last one empty.
        let mut rest = Vec::new();
        while !rest.ends_with(b"0\r\n\r\n") {
            rest.push(stream.read_u8().await.unwrap());
        }
        assert_eq!(rest, b"4\r\nlate\r\n0\r\n\r\n");
        mirror(stream).await;
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().build(watched);
        let (body_sender, body) = oneshot::channel();
        let post = Request::post(uri.clone()).body(Late(Some(body))).unwrap();
        let response = soon(client.request(post)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        settle().await;
        assert_eq!(log.drops(), 0, "its request is not at its end");
        body_sender.send("late").unwrap();
        sleep(Duration::from_millis(50)).await;
        // And then it is as good as any.
        let again = Request::get(uri).body(Late(None)).unwrap();
        assert_eq!(soon(client.request(again)).await.unwrap().status(), StatusCode::OK);
        assert_eq!((log.connects(), log.drops()), (1, 0));
        drop(client);
        log.dropped(1).await;
    });
    stage.shows(&[Syn::DataLess]);
}

/// The reader has all it wants, and does not ask for the empty chunk behind it.
pub(crate) fn the_end_of_a_chunked_body_is_read_unasked<C: Subject>() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        while head(&mut stream).await.is_some() {
            stream.write_all(CHUNKED.as_bytes()).await.unwrap();
        }
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        for _ in 0..2 {
            let mut body = client.request(request(&uri)).await.unwrap().into_body();
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "hello");
            drop(body);
            settle().await;
        }
        assert_eq!(log.connects(), 1);
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn no_idle_connections_wanted<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().pool_max_idle_per_host(0).build(watched);
        for visit in 1..=2 {
            get(&client, &uri).await;
            log.dropped(visit).await;
        }
        assert_eq!(log.connects(), 2);
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

pub(crate) fn idle_connections_expire<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().pool_idle_timeout(Duration::from_millis(300)).build(watched);
        get(&client, &uri).await;
        get(&client, &uri).await;
        assert_eq!(log.connects(), 1);
        log.dropped(1).await;
        get(&client, &uri).await;
        assert_eq!(log.connects(), 2);
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

pub(crate) fn no_more_idle_connections_than_wanted<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().pool_max_idle_per_host(1).build(watched);
        // Of a path that has not carried a ride, only some are tried.
        get(&client, &uri).await;
        tokio::join!(get(&client, &uri), get(&client, &uri), get(&client, &uri));
        log.dropped(2).await;
        get(&client, &uri).await;
        assert_eq!((log.connects(), log.drops()), (3, 2));
    });
    stage.shows(&[Syn::Rode; 3]);
}

pub(crate) fn a_server_that_closes_an_idle_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let _ = head(&mut stream).await;
        let _ = stream.write_all(EMPTY).await;
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        for visit in 1..=2 {
            get(&client, &uri).await;
            log.dropped(visit).await;
        }
        assert_eq!(log.connects(), 2);
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

pub(crate) fn dropping_the_client_closes_idle_connections<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        get(&client, &uri).await;
        assert_eq!(log.drops(), 0);
        drop(client);
        log.dropped(1).await;
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn a_poisoned_connection_is_not_used_again<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(watched);
        let mut first = request(&uri);
        let captured = capture_connection(&mut first);
        send(&client, first).await.unwrap();
        get(&client, &uri).await;
        assert_eq!(log.connects(), 1);
        captured.connection_metadata().as_ref().unwrap().poison();
        get(&client, &uri).await;
        get(&client, &uri).await;
        assert_eq!(log.connects(), 2);
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

/// A body of one frame that comes when it is sent.
struct Late(Option<oneshot::Receiver<&'static str>>);

impl Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(receiver) = &mut self.0 else { return Poll::Ready(None) };
        let text = std::task::ready!(Pin::new(receiver).poll(cx)).unwrap();
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
