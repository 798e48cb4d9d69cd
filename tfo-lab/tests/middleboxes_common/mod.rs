//! A client, a server, and a path between them that may be hostile.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tfo_core::{ClientFail, Counters, SynSend, TcpInfo, sockopt};
use tfo_lab::{Flow, Host, Lab, LabBuilder};

use crate::support::{Accepted, REQUEST, Visit, begin};

/// What the server answers.
pub(crate) const ANSWER: &[u8] = b"answer";
/// The round-trip time: much less than the second that Linux waits for a SYN-ACK.
pub(crate) const RTT: Duration = Duration::from_millis(10);
/// For what has to succeed, within two of the kernel's SYN timeouts and some.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);
/// For what has to fail: a connection that has its answer in this time recovered by itself.
pub(crate) const SILENCE: Duration = Duration::from_millis(2600);

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn addr(self, host: &Host, port: u16) -> SocketAddr {
        match self {
            Self::V4 => host.addr(port),
            Self::V6 => host.addr_v6(port),
        }
    }
}

/// Runs the scenario on both families at once, each in labs of its own.
pub(crate) fn on_both(scenario: impl Fn(Family) + Sync) {
    let scenario = &scenario;
    in_parallel([Family::V4, Family::V6].map(|family| move || scenario(family)));
}

/// Runs them all at once on both families: most of their time is the kernel's waiting.
pub(crate) fn at_once(scenarios: &[fn(Family)]) {
    in_parallel(scenarios.iter().map(|scenario| move || on_both(scenario)));
}

/// The first panic is the caller's.
fn in_parallel(work: impl IntoIterator<Item = impl FnOnce() + Send>) {
    thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|work| scope.spawn(work)).collect();
        let panics: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().err()).collect();
        if let Some(panic) = panics.into_iter().next() {
            resume_unwind(panic);
        }
    });
}

/// A lab with a client and a server that answers on port 80.
pub(crate) struct Site {
    pub(crate) serving: Serving,
    pub(crate) client: Host,
    pub(crate) server: Host,
    pub(crate) addr: SocketAddr,
    pub(crate) lab: Lab,
}

impl Site {
    pub(crate) fn new(family: Family) -> Self {
        Self::build(Lab::builder().rtt(RTT), family)
    }

    pub(crate) fn build(builder: LabBuilder, family: Family) -> Self {
        let lab = builder.build().expect("a lab");
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = family.addr(&server, 80);
        let serving = Serving::start(&server, addr);
        Self { serving, client, server, addr, lab }
    }

    /// Fetches a cookie and rides once: without a box, the same test rides.
    pub(crate) fn warm(family: Family) -> Self {
        let site = Self::new(family);
        site.get_cookie();
        site.assert_rides();
        site
    }

    pub(crate) fn get_cookie(&self) {
        let first = self.visit();
        first.assert_answered();
        assert!(matches!(first.visit.sent, Ok(SynSend::NoCookie)), "{first:?}");
        self.accepted();
    }

    /// A visit with Fast Open; patient.
    pub(crate) fn visit(&self) -> Went {
        self.wait_quiet();
        went(&self.client, self.addr, REQUEST, PATIENCE)
    }

    /// A visit with Fast Open that is given up after the [`SILENCE`].
    pub(crate) fn hopeless_visit(&self) -> Went {
        self.wait_quiet();
        let went = went(&self.client, self.addr, REQUEST, SILENCE);
        assert!(went.error.is_some(), "it was answered: {went:?}\n{}", self.lab.tap().ladder());
        went
    }

    /// The control: a visit without Fast Open, by the kernel's ordinary `connect`, and how long it took.
    pub(crate) fn plain(&self) -> io::Result<Duration> {
        plain(&self.client, self.addr)
    }

    /// Plain TCP succeeds, and at once.
    pub(crate) fn assert_plain_is_quick(&self) {
        let took = self.plain().expect("plain TCP works");
        assert!(took < ms(700), "plain TCP took {took:?}\n{}", self.lab.tap().ladder());
        let accepted = self.accepted();
        assert_eq!((&accepted.request[..], accepted.info.syn_data()), (REQUEST, Some(false)));
    }

