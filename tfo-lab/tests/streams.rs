//! Streams under careless callers: two tasks, large and small writes, things that change between the
//! connect and the first write.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::flows;
use support::http::{RUNTIMES, Runtime, run};
use support::tcp::{GET, TcpServer, dial, fetch_cookie, known, phase};
use tfo_http::{
    ConnectErrorKind, Reason, SynOutcome, TfoConnector, TfoStream, connect_error, is_connect_error,
};
use tfo_lab::{Flow, Host, Lab, LabError, Packet, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const RTT: Duration = Duration::from_millis(10);
const POST: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";

lab_tests! {
    /// The reader waits before anything is written, or begins later; the writer flushes, or never does.
    fn a_reader_and_a_writer_in_two_tasks_do_not_hang() {
        for runtime in RUNTIMES {
            with_echo(runtime, move |addr| async move {
                for reader_first in [true, false] {
                    for flush in [true, false] {
                        for request in [GET, POST] {
                            let what = format!("{runtime:?}, reader first {reader_first}, flush {flush}");
                            let exchange = two_tasks(addr, reader_first, flush, request);
                            timeout(Duration::from_secs(5), exchange).await.expect(&what);
                        }
                    }
                }
            });
        }
    }

    /// One task, the reader polled first; nobody flushes.
    fn a_joined_reader_and_writer_do_not_hang() {
        with_echo(Runtime::CurrentThread, |addr| async move {
            let (mut read, mut write) = split(deferred(addr).await);
            let mut echo = vec![0; GET.len()];
            let (done, wait) = tokio::sync::oneshot::channel();
            let reader = async {
                read.read_exact(&mut echo).await.unwrap();
                done.send(()).unwrap();
            };
            let writer = async {
                write.write_all(GET).await.unwrap();
                wait.await.unwrap();
            };
            let both = async { tokio::join!(biased; reader, writer) };
            timeout(Duration::from_secs(5), both).await.expect("no hang");
            assert_eq!(echo, GET);
        });
    }

    /// A second flush gives the reader's place to a writer that is idle then.
    fn a_second_flush_takes_no_wakeup_along() {
        with_echo(Runtime::CurrentThread, move |addr| async move {
            let (mut read, mut write) = split(deferred(addr).await);
            write.write_all(GET).await.unwrap();
            write.flush().await.unwrap();
            let reader = tokio::spawn(async move {
                let mut echo = vec![0; GET.len()];
                read.read_exact(&mut echo).await.map(|_| ())
            });
            tokio::task::yield_now().await;
            let flusher = tokio::spawn(async move {
                write.flush().await.unwrap();
                write
            });
            let _write = flusher.await.unwrap();
            timeout(Duration::from_secs(5), reader).await.expect("no hang").unwrap().unwrap();
        });
    }

    fn one_of_two_tasks_may_be_gone() {
        for runtime in RUNTIMES {
            with_echo(runtime, move |addr| async move {
                for request in [GET, POST] {
                    for wait in [Duration::ZERO, RTT / 2, 3 * RTT] {
                        // The reader is given up while it waits: before the write, in the handshake, after it.
                        let (mut read, mut write) = split(deferred(addr).await);
                        let reader = tokio::spawn(async move { read.read(&mut [0; 9000]).await.map(|_| ()) });
                        tokio::task::yield_now().await;
                        if wait.is_zero() {
                            reader.abort();
                        }
                        write.write_all(request).await.unwrap();
                        tokio::spawn(async move {
                            sleep(wait).await;
                            reader.abort();
                        });
                        timeout(Duration::from_secs(5), async {
                            write.flush().await.unwrap();
                            write.write_all(b"more").await.unwrap();
                            write.shutdown().await.unwrap();
                        })
                        .await
                        .expect("the writer does not hang");
                        // The writer is gone; what it wrote is answered.
                        let (mut read, mut write) = split(deferred(addr).await);
                        let writer = tokio::spawn(async move {
                            write.write_all(request).await.unwrap();
                            sleep(wait).await;
                        });
                        let mut echo = vec![0; request.len()];
                        let answer = timeout(Duration::from_secs(5), read.read_exact(&mut echo));
                        answer.await.expect("the reader does not hang").unwrap();
                        assert_eq!(echo, request);
                        writer.await.unwrap();
                    }
                }
            });
        }
    }

    /// Both wait for the handshake, and one of them is given up: the other is woken all the same.
    fn who_is_gone_in_the_handshake_does_not_take_the_wakeup_along() {
        for runtime in RUNTIMES {
            with_echo(runtime, |addr| async move {
                for reader_first in [true, false] {
                    for reader_goes in [true, false] {
                        let (mut read, mut write) = split(deferred(addr).await);
                        write.write_all(GET).await.unwrap();
                        write.flush().await.unwrap();
                        let reader = async move { read.read_exact(&mut [0; GET.len()]).await.map(drop) };
                        let writer = async move { write.write_all(b"more").await };
                        let (reader, writer) = if reader_first {
                            let reader = tokio::spawn(reader);
                            tokio::task::yield_now().await;
                            (reader, tokio::spawn(writer))
                        } else {
                            let writer = tokio::spawn(writer);
                            tokio::task::yield_now().await;
                            (tokio::spawn(reader), writer)
                        };
                        sleep(RTT / 4).await;
                        let (goes, stays) = if reader_goes { (reader, writer) } else { (writer, reader) };
                        goes.abort();
                        let stays = timeout(Duration::from_secs(5), stays).await;
                        stays.expect("it is woken").unwrap().unwrap();
                    }
                }
            });
        }
    }

    fn large_first_writes_arrive() {
        let lab = lab();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let (_server, received) = TcpServer::echo(&server, addr);
        for (visit, (begin, size)) in [&b"GET /"[..], b"POST /"]
            .into_iter()
            .flat_map(|begin| [1420, 1421, 16_384, 16_385, 1 << 20].map(|size| (begin, size)))
            .enumerate()
        {
            let what = format!("{size} bytes of {}", String::from_utf8_lossy(begin));
            let bytes: Vec<_> = begin.iter().copied().chain((b'a'..=b'z').cycle()).take(size).collect();
            let sent = bytes.clone();
            run(&client, Runtime::CurrentThread, async move {
                if visit == 0 {
                    fetch_cookie(addr).await;
                }
                let mut stream = dial(&TfoConnector::new(), addr).await;
                let (mut read, mut write) = split(&mut stream);
                let write = async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let mut echo = Vec::new();
                let (_, result) = tokio::join!(write, read.read_to_end(&mut echo));
                result.unwrap();
                assert!(echo == sent, "{} of {}", echo.len(), sent.len());
            });
            assert!(received.ended().pop().unwrap() == bytes, "{what}");
            let flow = flows(&lab, 80).pop().unwrap();
            let syn = flow.syn().payload();
            let expected = if begin == b"GET /" { &bytes[..bytes.len().min(1420)] } else { &[] };
            assert!(syn == expected, "{what}: {} bytes in the SYN", syn.len());
        }
    }

    fn byte_by_byte_is_one_syn() {
        let flow = with_echo(Runtime::CurrentThread, |addr| async move {
            let mut stream = deferred(addr).await;
            for byte in GET {
                assert_eq!(stream.write(&[*byte]).await.unwrap(), 1);
            }
            stream.flush().await.unwrap();
            let mut echo = vec![0; GET.len()];
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, GET);
            assert_eq!(stream.conn_info().saved_rtts(), 1);
        });
        assert_eq!(flow.syn().payload(), GET);
        assert!(flow.request_delivered_in_syn(), "{flow}");
    }

    /// The network changes between connect and first write: the request completes, and the truth is told.
    fn a_cookie_may_vanish_and_fast_open_be_switched_off_meanwhile() {
        type Change = fn(&Host) -> Result<(), LabError>;
        let vanish: Change = Host::flush_cookies;
        let switch_off: Change = |host| host.set_sysctl("net.ipv4.tcp_fastopen", 2);
        for (change, outcome, reason, asks) in [
            (vanish, SynOutcome::CookieRequested, Reason::CookieVanished, true),
            (switch_off, SynOutcome::Plain, Reason::Unsupported, false),
        ] {
            for request in [GET, POST] {
                for (flush, is_known) in [(true, false), (false, false), (true, true), (false, true)] {
                    let lab = lab();
                    let (client, server) = (lab.host("client"), lab.host("server"));
                    let addr = server.addr(80);
                    let (_server, _) = TcpServer::echo(&server, addr);
                    let host = client.clone();
                    let changed = run(&client, Runtime::CurrentThread, async move {
                        fetch_cookie(addr).await;
                        let connector = TfoConnector::new();
                        if is_known {
                            known(&connector, addr);
                        }
                        let mut stream = deferred_with(&connector, addr).await;
                        match change(&host) {
                            // A rootless lab cannot.
                            Err(LabError::FlushDenied { .. }) => return false,
                            result => result.unwrap(),
                        }
                        stream.write_all(request).await.unwrap();
                        if flush {
                            stream.flush().await.unwrap();
                        }
                        let mut echo = vec![0; request.len()];
                        stream.read_exact(&mut echo).await.unwrap();
                        assert_eq!(echo, request);
                        let info = stream.conn_info();
                        // Where nobody asked for it there is nothing that could have vanished.
                        let reason = match reason {
                            Reason::CookieVanished if is_known => Reason::NoCookie,
                            reason => reason,
                        };
                        assert_eq!((info.outcome(), info.reason()), (outcome, Some(reason)), "{info:?}");
                        assert_eq!((info.syn_data_bytes(), info.saved_rtts()), (0, 0));
                        assert_eq!(info.first_flight_bytes(), Some(request.len()));
                        assert!(info.local_addr().is_some());
                        true
                    });
                    if !changed {
                        continue;
                    }
                    let flow = flows(&lab, 80).pop().unwrap();
                    assert!(flow.syn().payload().is_empty(), "{flow}");
                    assert_eq!(flow.syn().fast_open().is_some_and(|option| option.is_request()), asks, "{flow}");
                }
            }
        }
    }

    /// Neither the time before the first write counts, nor that after the handshake.
    fn the_connect_timeout_runs_from_the_syn_to_the_end_of_the_handshake() {
        const LIMIT: Duration = Duration::from_millis(300);
        for runtime in RUNTIMES {
            with_echo(runtime, move |addr| async move {
                for request in [GET, POST] {
                    let mut stream = deferred_with(&within(LIMIT), addr).await;
                    sleep(2 * LIMIT).await;
                    stream.write_all(request).await.unwrap();
                    sleep(2 * LIMIT).await;
                    stream.flush().await.unwrap();
                    // Nobody polls while the handshake is made: the caller has other things to do.
                    sleep(2 * LIMIT).await;
                    let mut echo = vec![0; request.len()];
                    stream.read_exact(&mut echo).await.unwrap();
                    assert_eq!(echo, request);
                }
                // Nor does the runtime, for the whole thread has other things to do.
                let mut stream = deferred_with(&within(LIMIT), addr).await;
                stream.write_all(GET).await.unwrap();
                stream.flush().await.unwrap();
                std::thread::sleep(2 * LIMIT);
                let mut echo = vec![0; GET.len()];
                stream.read_exact(&mut echo).await.unwrap();
                assert_eq!(echo, GET);
            });
        }
    }

    fn a_silent_server_is_a_timeout_within_the_limit() {
        const LIMIT: Duration = Duration::from_millis(300);
        for request in [GET, POST] {
            for way in ["read", "write", "shutdown"] {
                let error = after_change(request, way, within(LIMIT), |lab| {
                    lab.middlebox(|packet: &Packet| {
                        if packet.is_tcp() { Verdict::Drop } else { Verdict::Pass }
                    });
                });
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{way}");
                let connect = connect_error(&error).unwrap();
                assert!(connect.kind() == ConnectErrorKind::TimedOut && connect.is_timeout());
            }
        }
    }

    fn a_listener_that_has_gone_refuses() {
        for request in [GET, POST] {
            for way in ["read", "write", "shutdown"] {
                let error = after_change(request, way, TfoConnector::new(), |lab| {
                    lab.middlebox(|packet: &Packet| match packet.reset_reply() {
                        Some(reset) if packet.is_syn() => Verdict::Drop.and(reset),
                        _ => Verdict::Pass,
                    });
                });
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{way}");
                assert_eq!(connect_error(&error).unwrap().kind(), ConnectErrorKind::Connect);
            }
        }
    }

    fn a_reset_behind_the_handshake_is_no_connect_error() {
        let lab = lab();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let _resetting = TcpServer::start(&server, addr, |mut stream: TcpStream| async move {
            if stream.read(&mut [0; 100]).await.is_ok_and(|count| count > 0) {
                sleep(3 * RTT).await;
            }
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        });
        run(&client, Runtime::CurrentThread, async move {
            dial(&TfoConnector::new(), addr).await;
            sleep(3 * RTT).await;
            let mut stream = deferred_with(&TfoConnector::new(), addr).await;
            stream.write_all(GET).await.unwrap();
            let error = stream.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(!is_connect_error(&error), "{error:?}");
            assert_eq!(stream.conn_info().outcome(), SynOutcome::SynDataAcked);
        });
    }
}

