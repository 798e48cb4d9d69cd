//! Cookie keys on real kernels: cookies that one server makes are taken by another, through changes of
//! keys and with clocks that differ; and the same without the care, which must show in the counters.
//!
//! `TFO_LONG=1` lets the rotation go on for a minute.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

use std::env;
use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, Socket, Type};
use tfo_core::sockopt::{self, CookieKey};
use tfo_core::{Counters, SynSend, TcpInfo, send_syn};
use tfo_http_server::keys::{KeyId, Keys, Rotation, Schedule};
use tfo_http_server::{AcceptedStream, StatsHandle, TfoListener};
use tfo_lab::{Host, Lab, lab_tests};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
const PATIENCE: Duration = Duration::from_secs(10);
const SECRET: &[u8] = b"a secret that the servers share.";
/// 100 connections in a second.
const PACE: Duration = Duration::from_millis(10);
/// The address that both servers have, one at a time.
const SHARED: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// How many connections a server gets before the address moves.
const STAY: usize = 7;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    /// What the text means to the kernel: its own key, and the listener's from the same text.
    fn a_sysctl_key_and_the_same_text_take_each_others_cookies() {
        let text = "01020304-a5b6c7d8-00000000-fffefdfc";
        let backup = "0f0e0d0c-0b0a0908-07060504-03020100";
        // Groups with the highest byte first: what a reader might think.
        let swapped = "04030201-d8c7b6a5-00000000-fcfdfeff";
        for (second, rides) in [
            (text.to_owned(), true),
            (format!("{text},{backup}"), true),
            (format!("{backup},{text}"), true),
            (swapped.to_owned(), false),
            (backup.to_owned(), false),
        ] {
            let lab = Lab::builder().build().unwrap();
            let server = lab.host("server");
            server.set_sysctl("net.ipv4.tcp_fastopen_key", text).unwrap();
            assert_eq!(server.sysctl("net.ipv4.tcp_fastopen_key").unwrap(), text);
            let _system = Server::start(&server, 80, &Keys::system());
            let _fixed = Server::start(&server, 81, &Keys::fixed(&second).unwrap());
            let before = counters(&server);
            // A client's cookies are good for all ports of an address.
            assert!(!visit(&lab, server.addr(80)));
            assert!(visit(&lab, server.addr(80)));
            assert_eq!(visit(&lab, server.addr(81)), rides, "{second}");
            let counters = counters(&server).since(&before);
            assert_eq!(counters.passive_fail, Some(u64::from(!rides)), "{second}");
            assert_eq!(counters.passive_alt_key, Some(u64::from(second.ends_with(&format!(",{text}")))), "{second}");
        }
    }

    /// Two servers, one address, no word between them; one clock 30 s fast and one 30 s slow.
    fn rotation_with_skewed_clocks_costs_no_ride() {
        let fleet = Fleet::new();
        let keys = [30, -30].map(|offset| fleet.keys(offset));
        let _servers = fleet.start(&keys);
        let long = env::var_os("TFO_LONG").is_some();
        let duration = Duration::from_secs(if long { 60 } else { 12 });
        let seen = fleet.run(duration, || {
            // The slow one first: as clocks differ by all that is allowed, there is nothing left for a
            // task that is late.
            keys[1].rotate().unwrap();
            keys[0].rotate().unwrap();
        });
        let rotations = duration.as_secs() / 5;
        println!("{seen:?}, {:?}", keys.each_ref().map(Keys::status));
        assert_eq!(seen.rides, seen.requests - 1, "all but the first ride: {seen:?}");
        assert_eq!(seen.passive_fail, 0, "{seen:?}");
        assert!(seen.passive_alt_key >= rotations, "{seen:?}");
        assert!(seen.requests as u64 > 10 * rotations, "the machine is too busy to show anything: {seen:?}");
        assert!(keys.iter().all(|keys| keys.status().changes >= 2 * rotations), "{keys:?}");
    }

    /// The control: the same without the phase between.
    fn rotation_in_one_phase_costs_rides() {
        let fleet = Fleet::new();
        // No task changes their keys: the loop does.
        let keys = fleet.keys(0);
        let servers = fleet.start(&[keys.clone(), keys]);
        let schedule = schedule();
        let seen = fleet.run(Duration::from_secs(7), || {
            for (server, offset) in servers.iter().zip([30, -30]) {
                let now = fleet.clock.now(offset);
                let start = EPOCH.as_secs() * (since_1970(now).as_secs() / EPOCH.as_secs());
                // At its beginning an epoch's slots are (n, n - 1).
                let slots = schedule.slots(SystemTime::UNIX_EPOCH + Duration::from_secs(start));
                sockopt::set_fastopen_key(&server.listener, slots.primary(), slots.backup()).unwrap();
            }
        });
        println!("{seen:?}");
        assert!(seen.passive_fail > 0, "{seen:?}");
        assert!(seen.rides < seen.requests - 1, "{seen:?}");
    }

    /// The control: each with a key of its own, as two hosts have it.
    fn servers_that_share_no_keys_refuse_each_others_cookies() {
        let fleet = Fleet::new();
        let _servers = fleet.start(&[Keys::system(), Keys::system()]);
        let seen = fleet.run(Duration::from_secs(1), || {});
        println!("{seen:?}");
        assert!(seen.passive_fail >= (seen.requests / STAY / 2) as u64, "{seen:?}");
        assert!(seen.rides < seen.requests - 1, "{seen:?}");
    }

    /// The same keys from the same text, without any change.
    fn servers_with_the_same_key_take_each_others_cookies() {
        let fleet = Fleet::new();
        let text = "00000001-00000002-00000003-00000004";
        let _servers = fleet.start(&[Keys::fixed(text).unwrap(), Keys::fixed(text).unwrap()]);
        let seen = fleet.run(Duration::from_secs(1), || {});
        assert_eq!((seen.rides, seen.passive_fail), (seen.requests - 1, 0), "{seen:?}");
    }

    /// The task that changes keys by itself, on the real clock, on four shards of one port and a
    /// listener of another server whose clock is half a second late.
    fn a_running_task_changes_the_keys_of_all_shards() {
        let lab = Lab::builder().tap_limit(0).build().unwrap();
        let server = lab.host("server");
        let rotation = Rotation::new(Duration::from_secs(2), Duration::from_millis(950)).unwrap();
        let schedule = Schedule::new(SECRET, rotation).unwrap();
        let late = Duration::from_millis(400);
        let all = Keys::derived(schedule.clone());
        let other = Keys::derived(schedule).with_clock(move || SystemTime::now() - late);
        let mut servers: Vec<_> = (0..4).map(|_| Server::start(&server, 80, &all)).collect();
        servers.push(Server::start(&server, 81, &other));
        assert_eq!((all.status().listeners, other.status().listeners), (4, 1));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tasks = [all.clone(), other.clone()].map(|keys| runtime.spawn(keys.run()));
        let before = counters(&server);
        let (mut requests, mut rides) = (0, 0);
        let end = Instant::now() + Duration::from_secs(7);
        while Instant::now() < end {
            let begin = Instant::now();
            rides += usize::from(visit(&lab, server.addr(80 + u16::from(requests % 3 == 0))));
            requests += 1;
            thread::sleep(PACE.saturating_sub(begin.elapsed()));
        }
        let counters = counters(&server).since(&before);
        println!("{rides} of {requests}: {counters:?}");
        assert_eq!((rides, counters.passive_fail), (requests - 1, Some(0)), "{counters:?}");
        assert!(counters.passive_alt_key >= Some(3), "{counters:?}");
        assert!(all.status().changes >= 6, "{all:?}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    fn a_listener_is_bound_with_its_keys() {
        let lab = Lab::builder().build().unwrap();
        let server = lab.host("server");
        let keys = Keys::from_keys(CookieKey::from_bytes([3; 16]), None);
        let bound = Server::start(&server, 80, &keys);
        let (primary, backup) = sockopt::fastopen_key(&bound.listener).unwrap().unwrap();
        assert_eq!((primary.as_bytes(), backup), (&[3; 16], None));
        // What metrics show, of the key in the socket.
        let told = bound.stats.snapshot().keys.unwrap();
        assert_eq!((told.primary, told.backup, told.listeners), (Some(KeyId::of(&primary)), None, 1), "{told:?}");
        drop(bound);
        assert_eq!(keys.status().listeners, 0, "a listener that is gone has no keys");
    }
}