    pub(crate) fn assert_rides(&self) {
        let went = self.visit();
        let accepted = self.accepted();
        went.assert_answered();
        let flow = self.flow(&went);
        assert!(rode(&went, &accepted, &flow), "{went:?}\n{accepted:?}\n{}", self.lab.tap().ladder());
    }

    /// What the server saw of the next connection.
    pub(crate) fn accepted(&self) -> Accepted {
        self.serving.accepted().unwrap_or_else(|| panic!("nothing came:\n{}", self.lab.tap().ladder()))
    }

    /// All that the tap saw of it, when all is quiet.
    pub(crate) fn flow(&self, went: &Went) -> Flow {
        self.wait_quiet();
        self.lab.tap().flow(went.local).expect("its flow")
    }

    /// The flow of a visit that Linux completed in spite of everything, and what the server saw: the bytes
    /// arrived once, and the client's kernel gave this reason.
    pub(crate) fn recovered(&self, went: &Went, reason: ClientFail) -> (Flow, Accepted) {
        let flow = self.flow(went);
        went.assert_answered();
        assert_eq!(went.visit.info.client_fail(), Some(reason), "{went:?}\n{flow}");
        let accepted = self.accepted();
        assert_eq!(accepted.request, REQUEST, "{flow}");
        assert_eq!(self.serving.extra_bytes(), 0, "delivered twice: {flow}");
        (flow, accepted)
    }

    /// Waits for what is left of earlier connections.
    fn wait_quiet(&self) {
        assert!(self.lab.tap().wait_quiet(ms(40), PATIENCE), "{}", self.lab.tap().ladder());
    }

    pub(crate) fn counters(&self) -> (Counters, Counters) {
        let read = || Counters::read().expect("counters");
        (self.client.run(read), self.server.run(read))
    }
}

/// How a visit went.
#[derive(Debug)]
pub(crate) struct Went {
    pub(crate) visit: Visit,
    /// Why there is no answer.
    pub(crate) error: Option<io::Error>,
    pub(crate) took: Duration,
    /// The client's end.
    pub(crate) local: SocketAddr,
}

impl Went {
    pub(crate) fn assert_answered(&self) {
        assert!(self.error.is_none(), "{self:?}");
        assert_eq!(self.visit.answer, ANSWER);
    }

    pub(crate) fn kind(&self) -> Option<io::ErrorKind> {
        self.error.as_ref().map(io::Error::kind)
    }

    /// It timed out: no answer, and no error either.
    pub(crate) fn assert_silence(&self) {
        assert_eq!(self.kind(), Some(io::ErrorKind::WouldBlock), "{self:?}");
    }
}

