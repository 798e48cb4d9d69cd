//! Many requests at once to one origin.

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::protocols::hello;
use crate::stage::{Stage, Syn, builder, client, get, mirror};
use crate::support::subject::Subject;

const REQUESTS: usize = 64;

/// Not more connections than requests at once, and the next requests find them.
pub(crate) fn at_once_over_http_1<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    let made = stage.run(async move {
        let client = client(watched);
        // The path has carried a ride.
        get(&client, &uri).await;
        for _ in 0..3 {
            join_all((0..REQUESTS).map(|_| get(&client, &uri))).await;
            assert!(log.connects() <= REQUESTS, "{}", log.connects());
        }
        log.connects()
    });
    eprintln!("{REQUESTS} at once, three times: {made} connections");
    stage.shows(&vec![Syn::Rode; made]);
}

/// All on one.
pub(crate) fn at_once_over_http_2<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|stream| async {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(stream), service_fn(hello)).await;
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().http2_only(true).build(watched);
        join_all((0..REQUESTS).map(|_| get(&client, &uri))).await;
        assert_eq!(log.connects(), 1);
    });
    stage.shows(&[Syn::Rode]);
}

/// Eight workers: a request finds the connection of the one before it, and no connect wins against that.
pub(crate) fn a_few_at_a_time_over_http_1<C: Subject>() {
    const WORKERS: usize = 8;
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    let made = stage.run(async move {
        let client = client(watched);
        get(&client, &uri).await;
        let requests = stream::iter(0..REQUESTS * 4).map(|_| get(&client, &uri));
        requests.buffer_unordered(WORKERS).for_each(|_| async {}).await;
        assert!(log.connects() <= WORKERS, "{}", log.connects());
        log.connects()
    });
    eprintln!("{} requests of {WORKERS} workers: {made} connections", REQUESTS * 4);
    let begun = stage.flows().len();
    assert!(begun <= made, "{begun} SYNs of {made}");
    stage.shows(&vec![Syn::Rode; begun]);
}