fn lab() -> Lab {
    Lab::builder().rtt(RTT).build().unwrap()
}

fn within(limit: Duration) -> TfoConnector {
    let mut connector = TfoConnector::new();
    connector.set_connect_timeout(Some(limit));
    connector
}

async fn deferred(addr: SocketAddr) -> TfoStream {
    deferred_with(&TfoConnector::new(), addr).await
}

async fn deferred_with(connector: &TfoConnector, addr: SocketAddr) -> TfoStream {
    let stream = dial(connector, addr).await;
    assert_eq!(phase(&stream), "Idle", "it has a cookie");
    stream
}

/// Work with an echo server and a cookie; the last connection that it made.
fn with_echo<F>(runtime: Runtime, work: impl FnOnce(SocketAddr) -> F + Send + 'static) -> Flow
where
    F: Future<Output = ()> + Send,
{
    let lab = lab();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = server.addr(80);
    let (_server, _) = TcpServer::echo(&server, addr);
    run(&client, runtime, async move {
        fetch_cookie(addr).await;
        work(addr).await;
    });
    flows(&lab, 80).pop().unwrap()
}

async fn two_tasks(addr: SocketAddr, reader_first: bool, flush: bool, request: &'static [u8]) {
    let (mut read, mut write) = split(deferred(addr).await);
    let (sender, answered) = tokio::sync::oneshot::channel();
    let reader = async move {
        let mut echo = vec![0; request.len()];
        read.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, request);
        sender.send(()).unwrap();
    };
    let writer = async move {
        write.write_all(request).await.unwrap();
        if flush {
            write.flush().await.unwrap();
        }
        answered.await.unwrap();
    };
    let (first, second) = if reader_first {
        let reader = tokio::spawn(reader);
        sleep(RTT / 4).await;
        (reader, tokio::spawn(writer))
    } else {
        let writer = tokio::spawn(writer);
        sleep(RTT / 4).await;
        (writer, tokio::spawn(reader))
    };
    first.await.unwrap();
    second.await.unwrap();
}

