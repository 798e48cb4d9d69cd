//! The client with everything around it: what it promises, against servers good and bad.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use hyper::{Request, Response, StatusCode, Version};
use support::flows;
use support::http::{RUNTIMES, Runtime, Server, rode, run};
use support::tcp::TcpServer;
use support::web::Web;
use tfo_http::client::{Answer, ClientBuilder, ErrorKind, FinalUrl, NotInSyn, Timeout};
use tfo_http::{Client, ConnInfo, Reason, SynOutcome};
use tfo_http_server::{AcceptInfo, TfoListener};
use tfo_lab::{HoldProof, Lab, Packet, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_http::follow_redirect::RequestUri;

const RTT: Duration = Duration::from_millis(10);
const MS: Duration = Duration::from_millis(1);

lab_tests! {
    /// Client, server, wire and counters say the same, and with TCP Fast Open off they all say no.
    fn a_get_rides_on_the_second_visit() {
        for runtime in RUNTIMES {
            for on in [true, false] {
                let lab = Lab::builder().rtt(RTT).fastopen("client", u32::from(on)).build().unwrap();
                lab.middlebox(HoldProof::new());
                let (client, host) = (lab.host("client"), lab.host("server"));
                let addr = host.addr(80);
                let server = Server::start(&host, addr);
                let (infos, metrics) = run(&client, runtime, async move {
                    let client = one_request_a_connection().build().unwrap();
                    let mut infos = Vec::new();
                    for _ in 0..3 {
                        infos.push(hello(client.get(format!("http://{addr}/")).await.unwrap()).await);
                    }
                    (infos, client.metrics())
                });
                let (seen, flows) = (server.seen(), flows(&lab, 80));
                assert_eq!((seen.len(), flows.len()), (3, 3));
                for visit in 0..3 {
                    let rides = rode(&infos[visit], &seen[visit], &flows[visit]);
                    assert_eq!(rides.is_ok(), on && visit > 0, "{rides:?}");
                }
                let in_syns: usize = flows.iter().map(|flow| flow.syn().payload().len()).sum();
                let rides = flows.iter().filter(|flow| flow.request_delivered_in_syn()).count() as u64;
                assert_eq!((metrics.connections(), metrics.rides()), (3, rides));
                assert_eq!(metrics.syn_data_bytes, in_syns as u64);
                assert_eq!((rides, in_syns > 0), if on { (2, true) } else { (0, false) });
                assert_eq!(metrics.saved_rtts, rides);
                assert_eq!(metrics.saved, infos.iter().map(ConnInfo::saved).sum());
                assert_eq!(metrics.handshake_rtt.count, 3);
                assert!(on || metrics.outcome(SynOutcome::Plain) == 3, "{metrics:?}");
            }
        }
    }

    /// With prior knowledge: a request on a new connection rides with its preface and settings.
    fn http2_rides_where_it_is_known() {
        for runtime in RUNTIMES {
            for on in [true, false] {
                let lab = Lab::builder().rtt(RTT).fastopen("client", u32::from(on)).build().unwrap();
                lab.middlebox(HoldProof::new());
                let (client, host) = (lab.host("client"), lab.host("server"));
                let addr = host.addr(80);
                let server = Server::start(&host, addr);
                let infos = run(&client, runtime, async move {
                    let mut infos = Vec::new();
                    for _ in 0..3 {
                        // HTTP/2 has one connection for all requests: a new client for a new one.
                        let client = Client::builder().http2_only(true).no_proxy().build().unwrap();
                        let answer = client.get(format!("http://{addr}/")).await.unwrap();
                        assert_eq!(answer.version(), Version::HTTP_2);
                        infos.push(hello(answer).await);
                        let answer = client.post(format!("http://{addr}/"), "order").await.unwrap();
                        assert_eq!(hello(answer).await.local_addr(), infos.last().unwrap().local_addr());
                    }
                    infos
                });
                let flows = flows(&lab, 80);
                let gets: Vec<_> = server.seen().into_iter().filter(|seen| seen.method == "GET").collect();
                assert_eq!((flows.len(), gets.len()), (3, 3));
                for visit in 0..3 {
                    let rides = rode(&infos[visit], &gets[visit], &flows[visit]);
                    assert_eq!(rides.is_ok(), on && visit > 0, "{rides:?}");
                    assert_eq!(flows[visit].syn().payload().starts_with(b"PRI * HTTP/2.0"), rides.is_ok());
                }
            }
        }
    }

    fn axum_answers_what_rode() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        lab.middlebox(HoldProof::new());
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(80);
        let (ready, listens) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TfoListener::bind(addr).unwrap();
                ready.send(()).unwrap();
                let app = Router::new().route("/", get(told).post(told));
                let app = app.into_make_service_with_connect_info::<AcceptInfo>();
                let serving = axum::serve(listener, app).with_graceful_shutdown(async { stopped.await.unwrap() });
                serving.await.unwrap();
            });
        });
        listens.recv().unwrap();
        let answers = run(&client, Runtime::CurrentThread, async move {
            let client = one_request_a_connection().build().unwrap();
            let url = format!("http://{addr}/");
            let mut answers = Vec::new();
            for answer in [client.get(&url).await, client.get(&url).await, client.post(&url, "order").await] {
                answers.push(answer.unwrap().into_body().bytes(100).await.unwrap());
            }
            answers
        });
        assert_eq!(answers, ["GET false true", "GET true false", "POST false true"]);
        let rides: Vec<_> = flows(&lab, 80).iter().map(|flow| flow.request_delivered_in_syn()).collect();
        assert_eq!(rides, [false, true, false]);
        stop.send(()).unwrap();
        server.join().unwrap();
    }

    fn a_post_is_executed_once_and_does_not_ride() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(80);
        let server = Server::start(&host, addr);
        let infos = run(&client, Runtime::MultiThread, async move {
            let client = one_request_a_connection().build().unwrap();
            hello(client.get(format!("http://{addr}/")).await.unwrap()).await;
            let mut infos = Vec::new();
            for number in 0..20 {
                let answer = client.post(format!("http://{addr}/"), format!("order {number}")).await.unwrap();
                infos.push(hello(answer).await);
            }
            infos
        });
        let bodies: Vec<_> = server.seen().into_iter().skip(1).map(|seen| seen.body).collect();
        assert_eq!(bodies, (0..20).map(|number| format!("order {number}")).collect::<Vec<_>>());
        assert!(infos.iter().all(|info| info.outcome() == SynOutcome::DataLess && info.saved_rtts() == 0));
        assert!(flows(&lab, 80).iter().all(|flow| flow.syn().payload().is_empty()));
    }

    /// It has connections of its own, and does not keep the others from riding.
    fn what_must_not_be_in_the_syn_is_not() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(80);
        let web = Web::start(&host, addr);
        run(&client, Runtime::CurrentThread, async move {
            let client = one_request_a_connection().build().unwrap();
            hello(client.get(format!("http://{addr}/")).await.unwrap()).await;
            let mut request = Request::get(format!("http://{addr}/to?302&/secret")).body("").unwrap();
            request.extensions_mut().insert(NotInSyn);
            let info = hello(client.request(request).await.unwrap()).await;
            assert_eq!((info.outcome(), info.reason()), (SynOutcome::Plain, Some(Reason::Off)));
            hello(client.get(format!("http://{addr}/")).await.unwrap()).await;
        });
        assert_eq!(web.lines(), ["GET /", "GET /to?302&/secret", "GET /secret", "GET /"]);
        let flows = flows(&lab, 80);
        let options: Vec<_> = flows.iter().map(|flow| flow.syn().fast_open().is_some()).collect();
        assert_eq!(options, [true, false, false, true]);
        assert!(flows[3].request_delivered_in_syn(), "{}", flows[3]);
    }

    fn the_read_timeout_holds() {
        with_web(|addr| async move {
            let client = Client::builder().read_timeout(Some(300 * MS)).build().unwrap();
            for visit in 0..2 {
                let begun = Instant::now();
                let error = client.get(format!("http://{addr}/silent")).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout(Timeout::Read), "{error:?}");
                assert!(error.is_timeout() && !error.is_connect() && error.maybe_executed());
                assert_eq!((error.address(), error.url().unwrap().path()), (Some(addr), "/silent"));
                let info = error.conn_info().unwrap();
                assert_eq!(info.outcome() == SynOutcome::CookieRequested, visit == 0, "{info:?}");
                assert!(begun.elapsed() > 250 * MS && begun.elapsed() < 5000 * MS);
            }
            let answer = client.get(format!("http://{addr}/stall")).await.unwrap();
            let error = answer.into_body().bytes(100).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout(Timeout::Read), "{error:?}");
            // A server that goes on is not quiet: only the caller's limit ends it.
            let answer = client.get(format!("http://{addr}/drip")).await.unwrap();
            let error = answer.into_body().bytes(20).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BodyTooLarge, "{error:?}");
        });
    }

    fn the_total_timeout_holds_for_the_body_too() {
        with_web(|addr| async move {
            let client = Client::builder().total_timeout(Some(400 * MS)).build().unwrap();
            let error = client.get(format!("http://{addr}/silent")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout(Timeout::Total), "{error:?}");
            assert!(error.maybe_executed() && error.conn_info().is_some());
            let begun = Instant::now();
            let answer = client.get(format!("http://{addr}/drip")).await.unwrap();
            let error = answer.into_body().bytes(1 << 20).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout(Timeout::Total), "{error:?}");
            assert!(begun.elapsed() > 350 * MS && begun.elapsed() < 5000 * MS);
        });
    }

    /// On the first visit, and on a later one, whose connect is deferred.
    fn the_connect_timeout_holds() {
        for visited in [false, true] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let addr = host.addr(80);
            let _web = Web::start(&host, addr);
            if visited {
                let visit = async move { hello(Client::new().unwrap().get(format!("http://{addr}/")).await.unwrap()).await };
                run(&client, Runtime::CurrentThread, visit);
            }
            lab.middlebox(|_: &Packet| Verdict::Drop);
            run(&client, Runtime::CurrentThread, async move {
                let client = Client::builder().connect_timeout(Some(300 * MS)).build().unwrap();
                let begun = Instant::now();
                let error = client.post(format!("http://{addr}/"), "order").await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout(Timeout::Connect), "{error:?}");
                assert!(error.is_timeout() && error.is_connect() && !error.maybe_executed(), "{error:?}");
                assert!(begun.elapsed() > 250 * MS && begun.elapsed() < 5000 * MS);
                if visited {
                    assert_eq!(error.conn_info().unwrap().outcome(), SynOutcome::Failed);
                    assert_eq!(error.address(), Some(addr));
                }
            });
        }
    }

    fn no_time_at_all_is_a_timeout() {
        with_web(|addr| async move {
            for (client, which) in [
                (Client::builder().connect_timeout(Some(Duration::ZERO)), Timeout::Connect),
                (Client::builder().read_timeout(Some(Duration::ZERO)), Timeout::Read),
                (Client::builder().total_timeout(Some(Duration::ZERO)), Timeout::Total),
            ] {
                let error = client.build().unwrap().get(format!("http://{addr}/silent")).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout(which), "{error:?}");
            }
        });
    }

    fn no_timeout_is_too_long() {
        // The pool cleans up in a task of its own, which nobody asks how it ended.
        static PANICS: AtomicUsize = AtomicUsize::new(0);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            hook(panic);
        }));
        with_web(|addr| async move {
            let endless = Client::builder()
                .connect_timeout(Some(Duration::MAX))
                .read_timeout(Some(Duration::MAX))
                .total_timeout(Some(Duration::MAX))
                .pool_idle_timeout(Some(Duration::MAX))
                .build()
                .unwrap();
            for _ in 0..2 {
                hello(endless.get(format!("http://{addr}/")).await.unwrap()).await;
                tokio::time::sleep(10 * MS).await;
            }
            assert_eq!(PANICS.load(Ordering::Relaxed), 0);
        });
    }

    fn redirects_go_across_hosts_without_credentials() {
        let lab = Lab::builder().rtt(RTT).host("client").host("server").host("other").build().unwrap();
        let (client, host, other) = (lab.host("client"), lab.host("server"), lab.host("other"));
        let (web, elsewhere) = (Web::start(&host, host.addr(80)), Web::start(&other, other.addr(80)));
        let (addr, target) = (host.addr(80), other.addr(80));
        run(&client, Runtime::CurrentThread, async move {
            let client = Client::new().unwrap();
            let request = Request::get(format!("http://user:secret@{addr}/to?302&/to?307&http://{target}/page"));
            let request = request.header("cookie", "c=1").header("host", "virtual").header("x-mine", "2");
            let answer = client.request(request.body("").unwrap()).await.unwrap();
            let last = answer.extensions().get::<FinalUrl>().unwrap().0.to_string();
            assert_eq!(last, format!("http://{}/page", target.ip()));
            assert_eq!(answer.extensions().get::<RequestUri>().unwrap().0, *last);
            assert_eq!(hello(answer).await.remote_addr(), target);
        });
        let asked = [web.asked(), elsewhere.asked()].concat();
        let seen = |name| asked.iter().map(|asked| asked.header(name)).collect::<Vec<_>>();
        let basic = Some("Basic dXNlcjpzZWNyZXQ=");
        assert_eq!(asked.len(), 3);
        assert_eq!(seen("authorization"), [basic, basic, None]);
        assert_eq!(seen("cookie"), [Some("c=1"), Some("c=1"), None]);
        let target = target.ip().to_string();
        assert_eq!(seen("host"), [Some("virtual"), Some("virtual"), Some(target.as_str())]);
        assert_eq!(seen("x-mine"), [Some("2"); 3]);
    }

    /// Whoever logs an answer logs no password: what it says of its URL is masked, in every extension.
    fn credentials_do_not_come_back_with_the_answer() {
        with_web(|addr| async move {
            let url = format!("http://user:secret@{addr}/");
            let answer = Client::new().unwrap().get(url).await.unwrap();
            let masked = format!("http://***@{addr}/");
            assert_eq!(answer.extensions().get::<FinalUrl>().unwrap().0, *masked);
            assert_eq!(answer.extensions().get::<RequestUri>().unwrap().0, *masked);
        });
    }

    /// RFC 9110 section 15.4.
    fn redirects_change_methods_as_the_standard_has_it() {
        for (status, line, body) in [
            (301, "GET /new", ""),
            (302, "GET /new", ""),
            (303, "GET /new", ""),
            (307, "POST /new", "order"),
            (308, "POST /new", "order"),
        ] {
            let web = with_web(move |addr| async move {
                let url = format!("http://{addr}/to?{status}&/new");
                hello(Client::new().unwrap().post(url, "order").await.unwrap()).await;
            });
            assert_eq!(web.len(), 2);
            assert_eq!((web[1].line(), web[1].body.as_str()), (line, body), "{status}");
        }
    }

    fn a_redirect_loop_ends() {
        let web = with_web(|addr| async move {
            let error = Client::new().unwrap().get(format!("http://{addr}/loop")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Redirect, "{error:?}");
            assert!(error.maybe_executed() && error.conn_info().is_some());
            let none = Client::builder().max_redirects(0).build().unwrap();
            let answer = none.get(format!("http://{addr}/loop")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::FOUND);
            let url = format!("http://{addr}/to?302&ftp://{addr}/");
            let error = Client::new().unwrap().get(url).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{error:?}");
        });
        assert_eq!(web.iter().filter(|asked| asked.line() == "GET /loop").count(), 11 + 1);
    }

    fn a_lost_connection_is_made_up_for_where_that_is_safe() {
        let web = with_web(|addr| async move {
            let client = Client::new().unwrap();
            let url = format!("http://{addr}/once");
            hello(client.get(&url).await.unwrap()).await;
            // On the same connection, which the server then closes.
            hello(client.get(&url).await.unwrap()).await;
            let error = client.post(&url, "order").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Http, "{error:?}");
            assert!(error.maybe_executed() && !error.is_connect() && error.conn_info().is_some());
            // A GET with a body may do anything.
            hello(client.get(&url).await.unwrap()).await;
            let error = client.request(Request::get(&url).body("order").unwrap()).await.unwrap_err();
            assert_eq!((error.kind(), error.maybe_executed()), (ErrorKind::Http, true), "{error:?}");
            // Once, not for ever.
            let error = client.get(format!("http://{addr}/never")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Http, "{error:?}");
        });
        let lines: Vec<_> = web.iter().map(|asked| (asked.line(), asked.connection, asked.place)).collect();
        let once = "GET /once";
        let expected =
            [(once, 0, 0), (once, 0, 1), (once, 1, 0), ("POST /once", 1, 1), (once, 2, 0), (once, 2, 1)];
        assert_eq!(lines[..6], expected);
        assert_eq!(lines[6..].iter().map(|line| line.0).collect::<Vec<_>>(), ["GET /never"; 2]);
    }

    /// RFC 9113 section 8.7: an HTTP/2 server that goes, or has enough to do, has begun with nothing.
    fn what_was_turned_away_is_sent_again_once() {
        // By REFUSED_STREAM; by GOAWAY with NO_ERROR and with ENHANCE_YOUR_CALM.
        for way in [None, Some(go_away(0, 0)), Some(go_away(0, 11))] {
            for (post, times) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
                let what = format!("{way:?}, POST {post}, {times} times");
                let lab = Lab::builder().rtt(RTT).build().unwrap();
                let (client, host) = (lab.host("client"), lab.host("server"));
                let (addr, heads) = (host.addr(80), Arc::new(AtomicUsize::new(0)));
                let count = heads.clone();
                let handle = move |stream| turn_away(stream, way, times, count.clone());
                let _server = TcpServer::start(&host, addr, handle);
                let answer = run(&client, Runtime::CurrentThread, async move { ask(addr, post).await });
                match answer {
                    Ok(answer) => assert_eq!((answer.status(), times), (StatusCode::NO_CONTENT, 1), "{what}"),
                    Err(error) => {
                        assert_eq!((error.kind(), times), (ErrorKind::Http, 2), "{what}: {error:?}");
                        assert!(!error.maybe_executed() && error.conn_info().is_some(), "{what}: {error:?}");
                    }
                }
                assert_eq!(heads.load(Ordering::Relaxed), 2, "{what}");
            }
        }
    }

    /// The twin: the server counts the request among those that it may have begun with.
    fn what_a_server_may_have_begun_with_is_left_to_the_caller() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let (addr, heads) = (host.addr(80), Arc::new(AtomicUsize::new(0)));
        let count = heads.clone();
        let handle = move |stream| turn_away(stream, Some(go_away(1, 0)), usize::MAX, count.clone());
        let _server = TcpServer::start(&host, addr, handle);
        let error = run(&client, Runtime::CurrentThread, async move { ask(addr, true).await }).unwrap_err();
        assert_eq!((error.kind(), error.maybe_executed()), (ErrorKind::Http, true), "{error:?}");
        assert_eq!(heads.load(Ordering::Relaxed), 1);
    }

    fn bad_answers_are_errors_of_their_kind() {
        with_web(|addr| async move {
            let client = Client::new().unwrap();
            for path in ["nonsense", "huge"] {
                let error = client.get(format!("http://{addr}/{path}")).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Http, "{path}: {error:?}");
                assert_eq!(error.conn_info().unwrap().remote_addr(), addr);
            }
            let answer = client.get(format!("http://{addr}/broken")).await.unwrap();
            let error = answer.into_body().bytes(100).await.unwrap_err();
            assert_eq!((error.kind(), error.maybe_executed()), (ErrorKind::Body, true), "{error:?}");
            for url in ["", "/", "nothing at all", "ftp://host/", "http://"] {
                let error = client.get(url).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}: {error:?}");
                assert!(!error.maybe_executed() && error.conn_info().is_none());
            }
            // RFC 1035 section 2.3.4: a label has at most 63 octets.
            let error = client.get(format!("http://{}/", "a".repeat(64))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Dns, "{error:?}");
            assert!(error.is_connect() && !error.maybe_executed());
        });
    }

    /// Refused at once on a first visit, and when the request is sent on a later one.
    fn a_refused_request_says_by_whom() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let (open, closed) = (host.addr(80), host.addr(81));
        let _web = Web::start(&host, open);
        run(&client, Runtime::CurrentThread, async move {
            let client = Client::new().unwrap();
            for visited in [false, true] {
                let before = client.metrics();
                let error = client.post(format!("http://{closed}/"), "order").await.unwrap_err();
                assert_eq!((error.kind(), error.address()), (ErrorKind::Connect, Some(closed)), "{error:?}");
                assert!(error.is_connect() && !error.is_timeout() && !error.maybe_executed());
                let info = error.conn_info().unwrap();
                assert_eq!((info.outcome(), info.reason()), (SynOutcome::Failed, Some(Reason::Refused)));
                let after = client.metrics();
                assert_eq!(after.outcome(SynOutcome::Failed), before.outcome(SynOutcome::Failed) + 1, "{visited}");
                hello(client.get(format!("http://{open}/")).await.unwrap()).await;
            }
        });
    }
}