/// An epoch is 150 s of clocks that go 30 times as fast as the real one: 5 s.
const EPOCH: Duration = Duration::from_secs(150);
const SPEED: u32 = 30;

fn schedule() -> Schedule {
    Schedule::new(SECRET, Rotation::new(EPOCH, Duration::from_secs(60)).unwrap()).unwrap()
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// A clock that is moved by hand, so that two are read at the same moment; milliseconds since 1970.
#[derive(Clone, Debug)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn now(&self, offset: i64) -> SystemTime {
        let now = Duration::from_millis(self.0.load(Ordering::SeqCst));
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(now.as_secs().checked_add_signed(offset).unwrap())
            + Duration::from_millis(now.subsec_millis().into())
    }
}

/// Two servers that have one address in turn, and a client.
struct Fleet {
    lab: Lab,
    clock: Clock,
    /// Connections that the servers have seen closed.
    closed: Arc<AtomicU64>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed")]
struct Seen {
    requests: usize,
    rides: usize,
    moves: usize,
    passive: u64,
    passive_fail: u64,
    passive_alt_key: u64,
}

impl Fleet {
    fn new() -> Self {
        let builder = Lab::builder().host("client").host("one").host("two").tap_limit(0);
        let lab = builder.build().unwrap();
        lab.add_address("one", SHARED).unwrap();
        let start = 1_000_000 * EPOCH.as_millis() as u64 + 20_000;
        Self { lab, clock: Clock(Arc::new(AtomicU64::new(start))), closed: Arc::default() }
    }

