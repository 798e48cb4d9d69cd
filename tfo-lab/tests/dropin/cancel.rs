//! What is given up midway.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::stage::{EMPTY, Stage, Syn, client, get, head, mirror, request, settle, soon};
use crate::support::subject::Subject;
use crate::support::tcp::GET;

pub(crate) fn a_connect_begins_with_the_first_poll<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        let response = client.request(request(&uri));
        settle().await;
        assert_eq!(log.connects(), 0);
        response.await.unwrap();
        assert_eq!(log.connects(), 1);
    });
    stage.shows(&[Syn::Rode]);
}

/// 128 kB are on their way, nobody reads them.
pub(crate) fn a_body_dropped_early_closes_the_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let _ = head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 131072\r\n\r\n").await;
        let _ = stream.write_all(&[b'x'; 131_072]).await;
        let _ = stream.read(&mut [0]).await;
    });
    dropped_with_the_response(&stage);
    stage.shows(&[Syn::Rode]);
}

/// Nothing of it has come, and it has no end.
pub(crate) fn a_body_dropped_at_once_closes_the_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let _ = head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let _ = stream.read(&mut [0]).await;
    });
    dropped_with_the_response(&stage);
    stage.shows(&[Syn::Rode]);
}

fn dropped_with_the_response<C: Subject>(stage: &Stage<C>) {
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        let response = soon(client.request(request(&uri))).await.unwrap();
        assert_eq!(log.drops(), 0);
        drop(response);
        log.dropped(1).await;
    });
}

pub(crate) fn a_response_future_dropped_closes_the_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let (heads, mut seen) = mpsc::unbounded_channel();
    let _server = stage.serve(move |mut stream| {
        let heads = heads.clone();
        async move {
            let Some(first) = head(&mut stream).await else { return };
            if first.starts_with("GET /warm ") {
                stream.write_all(EMPTY).await.unwrap();
                return;
            }
            heads.send(first).unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "only the end comes");
        }
    });
    let (watched, uri, warm) = (stage.watched(), stage.uri("/"), stage.uri("/warm"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        get(&client, &warm).await;
        log.dropped(1).await;
        tokio::select! {
            _ = client.request(request(&uri)) => panic!("nobody answers"),
            head = seen.recv() => assert!(head.is_some()),
        }
        log.dropped(2).await;
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

/// The same where no ride has been answered yet: others may still be the connection.
pub(crate) fn a_response_future_dropped_before_any_answer<C: Subject>() {
    let stage = Stage::<C>::new();
    let (heads, mut seen) = mpsc::unbounded_channel();
    let _server = stage.serve(move |mut stream| {
        let heads = heads.clone();
        async move {
            heads.send(head(&mut stream).await).unwrap();
            heads.send(head(&mut stream).await).unwrap();
        }
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        tokio::select! {
            _ = client.request(request(&uri)) => panic!("nobody answers"),
            head = seen.recv() => assert!(head.flatten().is_some()),
        }
        log.dropped(1).await;
        assert_eq!(soon(seen.recv()).await.unwrap(), None, "the server sees the end");
    });
    stage.shows(&[Syn::Rode]);
}

/// A server that wants to see the end of all requests before it answers.
pub(crate) fn a_request_with_an_end_behind_it<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let (mut connector, uri) = (stage.connector(), stage.uri("/"));
    stage.run(async move {
        let mut stream = TokioIo::new(connector.call(uri).await.unwrap());
        stream.write_all(GET).await.unwrap();
        soon(stream.shutdown()).await.unwrap();
        let mut echo = Vec::new();
        soon(stream.read_to_end(&mut echo)).await.unwrap();
        assert_eq!(echo, GET);
    });
    stage.shows(&[Syn::Rode]);
}

/// The next request is as good as if there had been none before.
pub(crate) fn a_connect_dropped_leaves_nothing<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    log.delay([Duration::from_secs(60)]);
    stage.run(async move {
        let client = client(watched);
        timeout(Duration::from_millis(30), client.request(request(&uri))).await.unwrap_err();
        sleep(Duration::from_millis(10)).await;
        get(&client, &uri).await;
        assert_eq!((log.connects(), log.drops()), (2, 0));
    });
    // The first was called, and never polled to its end.
    stage.shows(&[Syn::Rode]);
}