/// What axum knows of a request: did it come in the SYN, is its connection proven.
async fn told(method: axum::http::Method, ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
    format!("{method} {} {}", info.arrived_in_syn(), info.is_proven())
}

/// With prior knowledge, by a client of its own.
async fn ask(addr: SocketAddr, post: bool) -> Result<Answer, tfo_http::client::Error> {
    let client = Client::builder().http2_only(true).no_proxy().build().unwrap();
    let url = format!("http://{addr}/");
    if post { client.post(url, "order").await } else { client.get(url).await }
}

/// RFC 9113 section 6.8.
fn go_away(last_stream: u8, reason: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, reason]
}

/// HTTP/2: turns away so many requests, all connections together, and answers the others with a 204.
async fn turn_away(stream: TcpStream, way: Option<[u8; 17]>, times: usize, heads: Arc<AtomicUsize>) {
    match way {
        Some(way) => turn_away_by(stream, &way, times, heads).await,
        None => {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if heads.fetch_add(1, Ordering::Relaxed) < times {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    let answer = Response::builder().status(StatusCode::NO_CONTENT).body(()).unwrap();
                    respond.send_response(answer, true).unwrap();
                }
            }
        }
    }
}

/// By hand: h2's server says GOAWAY only of what it has not read.
async fn turn_away_by(mut stream: TcpStream, way: &[u8], times: usize, heads: Arc<AtomicUsize>) {
    let (mut preface, mut frame) = ([0; 24], [0; 9]);
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    while stream.read_exact(&mut frame).await.is_ok() {
        let length = usize::from(frame[1]) << 8 | usize::from(frame[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if frame[3] != 1 {
            continue;
        }
        if heads.fetch_add(1, Ordering::Relaxed) < times {
            stream.write_all(way).await.unwrap();
            // What it has not turned away ends with the connection.
            let _ = stream.shutdown().await;
        } else {
            stream.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, frame[8], 0x89]).await.unwrap();
        }
    }
}

fn one_request_a_connection() -> ClientBuilder {
    Client::builder().pool_max_idle_per_host(0).no_proxy()
}

async fn hello(answer: Answer) -> ConnInfo {
    let info = answer.extensions().get::<ConnInfo>().unwrap().clone();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().bytes(5).await.unwrap(), "hello");
    info
}

/// What a server was asked by a client in a lab of two.
fn with_web<F: Future<Output = ()> + Send + 'static>(
    work: impl FnOnce(SocketAddr) -> F,
) -> Vec<support::web::Asked> {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    let (client, host) = (lab.host("client"), lab.host("server"));
    let web = Web::start(&host, host.addr(80));
    run(&client, Runtime::CurrentThread, work(host.addr(80)));
    web.asked()
}
