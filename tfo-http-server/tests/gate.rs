//! The gate: what a reader gets of data that came in a SYN, and when. The client is hand-made, so
//! that it can do what attackers and broken paths do.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use support::{
    GET, POST, RawClient, Runtime, WHILE, accept_ride, lab, read, read_counted, serve, stays_pending,
};
use tfo_core::TcpState;
use tfo_http_server::{AcceptOutcome, Disproven, PlainReason};
use tfo_lab::{Lab, Packet, lab_tests};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use Runtime::{CurrentThread, MultiThread};

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_get_is_read_before_the_ack() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, |builder| builder, async |listener| {
                let mut client = RawClient::v4(&lab, 1);
                client.syn(GET);
                let mut stream = accept_ride(&listener, GET).await;
                let mut polls = 0;
                assert_eq!(read_counted(&mut stream, 8192, &mut polls).await.unwrap(), GET);
                assert_eq!(polls, 1);
                let info = stream.info();
                assert!(!info.is_proven() && !info.was_gated(), "{info:?}");
                assert_eq!(info.released_bytes(), Some(GET.len()));
                assert!(info.nodelay().unwrap(), "inherited by those that ride, too");
                // The answer leaves although the client has not shown itself.
                stream.write_all(b"answer").await.unwrap();
                client.wait_for("the answer", |packet| packet.payload() == b"answer");
                assert!(!info.is_proven());
                // What comes behind the proof is read as ever, whatever it is.
                client.ack(POST);
                assert_eq!(read(&mut stream).await.unwrap(), POST);
                assert!(info.is_proven());
            });
        }
    }

    fn a_post_waits_for_the_ack() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            // A deadline that no clock can hold is as good as none.
            let patient = |builder: tfo_http_server::ListenerBuilder| builder.gate_deadline(Duration::MAX);
            serve(&lab, runtime, patient, async |listener| {
                let mut client = RawClient::v4(&lab, 1);
                client.syn(POST);
                let mut stream = accept_ride(&listener, POST).await;
                let info = stream.info();
                stays_pending(read(&mut stream)).await;
                assert!(info.was_gated() && !info.is_proven(), "{info:?}");
                assert_eq!(info.released_bytes(), Some(0));
                client.ack(b"");
                assert_eq!(read(&mut stream).await.unwrap(), POST);
                assert!(info.is_proven());
            });
        }
    }

    fn a_gated_reader_is_polled_three_times() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, |builder| builder, async |listener| {
                let mut client = RawClient::v4(&lab, 1);
                client.syn(POST);
                let mut stream = accept_ride(&listener, POST).await;
                let reader = tokio::spawn(async move {
                    let mut polls = 0;
                    (read_counted(&mut stream, 8192, &mut polls).await.unwrap(), polls)
                });
                sleep(WHILE).await;
                client.ack(b"");
                let (got, polls) = reader.await.unwrap();
                assert_eq!(got, POST);
                // When it begins, at the reactor's first event, at the ACK.
                assert!((2..=3).contains(&polls), "{polls} polls");
            });
        }
    }

    fn a_pipelined_post_waits_and_the_get_before_it_does_not() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let flight = [GET, POST, GET].concat();
            let mut client = RawClient::v4(&lab, 1);
            client.syn(&flight);
            let mut stream = accept_ride(&listener, &flight).await;
            assert_eq!(read(&mut stream).await.unwrap(), GET);
            stays_pending(read(&mut stream)).await;
            client.data_without_ack(b"more");
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            assert_eq!(read(&mut stream).await.unwrap(), [POST, GET].concat());
        });
    }

    fn small_reads_stop_at_the_cut() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let flight = [GET, POST].concat();
            let mut client = RawClient::v4(&lab, 1);
            client.syn(&flight);
            let mut stream = accept_ride(&listener, &flight).await;
            assert_eq!(stream.read(&mut []).await.unwrap(), 0);
            let mut got = Vec::new();
            while got.len() < GET.len() {
                // As hyper-util's auto builder, and smaller.
                let room = if got.is_empty() { 24 } else { 5 };
                let part = read_counted(&mut stream, room, &mut 0).await.unwrap();
                assert!(!part.is_empty());
                got.extend_from_slice(&part);
            }
            assert_eq!(got, GET);
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            let mut rest = vec![0; POST.len()];
            stream.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest, POST);
        });
    }

    fn an_unfinished_request_is_read_and_its_end_comes_with_the_proof() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let (begin, end) = GET.split_at(12);
            let mut client = RawClient::v4(&lab, 1);
            client.syn(begin);
            let mut stream = accept_ride(&listener, begin).await;
            assert_eq!(read(&mut stream).await.unwrap(), begin);
            client.data_without_ack(end);
            stays_pending(read(&mut stream)).await;
            client.ack(end);
            assert_eq!(read(&mut stream).await.unwrap(), end);
            assert!(stream.info().is_proven());
        });
    }

    fn data_and_fin_with_the_ack_prove() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let (begin, end) = POST.split_at(30);
            let mut client = RawClient::v4(&lab, 1);
            client.syn(begin);
            let mut stream = accept_ride(&listener, begin).await;
            stays_pending(read(&mut stream)).await;
            client.ack(end);
            let mut got = vec![0; POST.len()];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, POST);

            let mut client = RawClient::v4(&lab, 2);
            client.syn(POST);
            let mut stream = accept_ride(&listener, POST).await;
            stays_pending(read(&mut stream)).await;
            client.fin();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, POST);
            assert_eq!(stream.info().tcp_info().unwrap().state(), Some(TcpState::CloseWait));
            assert!(stream.info().is_proven());
        });
    }

    fn a_reset_discards_what_was_withheld() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, |builder| builder, async |listener| {
                // Without an ACK, with it, and right behind it, before anybody has looked.
                for (port, reset) in [
                    (1, (|client| _ = client.rst()) as fn(&mut RawClient<'_>)),
                    (2, |client| _ = client.rst_ack()),
                    (3, |client| _ = client.ack(b"").rst()),
                ] {
                    let mut client = RawClient::v4(&lab, port);
                    client.syn(POST);
                    let mut stream = accept_ride(&listener, POST).await;
                    stays_pending(read(&mut stream)).await;
                    reset(&mut client);
                    // The reader has this thread.
                    lab.tap().wait_quiet(Duration::from_millis(20), support::PATIENCE);
                    for _ in 0..2 {
                        let error = read(&mut stream).await.unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                        let inner = error.get_ref().unwrap().downcast_ref::<Disproven>();
                        assert_eq!(inner, Some(&Disproven::Reset));
                    }
                    let info = stream.info();
                    assert!(!info.is_proven());
                    assert_eq!(info.proven().await, Err(Disproven::Reset));
                }
            });
        }
    }

    fn a_reset_before_the_accept_discards_too() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            for (port, data) in [(1, POST), (2, GET)] {
                let mut client = RawClient::v4(&lab, port);
                client.syn(data);
                client.wait_for("a SYN-ACK", Packet::is_syn_ack);
                client.rst();
                sleep(WHILE).await;
                let (mut stream, _) = listener.accept().await.unwrap();
                let info = stream.info();
                assert_eq!(info.tcp_info().unwrap().state(), Some(TcpState::Close));
                assert!(info.arrived_in_syn() && !info.is_proven());
                assert_eq!(read(&mut stream).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
        });
    }

    fn an_ack_before_the_accept_leaves_nothing_to_gate() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(POST).ack(b"");
            sleep(WHILE).await;
            let (mut stream, _) = listener.accept().await.unwrap();
            let info = stream.info();
            assert!(info.arrived_in_syn() && info.is_proven(), "{info:?}");
            assert_eq!(info.proven().await, Ok(()));
            assert_eq!(read(&mut stream).await.unwrap(), POST);
            assert!(!info.was_gated());
        });
    }

    fn what_is_known_before_the_first_read_is_not_asked_again() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(POST);
            let mut stream = accept_ride(&listener, POST).await;
            client.ack(b"");
            assert_eq!(stream.info().proven().await, Ok(()));
            assert_eq!(read(&mut stream).await.unwrap(), POST);
            assert!(!stream.info().was_gated());
            for (port, data) in [(2, POST), (3, GET)] {
                let mut client = RawClient::v4(&lab, port);
                client.syn(data);
                let mut stream = accept_ride(&listener, data).await;
                client.rst();
                assert_eq!(stream.info().proven().await, Err(Disproven::Reset));
                assert_eq!(read(&mut stream).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
            let gate = listener.stats().snapshot().gate;
            assert_eq!((gate.gated, gate.withheld, gate.reset), (0, 0, 2));
            timeout(WHILE, listener.stats().settled()).await.unwrap();
        });
    }

    fn a_reset_is_one_whoever_notices_it() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(&[GET, POST].concat());
            let mut stream = accept_ride(&listener, &[GET, POST].concat()).await;
            assert_eq!(read(&mut stream).await.unwrap(), GET);
            client.rst();
            lab.tap().wait_quiet(Duration::from_millis(20), support::PATIENCE);
            // As a server does whose answer cannot be written.
            drop(stream);
            let gate = listener.stats().snapshot().gate;
            assert_eq!((gate.gated, gate.withheld, gate.reset, gate.closed), (1, 0, 1, 0));
        });
    }

    fn silence_ends_in_a_reset_that_frees_the_queue() {
        let lab = lab();
        let deadline = Duration::from_millis(300);
        let queue_of_one = |builder: tfo_http_server::ListenerBuilder| builder.fastopen_queue(1).gate_deadline(deadline);
        serve(&lab, CurrentThread, queue_of_one, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(POST);
            let begun = Instant::now();
            let mut stream = accept_ride(&listener, POST).await;
            let error = read(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(begun.elapsed() >= deadline && begun.elapsed() < 3 * deadline, "{:?}", begun.elapsed());
            // At once: the stream is still there.
            client.wait_for("a RST", Packet::is_rst);
            assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::TimedOut);
            assert_eq!(stream.info().proven().await, Err(Disproven::Deadline));
            // The only place is free again.
            let mut next = RawClient::v4(&lab, 2);
            next.syn(GET);
            let mut second = accept_ride(&listener, GET).await;
            assert_eq!(read(&mut second).await.unwrap(), GET);
            drop(stream);
        });
    }

    fn a_cookie_without_data_gates_nothing() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn_with_option();
            let (mut stream, _) = listener.accept().await.unwrap();
            let info = stream.info();
            assert_eq!(info.tcp_info().unwrap().state(), Some(TcpState::SynRecv));
            assert_eq!(info.outcome(), AcceptOutcome::CookieOnly);
            assert!(!info.is_proven());
            client.data_without_ack(POST);
            stays_pending(read(&mut stream)).await;
            client.ack(POST);
            assert_eq!(read(&mut stream).await.unwrap(), POST);
            assert!(info.is_proven() && !info.was_gated());
        });
    }

    fn deferred_accepts_wait_for_data_and_those_that_rode_have_it() {
        let lab = lab();
        let deferred = |builder: tfo_http_server::ListenerBuilder| builder.defer_accept(Duration::from_secs(20));
        serve(&lab, CurrentThread, deferred, async |listener| {
            let mut silent = RawClient::v4(&lab, 1);
            silent.syn(b"").ack(b"");
            stays_pending(listener.accept()).await;
            let mut riding = RawClient::v4(&lab, 2);
            riding.syn(POST);
            let mut rode = accept_ride(&listener, POST).await;
            stays_pending(read(&mut rode)).await;
            riding.ack(b"");
            assert_eq!(read(&mut rode).await.unwrap(), POST);
            // The silent one is still the kernel's, until it says something.
            stays_pending(listener.accept()).await;
            silent.ack(GET);
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(!stream.info().arrived_in_syn() && stream.info().is_proven());
            assert_eq!(read(&mut stream).await.unwrap(), GET);
        });
        // The control: without, it is accepted before it has said anything.
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            RawClient::v4(&lab, 3).syn(b"").ack(b"");
            listener.accept().await.unwrap();
        });
    }

    fn a_forged_ack_proves_nothing() {
        // Whoever forges an address does not see the SYN-ACK, and cannot know its number.
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            for (port, data) in [(1, POST), (2, GET)] {
                let mut client = RawClient::v4(&lab, port);
                client.syn(data);
                let mut stream = accept_ride(&listener, data).await;
                if data == GET {
                    assert_eq!(read(&mut stream).await.unwrap(), GET);
                }
                client.forged_ack(b"").forged_ack(POST);
                stays_pending(read(&mut stream)).await;
                assert!(!stream.info().is_proven());
                client.ack(b"x");
                assert!(!read(&mut stream).await.unwrap().is_empty());
            }
        });
    }

    fn a_syn_with_fin_is_no_connection() {
        // In the kernel a FIN leads to CLOSE_WAIT, which proves: it must not get in with the SYN.
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            RawClient::v4(&lab, 1).syn_fin(POST);
            stays_pending(listener.accept()).await;
            RawClient::v4(&lab, 2).syn(POST);
            accept_ride(&listener, POST).await;
        });
    }

    fn an_ordinary_connection_is_born_proven() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(b"").ack(POST);
            let (mut stream, remote) = listener.accept().await.unwrap();
            let info = stream.info();
            assert_eq!(info.outcome(), AcceptOutcome::Plain(PlainReason::NotUsed));
            assert!(info.is_proven());
            assert_eq!(read(&mut stream).await.unwrap(), POST);
            assert_eq!((info.was_gated(), info.released_bytes()), (false, None));
            assert_eq!(info.remote_addr(), remote);
            assert_eq!(info.local_addr().unwrap().port(), support::PORT);
            assert!(info.rtt().is_some());
            drop(stream);
            assert!(info.is_proven(), "latched");
            assert!(info.rtt().is_some(), "remembered");
        });
    }

    fn ipv6_is_gated_too() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v6(&lab, 1);
            client.syn(POST);
            let mut stream = accept_ride(&listener, POST).await;
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            assert_eq!(read(&mut stream).await.unwrap(), POST);
        });
    }

    fn a_flight_larger_than_usual_is_classified_whole() {
        let lab = Lab::builder().fastopen("server", 0x203).mtu(9000).build().unwrap();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let long = [b"GET / HTTP/1.1\r\nHost: server\r\nX-Fill: ", vec![b'x'; 4000].as_slice(), b"\r\n\r\n"].concat();
            RawClient::v4(&lab, 1).syn(&long);
            let mut stream = accept_ride(&listener, &long).await;
            assert_eq!(read(&mut stream).await.unwrap(), long);

            let both = [&long, POST].concat();
            let mut client = RawClient::v4(&lab, 2);
            client.syn(&both);
            let mut stream = accept_ride(&listener, &both).await;
            assert_eq!(read(&mut stream).await.unwrap(), long);
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            assert_eq!(read(&mut stream).await.unwrap(), POST);

            // Proven by the time it is read, with more than the first look has room for.
            let mut client = RawClient::v4(&lab, 3);
            client.syn(&both);
            let mut stream = accept_ride(&listener, &both).await;
            client.ack(&long);
            sleep(WHILE).await;
            let mut got = vec![0; both.len() + long.len()];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [both, long].concat());
        });
    }

    fn without_the_gate_a_post_is_read_at_once() {
        // The positive control: it is the gate, and nothing else, that withholds.
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder.danger_gate_off(true), async |listener| {
            RawClient::v4(&lab, 1).syn(POST);
            let mut stream = accept_ride(&listener, POST).await;
            assert_eq!(read(&mut stream).await.unwrap(), POST);
            assert!(!stream.info().is_proven());
        });
    }

    fn proven_waits_for_the_ack_without_a_reader() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, |builder| builder, async |listener| {
                // Everything is read, as by a server whose handler now waits; and nothing is.
                for (port, data, drained) in [(1, GET, true), (2, GET, false), (3, POST, false)] {
                    let mut client = RawClient::v4(&lab, port);
                    client.syn(data);
                    let mut stream = accept_ride(&listener, data).await;
                    if drained {
                        assert_eq!(read(&mut stream).await.unwrap(), data);
                    }
                    let info = stream.info();
                    let open = open_descriptors();
                    stays_pending(info.proven()).await;
                    assert_eq!(open_descriptors(), open, "who gives up leaves nothing behind");
                    let two = [info.clone(), info.clone()].map(|info| tokio::spawn(async move { info.proven().await }));
                    sleep(WHILE).await;
                    // Writes are free meanwhile.
                    stream.write_all(b"answer").await.unwrap();
                    client.wait_for("the answer", |packet| packet.payload() == b"answer");
                    assert!(two.iter().all(|task| !task.is_finished()));
                    let begun = Instant::now();
                    client.ack(b"");
                    for task in two {
                        assert_eq!(task.await.unwrap(), Ok(()));
                    }
                    assert!(begun.elapsed() < Duration::from_millis(100), "woken, not found: {:?}", begun.elapsed());
                    if !drained {
                        assert_eq!(read(&mut stream).await.unwrap(), data);
                    }
                }
            });
        }
    }

    fn no_ack_is_missed_however_it_falls() {
        let lab = lab();
        serve(&lab, MultiThread, |builder| builder, async |listener| {
            for index in 0..600_u16 {
                let mut client = RawClient::v4(&lab, 1000 + index);
                client.syn(POST);
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.info().arrived_in_syn());
                let info = stream.info();
                let reader = tokio::spawn(async move { read(&mut stream).await.unwrap() });
                let waiter = tokio::spawn(async move { info.proven().await });
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros((index % 300).into()) {}
                client.ack(b"");
                // Far below what the waiter's own looks, or the deadline, would take.
                let woken = timeout(Duration::from_millis(200), async { (reader.await, waiter.await) }).await;
                let (got, proven) = woken.unwrap_or_else(|_| panic!("an ACK after {} us was missed", index % 300));
                assert_eq!((got.unwrap().as_slice(), proven.unwrap()), (POST, Ok(())));
            }
        });
    }

    fn what_was_proven_when_the_stream_was_closed_stays_so() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(GET);
            let mut stream = accept_ride(&listener, GET).await;
            assert_eq!(read(&mut stream).await.unwrap(), GET);
            client.ack(b"");
            sleep(WHILE).await;
            let info = stream.info();
            drop(stream);
            assert!(info.is_proven());
            assert_eq!(info.proven().await, Ok(()));
        });
    }

    fn http2_is_released_up_to_the_first_unsafe_request() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
            let request = |stream: u8, method: u8| {
                let block = [&[method, 0x86, 0x84, 0x41, 6][..], b"server"].concat();
                [&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, stream][..], &block].concat()
            };
            let (get, post) = (request(1, 0x82), request(3, 0x83));
            let flight = [preface.as_slice(), &get, &post].concat();
            let mut client = RawClient::v4(&lab, 1);
            client.syn(&flight);
            let mut stream = accept_ride(&listener, &flight).await;
            assert_eq!(read(&mut stream).await.unwrap(), [preface.as_slice(), &get].concat());
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            assert_eq!(read(&mut stream).await.unwrap(), post);
        });
    }

    fn proven_tells_why_not() {
        let lab = lab();
        let short = |builder: tfo_http_server::ListenerBuilder| builder.gate_deadline(Duration::from_millis(300));
        serve(&lab, MultiThread, short, async |listener| {
            let mut accepted = Vec::new();
            for port in 1..=3 {
                let mut client = RawClient::v4(&lab, port);
                client.syn(GET);
                let mut stream = accept_ride(&listener, GET).await;
                assert_eq!(read(&mut stream).await.unwrap(), GET);
                let info = stream.info();
                let waiting = tokio::spawn(async move { info.proven().await });
                accepted.push((client, stream, waiting));
            }
            let (late, mut kept, deadline) = accepted.pop().unwrap();
            let (closed_client, closed, dropped) = accepted.pop().unwrap();
            let (mut reset, _stream, by_reset) = accepted.pop().unwrap();
            sleep(WHILE / 2).await;
            reset.rst();
            assert_eq!(by_reset.await.unwrap(), Err(Disproven::Reset));
            // Dropping the stream closes the connection, although somebody waits for it.
            let begun = Instant::now();
            drop(closed);
            assert_eq!(dropped.await.unwrap(), Err(Disproven::Closed));
            assert!(begun.elapsed() < Duration::from_millis(100), "woken, not found: {:?}", begun.elapsed());
            closed_client.wait_for("a FIN", Packet::is_fin);
            assert_eq!(deadline.await.unwrap(), Err(Disproven::Deadline));
            // Nothing was withheld, so nothing is aborted.
            kept.write_all(b"late").await.unwrap();
            late.wait_for("the answer", |packet| packet.payload() == b"late");
            let mut late = late;
            late.ack(b"");
            timeout(WHILE * 10, async {
                while !kept.info().is_proven() {
                    sleep(Duration::from_millis(1)).await;
                }
            })
            .await
            .unwrap();
        });
    }

    fn closing_a_gated_connection_resets_it_unless_something_was_answered() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(POST);
            let mut stream = accept_ride(&listener, POST).await;
            stays_pending(read(&mut stream)).await;
            drop(stream);
            client.wait_for("a RST", Packet::is_rst);

            let flight = [GET, POST].concat();
            let mut client = RawClient::v4(&lab, 2);
            client.syn(&flight);
            let mut stream = accept_ride(&listener, &flight).await;
            assert_eq!(read(&mut stream).await.unwrap(), GET);
            stream.write_all(b"answer").await.unwrap();
            stays_pending(read(&mut stream)).await;
            stream.shutdown().await.unwrap();
            drop(stream);
            client.wait_for("the answer", |packet| packet.payload() == b"answer");
            client.wait_for("a FIN", Packet::is_fin);
            assert!(!client.received().iter().any(Packet::is_rst), "{}", lab.tap().ladder());
            client.ack(b"");
            sleep(WHILE).await;
            assert!(!client.received().iter().any(Packet::is_rst), "{}", lab.tap().ladder());
        });
    }

    fn a_half_closed_gate_still_opens() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(POST);
            let mut stream = accept_ride(&listener, POST).await;
            stays_pending(read(&mut stream)).await;
            stream.shutdown().await.unwrap();
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            client.wait_for("a FIN", Packet::is_fin);
            client.ack(b"");
            assert_eq!(read(&mut stream).await.unwrap(), POST);
        });
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
