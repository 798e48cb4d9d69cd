//! A server that is slow is told from a path that swallows its answer: where answers have always come, or the
//! request must not be sent twice, the client asks the server's kernel before it does anything.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::http::{Runtime, run};
use support::tcp::{GET, TcpServer, dial, fetch_cookie};
use tfo_http::path::{PathSnapshot, PathState};
use tfo_http::{ConnInfo, SynData, SynOutcome, TfoConnector, connect_error};
use tfo_lab::{BlackholeAnswers, DropSynData, Flow, Lab, Packet, Record, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const RTT: Duration = Duration::from_millis(20);
const MS: Duration = Duration::from_millis(1);
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 4\r\n\r\nbody";
/// The two in one flight.
const GET_AND_POST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n\
    POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 4\r\n\r\nbody";
/// Half of a request.
const PUT: &[u8] = b"PUT / HTTP/1.1\r\nHost: server\r\nContent-Length: 8\r\n\r\nbody";
const REST: &[u8] = b"rest";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

lab_tests! {
    fn a_slow_server_is_asked_once_and_executes_once() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        scene.slow_by(5000 * MS);
        let visit = scene.visit(GET);
        let flow = visit.alone();
        assert_eq!((scene.executed(), visit.outcome()), (1, SynOutcome::SynDataAcked), "{flow}");
        assert!(visit.info.saved_rtts() == 1 && !visit.info.hedged(), "{:?}", visit.info);
        assert!(probes(flow) == 1 && answers(flow) >= 1, "{flow}");
        assert_eq!(scene.path().silent_in_a_row, 0);
        // And who is not slow is not asked.
        scene.slow_by(500 * MS);
        let visit = scene.visit(GET);
        assert_eq!((probes(visit.alone()), visit.outcome()), (0, SynOutcome::SynDataAcked));
    }

    fn a_path_that_begins_to_swallow_answers_completes_by_a_plain_attempt() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        scene.lab.middlebox(BlackholeAnswers::new());
        let visit = scene.visit(GET);
        assert_eq!((visit.outcome(), visit.flows.len()), (SynOutcome::Stalled, 2), "{:?}", visit.flows);
        assert_eq!((probes(&visit.flows[0]), answers(&visit.flows[0])), (2, 0), "{}", visit.flows[0]);
        assert!(visit.flows[1].syn().payload().is_empty() && visit.took < 5000 * MS, "{visit:?}");
        assert!(scene.path().silent_in_a_row > 0);
        // The next one is guarded, and not asked; then the path is off.
        let visits = [scene.visit(GET), scene.visit(GET)];
        let told: Vec<_> = visits.iter().map(Visit::outcome).collect();
        assert_eq!(told, [SynOutcome::Stalled, SynOutcome::Plain], "{visits:?}");
        assert!(visits[0].took < 1000 * MS && probes(&visits[0].flows[0]) == 0, "{visits:?}");
    }

    /// Its kernel is heard: so the server could be slow. Who gives up has seen something.
    fn a_path_that_begins_to_swallow_data_but_no_acks_is_found_out_by_who_gives_up() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        let mut rides = HashSet::new();
        scene.lab.middlebox(move |packet: &Packet| {
            if packet.is_syn() && !packet.is_syn_ack() && !packet.payload().is_empty() {
                rides.extend(packet.src());
            }
            let swallowed = !packet.payload().is_empty() && packet.dst().is_some_and(|dst| rides.contains(&dst));
            if swallowed { Verdict::Drop } else { Verdict::Pass }
        });
        let (connector, addr) = (scene.connector.clone(), scene.addr);
        run(&scene.lab.host("client"), Runtime::CurrentThread, async move {
            let mut stream = dial(&connector, addr).await;
            stream.write_all(GET).await.unwrap();
            let answer = tokio::time::timeout(4000 * MS, stream.read_u8()).await;
            assert!(answer.is_err(), "{answer:?}");
        });
        assert_eq!(scene.path().silent_in_a_row, 1);
        let visits = [scene.visit(GET), scene.visit(GET), scene.visit(GET)];
        assert!(visits.iter().all(|visit| visit.answer.is_ok() && visit.took < 2000 * MS), "{visits:?}");
        let told: Vec<_> = visits.iter().map(Visit::outcome).collect();
        assert_eq!((told[0], told[2]), (SynOutcome::Stalled, SynOutcome::Plain), "{visits:?}");
    }

    /// Only its kernel repeats the SYN-ACK, which is no sign that anything else comes through.
    fn a_path_that_swallows_both_ways_but_no_syn_ack_is_found_out_too() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        scene.lab.middlebox(BlackholeAnswers::new().both_ways());
        let visit = scene.visit(GET);
        assert_eq!((visit.outcome(), visit.flows.len()), (SynOutcome::Stalled, 2), "{:?}", visit.flows);
        assert!(visit.took < 5000 * MS, "{visit:?}");
    }

    /// The server is accepted, but not proven: its kernel answers all the same.
    fn a_slow_server_that_never_got_the_ack_is_asked_and_not_repeated() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        scene.slow_by(4000 * MS);
        let lost = Arc::new(AtomicUsize::new(0));
        let (acks, mut syn_acks, addr) = (lost.clone(), 0, scene.addr);
        scene.lab.middlebox(move |packet: &Packet| {
            let bare = packet.is_ack() && packet.payload().is_empty() && !packet.is_syn() && !packet.is_fin();
            // Without a second SYN-ACK there is no second ACK.
            syn_acks += usize::from(packet.is_syn_ack());
            let first = bare && packet.src() != Some(addr) && acks.fetch_add(1, Ordering::SeqCst) == 0;
            if first || packet.is_syn_ack() && syn_acks > 1 { Verdict::Drop } else { Verdict::Pass }
        });
        let visit = scene.visit(GET);
        let flow = visit.alone();
        assert!(lost.load(Ordering::SeqCst) > 1, "{flow}");
        assert_eq!((scene.executed(), visit.outcome()), (1, SynOutcome::SynDataAcked), "{flow}");
        assert!(probes(flow) >= 1 && answers(flow) >= 1, "{flow}");
    }

    /// The kernel sends the answer again; the probe must not make it two.
    fn a_lost_answer_is_waited_for() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        let mut lost = 0;
        scene.lab.middlebox(move |packet: &Packet| {
            let answer = packet.src().is_some_and(|src| src.port() == 80) && !packet.payload().is_empty();
            lost += usize::from(answer);
            if answer && lost <= 2 { Verdict::Drop } else { Verdict::Pass }
        });
        let visit = scene.visit(GET);
        let flow = visit.alone();
        assert_eq!((scene.executed(), visit.outcome()), (1, SynOutcome::SynDataAcked), "{flow}");
    }

    /// Half a request is answered by nobody: its rest must not wait for that, nor be sent behind two halves.
    fn a_body_that_comes_later_is_not_kept_back() {
        for dropped in [false, true] {
            // On a path that is not known, on one that is, and on one where the SYN was lost.
            let scene = Scene::new(SynData::IdempotentMethods);
            let first = scene.visit_in_parts(PUT, REST);
            assert_eq!((first.answer, scene.executed(), first.outcome()), (Ok(()), 1, SynOutcome::SynDataAcked));
            assert!(first.alone().syn().payload() == PUT && first.took < 2000 * MS, "{first:?}");
            scene.visit(GET);
            scene.clear();
            if dropped {
                scene.lab.middlebox(DropSynData::new());
            }
            let second = scene.visit_in_parts(PUT, REST);
            assert_eq!((second.answer, scene.executed()), (Ok(()), 1), "{second:?}");
            let flows = if dropped { 2 } else { 1 };
            assert!(second.flows.len() == flows && second.took < 2000 * MS, "{second:?}");
            assert!(second.flows.iter().all(|flow| probes(flow) == 0), "{second:?}");
        }
    }

    fn what_may_not_ride_waits_for_the_handshake_and_not_for_an_answer() {
        let scene = Scene::warm(SynData::SafeMethods, GET);
        scene.slow_by(3000 * MS);
        let visit = scene.visit(GET_AND_POST);
        let flow = visit.alone();
        let rest = flow.sent_by_client().find(|record| record.packet().payload() == POST).unwrap();
        assert!(rest.time() - flow.records()[0].time() < 900 * MS && flow.syn().payload() == GET, "{flow}");
    }

    fn a_post_that_rode_is_never_repeated_and_its_caller_is_told() {
        // On a path that is known, and on one that is not.
        for warm in [true, false] {
            let scene = Scene::new(SynData::DangerEverything);
            if warm {
                (0..2).for_each(|_| drop(scene.visit(GET)));
            }
            scene.clear();
            scene.slow_by(5000 * MS);
            let slow = scene.visit(POST);
            assert_eq!((scene.executed(), slow.outcome()), (1, SynOutcome::SynDataAcked), "{slow:?}");
            assert_eq!(probes(slow.alone()), 1, "{}", slow.flows[0]);
            scene.clear();
            scene.lab.middlebox(BlackholeAnswers::new());
            let swallowed = scene.visit(POST);
            assert_eq!(swallowed.answer, Err(true), "it may have been executed: {swallowed:?}");
            assert!(swallowed.took < 10_000 * MS && probes(swallowed.alone()) >= 4, "{swallowed:?}");
            assert_eq!(scene.executed(), 1, "by the SYN alone");
            let path = scene.path();
            assert!(path.silent_in_a_row > 0 || path.state == PathState::Failed, "{path:?}");
        }
    }
}

