//! Idle connections against new ones, and requests against the end of a connection.

use std::time::Duration;

use tfo_http::is_connect_error;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::stage::{EMPTY, Stage, Syn, builder, client, get, head, mirror, request, send, settle};
use crate::support::subject::Subject;

const LATER: Duration = Duration::from_millis(150);

/// The connect goes on, and gives a connection that serves later, also where nothing was sent on it yet.
pub(crate) fn a_connection_that_became_idle_beats_a_connect<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        log.delay([Duration::ZERO, LATER]);
        let second = async {
            settle().await;
            get(&client, &uri).await;
        };
        tokio::join!(get(&client, &uri), second);
        assert_eq!(log.connects(), 2, "the second connect had begun");
        sleep(2 * LATER).await;
        // Both connections are idle: two requests at once find one each.
        tokio::join!(get(&client, &uri), get(&client, &uri));
        assert_eq!((log.connects(), log.drops()), (2, 0));
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

pub(crate) fn a_connect_beats_a_busy_connection<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            if head.starts_with("GET /slow ") {
                sleep(LATER).await;
            }
            stream.write_all(EMPTY).await.unwrap();
        }
    });
    let (watched, slow, fast) = (stage.watched(), stage.uri("/slow"), stage.uri("/fast"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        let slow = async {
            get(&client, &slow).await;
            "slow"
        };
        let fast = async {
            settle().await;
            get(&client, &fast).await;
            "fast"
        };
        let first = tokio::select! {
            first = slow => first,
            first = fast => first,
        };
        assert_eq!((first, log.connects()), ("fast", 2));
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

/// A spare one may be given up when nobody has written to it for the connect timeout: no request fails.
pub(crate) fn a_spare_connection_outlives_the_connect_timeout<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let uri = stage.uri("/");
    let mut connector = stage.connector();
    connector.set_connect_timeout(Some(Duration::from_millis(200)));
    let watched = crate::stage::Watched::new(connector);
    let log = watched.log.clone();
    stage.run(async move {
        let client = client(watched);
        log.delay([Duration::ZERO, LATER]);
        let second = async {
            settle().await;
            get(&client, &uri).await;
        };
        tokio::join!(get(&client, &uri), second);
        sleep(Duration::from_millis(600)).await;
        tokio::join!(get(&client, &uri), get(&client, &uri));
        assert!(log.connects() <= 3, "{log:?}");
    });
    stage.shows(&[Syn::Rode, Syn::Rode]);
}

pub(crate) fn a_canceled_request_is_sent_again<C: Subject>() {
    canceled::<C>(true);
}

pub(crate) fn a_canceled_request_is_not_sent_again_where_that_is_off<C: Subject>() {
    canceled::<C>(false);
}

/// The server ends an idle connection, which is seen when the next request has been given to it, but has not
/// been begun.
fn canceled<C: Subject>(retry: bool) {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let _ = head(&mut stream).await;
        let _ = stream.write_all(EMPTY).await;
    });
    let (watched, uri) = (stage.watched(), stage.uri("/"));
    let log = watched.log.clone();
    stage.run(async move {
        let client = builder().retry_canceled_requests(retry).build(watched);
        log.hold_ends(true);
        get(&client, &uri).await;
        log.end_held().await;
        log.hold_ends(false);
        let result = send(&client, request(&uri)).await;
        assert_eq!(result.is_ok(), retry, "{result:?}");
        assert_eq!(log.connects(), if retry { 2 } else { 1 });
        if let Err(error) = result {
            assert!(!error.is_connect() && !is_connect_error(&error), "{error:?}");
        }
    });
    stage.shows(if retry { &[Syn::Rode, Syn::Rode] } else { &[Syn::Rode] });
}
