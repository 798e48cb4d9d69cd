//! The connector end to end: requests that ride, and what becomes of those that may not.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpInfo, capture_connection};
use hyper_util::rt::TokioExecutor;
use support::flows;
use support::http::{RUNTIMES, Runtime, Seen, Server, rode, run};
use tfo_http::{ConnInfo, Reason, SynData, SynOutcome, TfoConnector};
use tfo_lab::{Flow, HoldProof, Lab, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower_service::Service as _;

const RTT: Duration = Duration::from_millis(20);

lab_tests! {
    fn repeat_visits_ride_through_hyper_util_and_hyper() {
        for v6 in [false, true] {
            for runtime in RUNTIMES {
                for stack in [Stack::Legacy, Stack::Conn] {
                    let visits = visits(v6, runtime, stack, SynData::SafeMethods);
                    let what = format!("v6 {v6}, {runtime:?}, {stack:?}");
                    let (info, seen, flow) = &visits[0];
                    assert_eq!(info.outcome(), SynOutcome::CookieRequested, "{what}\n{flow}");
                    assert_eq!(info.reason(), Some(Reason::NoCookie));
                    assert!(flow.syn().fast_open().unwrap().is_request() && seen.proven);
                    assert!(rode(info, seen, flow).is_err());
                    for (info, seen, flow) in &visits[1..] {
                        rode(info, seen, flow).map_err(|why| format!("{what}: {why}")).unwrap();
                    }
                }
            }
        }
    }

    /// Every assertion above fails when nothing rides.
    fn switched_off_nothing_rides_and_the_assertions_say_so() {
        for stack in [Stack::Legacy, Stack::Conn] {
            for (info, seen, flow) in visits(false, Runtime::CurrentThread, stack, SynData::Never) {
                assert_eq!((info.outcome(), info.reason()), (SynOutcome::Plain, Some(Reason::Off)));
                assert!(flow.syn().fast_open().is_none(), "a cookie is a tracker: {flow}");
                assert!(!flow.answered_before_any_further_client_packet() && !flow.request_delivered_in_syn());
                assert!(!seen.outcome.is_syn_data() && seen.proven && info.saved_rtts() == 0);
                assert!(rode(&info, &seen, &flow).unwrap_err().starts_with("not so: the outcome"));
                assert!(info.handshake_rtt().unwrap() >= RTT);
            }
        }
    }

    fn unsafe_requests_do_not_ride_and_run_once() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::GET] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let server = Server::start(&host, host.addr(80));
            let addr = host.addr(80);
            let of = method.clone();
            let infos = run(&client, Runtime::CurrentThread, async move {
                get(addr).await;
                let body = if of == Method::GET { "x" } else { "" };
                let request = Request::builder().method(of).uri(uri(addr)).body(Full::from(body)).unwrap();
                send(&legacy(TfoConnector::new()), request).await
            });
            let flow = flows(&lab, 80).pop().unwrap();
            assert!(flow.syn().payload().is_empty(), "{method}\n{flow}");
            assert!(!flow.syn().fast_open().unwrap().is_request(), "it has the cookie, and no data: {flow}");
            assert_eq!(infos.outcome(), SynOutcome::DataLess, "{method}");
            assert!(matches!(infos.reason(), Some(Reason::NotReplaySafe(_))), "{infos:?}");
            assert_eq!((infos.saved_rtts(), infos.syn_data_bytes()), (0, 0));
            assert_eq!(server.seen().len(), 2, "{method}: {:?}", server.seen());
            assert_eq!(server.seen()[1].method, method);
        }
    }

    /// GET and POST in one write: the GET rides, the POST follows behind the handshake, both arrive once.
    fn of_a_pipelined_get_and_post_only_the_get_rides() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let server = Server::start(&host, host.addr(80));
        let addr = host.addr(80);
        run(&client, Runtime::CurrentThread, async move {
            get(addr).await;
            let mut stream = TfoConnector::new().call(uri(addr)).await.unwrap().into_inner();
            let both = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
            stream.write_all(both).await.unwrap();
            stream.flush().await.unwrap();
            let mut answers = String::new();
            stream.read_to_string(&mut answers).await.unwrap();
            assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
            let info = stream.conn_info();
            assert_eq!(info.outcome(), SynOutcome::SynDataAcked);
            assert!(matches!(info.reason(), Some(Reason::NotReplaySafe(_))), "{info:?}");
            assert_eq!((info.saved_rtts(), info.syn_data_bytes()), (0, 28));
        });
        let flow = flows(&lab, 80).pop().unwrap();
        assert_eq!(flow.syn().payload(), b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "{flow}");
        let paths: Vec<_> = server.seen().iter().map(|seen| seen.path.clone()).collect();
        assert_eq!(paths, ["/", "/a", "/b"]);
    }

    fn a_first_flight_of_3000_bytes_gains_nothing_and_says_so() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let server = Server::start(&host, host.addr(80));
        let addr = host.addr(80);
        let info = run(&client, Runtime::CurrentThread, async move {
            get(addr).await;
            let path = format!("/{}", "x".repeat(2900));
            let uri: Uri = format!("http://{addr}{path}").parse().unwrap();
            send(&legacy(TfoConnector::new()), Request::get(uri).body(Full::default()).unwrap()).await
        });
        let flow = flows(&lab, 80).pop().unwrap();
        assert_eq!(flow.syn().payload().len(), 1420, "{flow}");
        assert_eq!((info.outcome(), info.reason()), (SynOutcome::SynDataAcked, Some(Reason::TooLarge)));
        assert_eq!((info.syn_data_bytes(), info.saved_rtts(), info.saved()), (1420, 0, Duration::ZERO));
        assert!(info.first_flight_bytes().unwrap() > 2900);
        assert_eq!(server.seen()[1].path.len(), 2901);
    }

    fn sixteen_settings_and_the_truth_in_each() {
        for client_bits in 0..4 {
            for server_bits in 0..4 {
                let builder = Lab::builder().rtt(Duration::from_millis(4));
                let lab = builder.fastopen("client", client_bits).fastopen("server", server_bits).build().unwrap();
                lab.middlebox(HoldProof::new());
                let (client, host) = (lab.host("client"), lab.host("server"));
                let server = Server::start(&host, host.addr(80));
                let addr = host.addr(80);
                let infos = run(&client, Runtime::CurrentThread, async move { [get(addr).await, get(addr).await] });
                assert_eq!(server.seen().len(), 2);
                let first = match client_bits & 1 {
                    0 => (SynOutcome::Plain, Some(Reason::Unsupported)),
                    _ => (SynOutcome::CookieRequested, Some(Reason::NoCookie)),
                };
                assert_eq!((infos[0].outcome(), infos[0].reason()), first, "{client_bits} {server_bits}");
                let expected = match (client_bits & 1 != 0, server_bits & 2 != 0) {
                    (false, _) => (SynOutcome::Plain, Some(Reason::Unsupported)),
                    (true, false) => (SynOutcome::CookieRequested, Some(Reason::NoCookie)),
                    (true, true) => (SynOutcome::SynDataAcked, None),
                };
                assert_eq!((infos[1].outcome(), infos[1].reason()), expected, "{client_bits} {server_bits}");
                let rode = flows(&lab, 80)[1].answered_before_any_further_client_packet();
                assert_eq!(rode, infos[1].saved_rtts() == 1, "{client_bits} {server_bits}");
            }
        }
    }

    /// The cookie is of the address, not the port: the connect to a closed port is deferred too.
    fn a_failed_request_has_an_info_as_well() {
        let lab = Lab::builder().rtt(Duration::from_millis(4)).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let _server = Server::start(&host, host.addr(80));
        let (open, closed) = (host.addr(80), host.addr(81));
        run(&client, Runtime::CurrentThread, async move {
            get(open).await;
            let mut request = Request::get(uri(closed)).body(Full::default()).unwrap();
            let captured = capture_connection(&mut request);
            let error = legacy(TfoConnector::new()).request(request).await.unwrap_err();
            assert!(tfo_http::is_connect_error(&error) && !error.is_connect(), "{error:?}");
            let mut extensions = hyper::http::Extensions::new();
            captured.connection_metadata().as_ref().unwrap().get_extras(&mut extensions);
            let info = extensions.get::<ConnInfo>().unwrap();
            assert_eq!((info.outcome(), info.reason()), (SynOutcome::Failed, Some(Reason::Refused)));
            assert_eq!((info.remote_addr(), info.saved_rtts()), (closed, 0));
            assert!(info.syn_data_bytes() > 0, "it was deferred: {info:?}");
        });
    }

    fn infos_and_addresses_are_where_hyper_users_look() {
        let lab = Lab::builder().rtt(Duration::from_millis(4)).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let _server = Server::start(&host, host.addr(80));
        let addr = host.addr(80);
        run(&client, Runtime::CurrentThread, async move {
            for visit in 0..2 {
                let mut request = Request::get(uri(addr)).body(Full::default()).unwrap();
                let captured = capture_connection(&mut request);
                let response = legacy(TfoConnector::new()).request(request).await.unwrap();
                let info = response.extensions().get::<ConnInfo>().unwrap();
                let mut extensions = hyper::http::Extensions::new();
                captured.connection_metadata().as_ref().unwrap().get_extras(&mut extensions);
                assert!(extensions.get::<ConnInfo>().unwrap().same_connection(info));
                assert_eq!(info.remote_addr(), addr);
                // hyper-util's own needs a socket that knows its peer: on the first visit it does.
                let theirs = response.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
                assert_eq!(theirs, (visit == 0).then_some(addr));
            }
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Stack {
    Legacy,
    Conn,
}

/// Three visits, each on a connection of its own, and what all observers say.
fn visits(v6: bool, runtime: Runtime, stack: Stack, syn_data: SynData) -> Vec<(ConnInfo, Seen, Flow)> {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    lab.middlebox(HoldProof::new());
    let (client, host) = (lab.host("client"), lab.host("server"));
    let addr = if v6 { host.addr_v6(80) } else { host.addr(80) };
    let server = Server::start(&host, addr);
    let infos = run(&client, runtime, async move {
        let mut connector = TfoConnector::new();
        connector.set_syn_data(syn_data);
        let mut infos = Vec::new();
        for _ in 0..3 {
            let request = Request::get(uri(addr)).body(Full::default()).unwrap();
            infos.push(match stack {
                Stack::Legacy => send(&legacy(connector.clone()), request).await,
                Stack::Conn => send_conn(connector.clone(), request).await,
            });
        }
        infos
    });
    let (seen, flows) = (server.seen(), flows(&lab, 80));
    assert_eq!((seen.len(), flows.len()), (3, 3));
    infos.into_iter().zip(seen).zip(flows).map(|((info, seen), flow)| (info, seen, flow)).collect()
}

fn legacy(connector: TfoConnector) -> Client<TfoConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

fn uri(addr: SocketAddr) -> Uri {
    format!("http://{addr}/").parse().unwrap()
}

async fn get(addr: SocketAddr) -> ConnInfo {
    send(&legacy(TfoConnector::new()), Request::get(uri(addr)).body(Full::default()).unwrap()).await
}

async fn send(client: &Client<TfoConnector, Full<Bytes>>, request: Request<Full<Bytes>>) -> ConnInfo {
    let response = client.request(request).await.unwrap();
    let info = response.extensions().get::<ConnInfo>().unwrap().clone();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    info
}

async fn send_conn(mut connector: TfoConnector, request: Request<Full<Bytes>>) -> ConnInfo {
    let io = connector.call(request.uri().clone()).await.unwrap();
    let info = io.inner().conn_info().clone();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    drop(sender);
    connection.await.unwrap().unwrap();
    info
}