/// The error of a request on a deferred connection, when something has happened to the network since
/// the connect.
fn after_change(
    request: &'static [u8],
    way: &'static str,
    connector: TfoConnector,
    change: impl FnOnce(&Lab) + Send + 'static,
) -> io::Error {
    let lab = lab();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = server.addr(80);
    let (_server, _) = TcpServer::echo(&server, addr);
    run(&client, Runtime::CurrentThread, async move {
        fetch_cookie(addr).await;
        let mut stream = deferred_with(&connector, addr).await;
        change(&lab);
        let begun = Instant::now();
        stream.write_all(request).await.unwrap();
        let error = timeout(Duration::from_secs(10), async {
            match way {
                "read" => stream.read(&mut [0]).await.unwrap_err(),
                "shutdown" => stream.shutdown().await.unwrap_err(),
                // What does not fit into the first flight has to wait for the handshake.
                _ => stream.write_all(&[b'x'; 20_000]).await.unwrap_err(),
            }
        });
        let error = error.await.expect("an end");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let info = stream.conn_info();
        let reason = match error.kind() {
            io::ErrorKind::TimedOut => Reason::TimedOut,
            _ => Reason::Refused,
        };
        assert_eq!((info.outcome(), info.reason(), info.saved_rtts()), (SynOutcome::Failed, Some(reason), 0));
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), error.kind(), "it is told again");
        error
    })
}