/// A client and a server that takes its time.
struct Scene {
    lab: Lab,
    addr: SocketAddr,
    connector: TfoConnector,
    delay: Arc<AtomicU64>,
    executed: Arc<AtomicUsize>,
    _server: TcpServer,
}

/// One request.
#[derive(Debug)]
struct Visit {
    /// Whether the request may have been executed, where it failed.
    answer: Result<(), bool>,
    info: ConnInfo,
    flows: Vec<Flow>,
    took: Duration,
}

impl Visit {
    fn outcome(&self) -> SynOutcome {
        self.info.outcome()
    }

    /// Its only connection.
    fn alone(&self) -> &Flow {
        assert_eq!(self.flows.len(), 1, "{self:?}");
        &self.flows[0]
    }
}

impl Scene {
    fn new(policy: SynData) -> Self {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let host = lab.host("server");
        let addr = host.addr(80);
        let (delay, executed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = (delay.clone(), executed.clone());
        let server = TcpServer::start(&host, addr, move |mut stream| {
            let (delay, executed) = shared.clone();
            async move {
                let mut request = Vec::new();
                while request.is_empty() || request.starts_with(PUT) && !request.ends_with(REST) {
                    if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
                        return;
                    }
                }
                executed.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(delay.load(Ordering::SeqCst))).await;
                let _ = stream.write_all(ANSWER).await;
            }
        });
        run(&lab.host("client"), Runtime::CurrentThread, fetch_cookie(addr));
        let mut connector = TfoConnector::new();
        connector.set_syn_data(policy);
        Self { lab, addr, connector, delay, executed, _server: server }
    }

    /// On a path that has carried rides and their answers.
    fn warm(policy: SynData, request: &'static [u8]) -> Self {
        let scene = Self::new(policy);
        for _ in 0..2 {
            let visit = scene.visit(request);
            assert_eq!(visit.outcome(), SynOutcome::SynDataAcked, "{visit:?}");
        }
        scene.clear();
        scene
    }

    fn visit(&self, request: &'static [u8]) -> Visit {
        self.visit_in_parts(request, b"")
    }

    /// The second part is written a moment after the first was flushed.
    fn visit_in_parts(&self, request: &'static [u8], rest: &'static [u8]) -> Visit {
        let (tap, begun) = (self.lab.tap(), Instant::now());
        assert!(tap.wait_quiet(20 * MS, 1000 * MS));
        tap.clear();
        let (connector, addr) = (self.connector.clone(), self.addr);
        let (answer, info) = run(&self.lab.host("client"), Runtime::CurrentThread, async move {
            let mut stream = dial(&connector, addr).await;
            let answer = async {
                stream.write_all(request).await?;
                stream.flush().await?;
                if !rest.is_empty() {
                    tokio::time::sleep(5 * MS).await;
                    stream.write_all(rest).await?;
                }
                let mut answer = vec![0; ANSWER.len()];
                stream.read_exact(&mut answer).await?;
                assert_eq!(answer, ANSWER);
                std::io::Result::Ok(())
            };
            let answer = answer.await.map_err(|error| {
                connect_error(&error).is_some_and(|error| error.maybe_executed() && error.is_timeout())
            });
            (answer, stream.conn_info().clone())
        });
        tap.wait_quiet(20 * MS, 1000 * MS);
        Visit { answer, info, flows: tap.flows(), took: begun.elapsed() }
    }

    fn slow_by(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    fn clear(&self) {
        self.executed.store(0, Ordering::SeqCst);
    }

    fn executed(&self) -> usize {
        self.executed.load(Ordering::SeqCst)
    }

    fn path(&self) -> PathSnapshot {
        self.connector.path_memory().snapshot(Instant::now()).paths.remove(0)
    }
}

/// A keepalive probe acks what is known, and begins one byte before the next.
fn is_probe(flow: &Flow, packet: &Packet) -> bool {
    let next = flow.syn().seq().unwrap().wrapping_add(1 + flow.syn().payload().len() as u32);
    let bare = packet.is_ack() && !packet.is_syn() && !packet.is_fin() && packet.payload().is_empty();
    bare && packet.seq() == Some(next.wrapping_sub(1))
}

fn probes(flow: &Flow) -> usize {
    flow.sent_by_client().filter(|record| is_probe(flow, record.packet())).count()
}

/// How many of them the client has heard of.
fn answers(flow: &Flow) -> usize {
    let Some(first) = flow.sent_by_client().find(|record| is_probe(flow, record.packet())) else { return 0 };
    let ack = |record: &&Record| {
        let packet = record.packet();
        packet.is_ack() && !packet.is_syn_ack() && packet.payload().is_empty() && !packet.is_fin()
    };
    flow.received_by_client().filter(|record| record.time() > first.time()).filter(ack).count()
}