    fn keys(&self, offset: i64) -> Keys {
        let clock = self.clock.clone();
        Keys::derived(schedule()).with_clock(move || clock.now(offset))
    }

    fn start(&self, keys: &[Keys; 2]) -> [Server; 2] {
        [("one", &keys[0]), ("two", &keys[1])]
            .map(|(name, keys)| Server::counting(&self.lab.host(name), 80, keys, &self.closed))
    }

    /// Makes requests while the clock goes, and moves the address every now and then. All must succeed.
    fn run(&self, duration: Duration, mut tick: impl FnMut() + Send) -> Seen {
        let hosts = ["one", "two"].map(|name| self.lab.host(name));
        let before = hosts.each_ref().map(counters);
        let done = AtomicBool::new(false);
        let (mut requests, mut rides, mut moves) = (0, 0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (begin, start) = (Instant::now(), self.clock.0.load(Ordering::SeqCst));
                while !done.load(Ordering::SeqCst) {
                    let passed = (begin.elapsed() * SPEED).as_millis() as u64;
                    self.clock.0.store(start + passed, Ordering::SeqCst);
                    tick();
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let end = Instant::now() + duration;
            while Instant::now() < end {
                let begin = Instant::now();
                if requests % STAY == STAY - 1 {
                    let (from, to) = if moves % 2 == 0 { ("one", "two") } else { ("two", "one") };
                    // A connection that cannot be closed any more would be in the way of a later one
                    // from the same port.
                    let closed = || self.closed.load(Ordering::SeqCst) == requests as u64;
                    assert!(until(closed), "{requests} connections are closed");
                    self.lab.move_address(from, to, SHARED).unwrap();
                    moves += 1;
                }
                rides += usize::from(visit(&self.lab, SocketAddr::from((SHARED, 80))));
                requests += 1;
                thread::sleep(PACE.saturating_sub(begin.elapsed()));
            }
            done.store(true, Ordering::SeqCst);
        });
        let since: Vec<_> =
            hosts.iter().zip(&before).map(|(host, before)| counters(host).since(before)).collect();
        let sum = |counter: fn(&Counters) -> Option<u64>| {
            since.iter().map(|counters| counter(counters).unwrap()).sum()
        };
        Seen {
            requests,
            rides,
            moves,
            passive: sum(|counters| counters.passive),
            passive_fail: sum(|counters| counters.passive_fail),
            passive_alt_key: sum(|counters| counters.passive_alt_key),
        }
    }
}

fn until(question: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !question() && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_micros(200));
    }
    question()
}

/// One request; whether it rode. That it is answered is asserted.
fn visit(lab: &Lab, to: SocketAddr) -> bool {
    lab.host("client").run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let sent = match send_syn(&socket, &to, &[IoSlice::new(REQUEST)]).unwrap() {
            SynSend::Data(bytes) => bytes,
            _ => 0,
        };
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&REQUEST[sent..]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, ANSWER);
        let info = TcpInfo::read(&stream).unwrap();
        if info.syn_data() != Some(true) {
            println!("no ride: {info:?}"); // the first is expected
        }
        sent == REQUEST.len() && info.syn_data() == Some(true)
    })
}

/// A listener with keys, and a thread that answers.
struct Server {
    /// The same listener, to look at.
    listener: Socket,
    stats: StatsHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Host, port: u16, keys: &Keys) -> Self {
        Self::counting(host, port, keys, &Arc::default())
    }

    /// Counts the connections that have been closed.
    fn counting(host: &Host, port: u16, keys: &Keys, closed: &Arc<AtomicU64>) -> Self {
        let listener = host.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            #[cfg(unix)]
            socket.set_reuse_port(true).unwrap();
            socket.bind(&SocketAddr::from(([0; 4], port)).into()).unwrap();
            socket
        });
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (same, keys, closed) = (listener.try_clone().unwrap(), keys.clone(), Arc::clone(closed));
        let thread = host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                same.listen(1024).unwrap();
                let listener = TfoListener::builder().keys(keys).from_std(same.into()).unwrap();
                ready.send(listener.stats()).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, closed) => {}
                }
            });
        });
        let stats = is_ready.recv().unwrap();
        Self { listener, stats, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn serve(listener: TfoListener, closed: Arc<AtomicU64>) {
    loop {
        let (stream, _) = listener.accept_next().await;
        let closed = Arc::clone(&closed);
        tokio::spawn(async move {
            let answered = timeout(PATIENCE, answer(stream)).await;
            closed.fetch_add(1, Ordering::SeqCst);
            answered
        });
    }
}

async fn answer(mut stream: AcceptedStream) -> std::io::Result<()> {
    let mut request = vec![0; REQUEST.len()];
    stream.read_exact(&mut request).await?;
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut request).await.map(drop)
}

fn counters(host: &Host) -> Counters {
    host.run(|| Counters::read().unwrap())
}