/// Sends a request, in the SYN if it may be, and waits so long for the answer.
pub(crate) fn went(host: &Host, addr: SocketAddr, request: &[u8], patience: Duration) -> Went {
    host.run(|| {
        let start = Instant::now();
        let (mut stream, sent, rest) = begin(addr, request);
        let local = stream.local_addr().expect("an address");
        let result = exchange(&mut stream, rest, patience);
        let took = start.elapsed();
        let info = TcpInfo::read(&stream).expect("TCP_INFO");
        let (answer, error) = match result {
            Ok(answer) => (answer, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Went { visit: Visit { sent, info, answer }, error, took, local }
    })
}

/// Without Fast Open.
pub(crate) fn plain(host: &Host, addr: SocketAddr) -> io::Result<Duration> {
    host.run(|| {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&addr, SILENCE)?;
        let answer = exchange(&mut stream, REQUEST, SILENCE)?;
        assert_eq!(answer, ANSWER);
        Ok(start.elapsed())
    })
}

fn exchange(stream: &mut TcpStream, request: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(request)?;
    let mut answer = vec![0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A server that answers every request, and lets the client close first.
pub(crate) struct Serving {
    listener: Socket,
    accepted: Receiver<Accepted>,
    extra: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(crate) fn start(host: &Host, addr: SocketAddr) -> Self {
        Self::start_with(host, addr, Some(64))
    }

    /// With a queue for Fast Open, or without Fast Open.
    pub(crate) fn start_with(host: &Host, addr: SocketAddr, fastopen: Option<u32>) -> Self {
        let listen = || {
            let listener = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
            listener.set_reuse_address(true)?;
            listener.bind(&addr.into())?;
            listener.listen(128)?;
            if let Some(queue) = fastopen {
                sockopt::set_fastopen(&listener, queue).map_err(io::Error::other)?;
            }
            io::Result::Ok(listener)
        };
        let listener = host.run(listen).expect("a listener");
        let accepting: TcpListener = listener.try_clone().expect("a clone").into();
        let (sender, accepted) = mpsc::channel();
        let extra = Arc::new(AtomicUsize::new(0));
        let counter = extra.clone();
        let thread = host.spawn(move || {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = accepting.accept() {
                let info = TcpInfo::read(&stream).expect("TCP_INFO");
                let (sender, extra) = (sender.clone(), counter.clone());
                let handle = stream.try_clone().expect("a clone");
                let thread = thread::spawn(move || answer(stream, info, &sender, &extra));
                connections.push((handle, thread));
            }
            // A client's FIN may never come: its lab may be gone.
            for (stream, thread) in connections {
                let _ = stream.shutdown(Shutdown::Both);
                let _ = thread.join();
            }
        });
        Self { listener, accepted, extra, thread: Some(thread) }
    }

    /// What it saw of the next connection that brought a request.
    pub(crate) fn accepted(&self) -> Option<Accepted> {
        self.accepted.recv_timeout(PATIENCE).ok()
    }

    /// The same, of one that has come already.
    pub(crate) fn pending(&self) -> Option<Accepted> {
        self.accepted.try_recv().ok()
    }

    /// Bytes that came behind requests.
    pub(crate) fn extra_bytes(&self) -> usize {
        self.extra.load(Ordering::Acquire)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.listener.shutdown(Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(mut stream: TcpStream, info: TcpInfo, accepted: &Sender<Accepted>, extra: &AtomicUsize) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(len) if len > 0 => request.extend_from_slice(&buffer[..len]),
            _ => return,
        }
    }
    let _ = accepted.send(Accepted { info, request });
    let _ = stream.write_all(ANSWER);
    while let Ok(len) = stream.read(&mut buffer)
        && len > 0
    {
        extra.fetch_add(len, Ordering::Release);
    }
    // Dropping it would not do: the accepting thread has a handle too.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Whether the request rode, by all who can tell. Not asked is what depends on how busy the machine is: whether
/// the server answered before the handshake was over.
pub(crate) fn rode(went: &Went, accepted: &Accepted, flow: &Flow) -> bool {
    matches!(went.visit.sent, Ok(SynSend::Data(bytes)) if bytes == REQUEST.len())
        && went.visit.info.syn_data() == Some(true)
        && (accepted.info.syn_data(), accepted.info.tfo_child()) == (Some(true), Some(true))
        && flow.syn().payload() == REQUEST
        && flow.request_delivered_in_syn()
}

/// The client's SYNs: when after the first, the length of their data, and whether they have the option.
pub(crate) fn syns(flow: &Flow) -> Vec<(Duration, usize, bool)> {
    let mut sent = flow.sent_by_client().filter(|record| record.packet().is_syn()).peekable();
    let first = sent.peek().map(|record| record.time()).unwrap_or_default();
    let shape = |record: &tfo_lab::Record| {
        let packet = record.packet();
        (record.time() - first, packet.payload().len(), packet.fast_open().is_some())
    };
    sent.map(shape).collect()
}

/// Whether the kernel waited for its SYN timeout, once.
pub(crate) fn about_a_second(time: Duration) -> bool {
    (ms(900)..ms(1500)).contains(&time)
}

/// Linux sent its SYN once, and lost no time.
pub(crate) fn assert_no_time_lost(flow: &Flow, went: &Went) {
    assert_eq!(syns(flow).len(), 1, "{flow}");
    assert!(went.took < ms(700), "{went:?}\n{flow}");
}

/// Linux sent its SYN, and after a second the same without data and option, which was answered.
pub(crate) fn assert_lost_a_second(flow: &Flow, data: usize) {
    match syns(flow)[..] {
        [(_, first, true), (gap, 0, false)] => assert!(first == data && about_a_second(gap), "{flow}"),
        _ => panic!("not the two SYNs that were expected: {flow}"),
    }
    assert!(flow.syn_ack().is_some(), "{flow}");
}
