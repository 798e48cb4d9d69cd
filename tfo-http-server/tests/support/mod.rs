//! A server in the lab, and a client made of packets, which does what no kernel would.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use tfo_core::TcpState;
use tfo_http_server::server::{HttpService, Server, ServerBuilder, ServerHandle};
use tfo_http_server::{AcceptedStream, ListenerBuilder, TfoListener};
use tfo_lab::{End, Host, Lab, Packet, Record};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";
pub(crate) const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 4\r\n\r\nbody";
pub(crate) const PORT: u16 = 80;
/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any test takes, on a machine that does something else as well.
const HANG: Duration = Duration::from_secs(90);
/// Long enough for something to happen that must not.
pub(crate) const WHILE: Duration = Duration::from_millis(60);

/// A lab whose server takes data in a SYN without a cookie.
pub(crate) fn lab() -> Lab {
    Lab::builder().fastopen("server", 0x203).build().expect("a lab")
}

/// The two runtimes that people use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    CurrentThread,
    MultiThread,
}

/// Runs `work` with a listener on the server's port.
pub(crate) fn serve<T: Send>(
    lab: &Lab,
    runtime: Runtime,
    builder: impl FnOnce(ListenerBuilder) -> ListenerBuilder + Send,
    work: impl AsyncFnOnce(TfoListener) -> T + Send,
) -> T {
    // A lab without cookies, and a wildcard address: unproven clients are answered only on demand.
    let answering = |listener: ListenerBuilder| builder(listener.danger_answer_forged_addresses(true));
    serve_at(lab, runtime, [0; 16].into(), answering, work)
}

/// Runs `work` with a listener on that address of the server.
pub(crate) fn serve_at<T: Send>(
    lab: &Lab,
    runtime: Runtime,
    ip: IpAddr,
    builder: impl FnOnce(ListenerBuilder) -> ListenerBuilder + Send,
    work: impl AsyncFnOnce(TfoListener) -> T + Send,
) -> T {
    serve_on(&lab.host("server"), runtime, ip, builder, work)
}

/// Runs `work` with a listener on that address of a host.
pub(crate) fn serve_on<T: Send>(
    server: &Host,
    runtime: Runtime,
    ip: IpAddr,
    builder: impl FnOnce(ListenerBuilder) -> ListenerBuilder + Send,
    work: impl AsyncFnOnce(TfoListener) -> T + Send,
) -> T {
    let enter = server.enter();
    server.run(|| {
        let mut threads = match runtime {
            Runtime::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            Runtime::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = threads.worker_threads(2).on_thread_start(enter).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = builder(TfoListener::builder()).bind(SocketAddr::new(ip, PORT)).unwrap();
            timeout(HANG, work(listener)).await.expect("the test does not hang")
        })
    })
}

/// Runs `work` beside a [`Server`] with one worker on a host's port. If it has failed the server ends all the
/// same.
pub(crate) fn beside_server<S: HttpService + Send>(
    host: &Host,
    builder: impl FnOnce(ServerBuilder) -> ServerBuilder + Send,
    service: S,
    work: impl FnOnce(&ServerHandle) + Send,
) {
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let server = builder(Server::builder()).workers(1).bind(([0; 16], PORT).into()).unwrap();
        let handle = server.handle();
        drop(inside);
        std::thread::scope(|scope| {
            let serving = scope.spawn(move || runtime.block_on(server.serve(service)));
            let worked = catch_unwind(AssertUnwindSafe(|| work(&handle)));
            // The scope waits for it.
            handle.shutdown();
            serving.join().unwrap().unwrap();
            worked.unwrap_or_else(|panic| resume_unwind(panic));
        });
    });
}

/// Waits until it is so.
pub(crate) fn wait(until: impl Fn() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Accepts one connection, which must have come with data in its SYN and not be proven: otherwise
/// the test would prove nothing about the gate.
pub(crate) async fn accept_ride(listener: &TfoListener, data: &[u8]) -> AcceptedStream {
    let (stream, _) = listener.accept().await.unwrap();
    let info = stream.info();
    let kernel = info.tcp_info().unwrap();
    assert_eq!(kernel.state(), Some(TcpState::SynRecv), "{kernel:?}");
    assert_ne!(kernel.tfo_child(), Some(false), "{kernel:?}");
    assert_eq!(kernel.syn_data(), Some(true), "{kernel:?}");
    assert!(info.arrived_in_syn() && !info.is_proven(), "{info:?}");
    assert_eq!(info.syn_data_bytes(), Some(u32::try_from(data.len()).unwrap()), "{info:?}");
    stream
}

/// A client at an address that no host has: nobody answers for it but the test.
pub(crate) struct RawClient<'a> {
    lab: &'a Lab,
    src: SocketAddr,
    dst: SocketAddr,
    /// The sequence number of the next byte.
    next: u32,
    /// Its SYN, and the sequence number behind it: what somebody may have recorded.
    recorded: (Vec<u8>, u32),
}

impl<'a> RawClient<'a> {
    pub(crate) fn v4(lab: &'a Lab, port: u16) -> Self {
        let dst = SocketAddr::new(lab.host("server").ipv4().into(), PORT);
        Self {
            lab,
            src: SocketAddr::from(([10, 9, 9, 9], port)),
            dst,
            next: 1000,
            recorded: Default::default(),
        }
    }

    pub(crate) fn v6(lab: &'a Lab, port: u16) -> Self {
        let dst = SocketAddr::new(lab.host("server").ipv6().into(), PORT);
        let src = SocketAddr::new("fd00::9:9".parse().unwrap(), port);
        Self { lab, src, dst, next: 1000, recorded: Default::default() }
    }

    /// A SYN with data.
    pub(crate) fn syn(&mut self, data: &[u8]) -> &mut Self {
        self.send_syn(data, false, &[]);
        self
    }

    /// A SYN that asks for a cookie, without data: as good as a cookie where none is required.
    pub(crate) fn syn_with_option(&mut self) -> &mut Self {
        self.send_syn(b"", false, &[34, 2, 1, 1]);
        self
    }

    /// A SYN with data and a cookie.
    pub(crate) fn syn_with_cookie(&mut self, cookie: &[u8], data: &[u8]) -> &mut Self {
        let mut option = vec![34, u8::try_from(2 + cookie.len()).unwrap()];
        option.extend_from_slice(cookie);
        option.resize(option.len().next_multiple_of(4), 1);
        self.send_syn(data, false, &option);
        self
    }

    /// The cookie that the server gives to this client.
    pub(crate) fn fetch_cookie(&mut self) -> Vec<u8> {
        self.send_syn(b"", false, &[34, 2, 1, 1]);
        let syn_ack = self.wait_for("a SYN-ACK", Packet::is_syn_ack);
        self.rst();
        syn_ack.fast_open().expect("a cookie").cookie().to_vec()
    }

    /// The same SYN again, as somebody else would send it.
    pub(crate) fn replay(&mut self) -> &mut Self {
        self.lab.inject("client", self.recorded.0.clone());
        self.next = self.recorded.1;
        self
    }

    /// A SYN with data and FIN.
    pub(crate) fn syn_fin(&mut self, data: &[u8]) -> &mut Self {
        self.send_syn(data, true, &[]);
        self
    }

    fn send_syn(&mut self, data: &[u8], fin: bool, more: &[u8]) {
        let mut options = vec![2, 4, 0x22, 0x60]; // MSS 8800
        options.extend_from_slice(more);
        let syn = Parts { syn: true, fin, options, ..Parts::default() };
        let bytes = self.packet(syn, data);
        self.next = self.next.wrapping_add(1 + u32::try_from(data.len()).unwrap());
        self.recorded = (bytes.clone(), self.next);
        self.lab.inject("client", bytes);
    }

    /// The ACK that completes the handshake, with data.
    pub(crate) fn ack(&mut self, data: &[u8]) -> &mut Self {
        self.send(Parts { ack: Some(self.server_next()), ..Parts::default() }, data);
        self.next = self.next.wrapping_add(u32::try_from(data.len()).unwrap());
        self
    }

    /// An ACK with a number that the server never sent.
    pub(crate) fn forged_ack(&mut self, data: &[u8]) -> &mut Self {
        self.send(Parts { ack: Some(self.server_next().wrapping_add(12_345)), ..Parts::default() }, data);
        self
    }

    /// The same after a SYN whose data was not taken: it is sent again.
    pub(crate) fn ack_syn_only(&mut self, data: &[u8]) -> &mut Self {
        self.next = self.next.wrapping_sub(u32::try_from(data.len()).unwrap());
        self.ack(data)
    }

    pub(crate) fn fin(&mut self) -> &mut Self {
        self.send(Parts { fin: true, ack: Some(self.server_next()), ..Parts::default() }, b"");
        self.next = self.next.wrapping_add(1);
        self
    }

    pub(crate) fn rst(&mut self) -> &mut Self {
        self.send(Parts { rst: true, ..Parts::default() }, b"");
        self
    }

    /// A RST that acknowledges.
    pub(crate) fn rst_ack(&mut self) -> &mut Self {
        self.send(Parts { rst: true, ack: Some(self.server_next()), ..Parts::default() }, b"");
        self
    }

    /// Data without the ACK flag, which no TCP sends.
    pub(crate) fn data_without_ack(&mut self, data: &[u8]) -> &mut Self {
        self.send(Parts::default(), data);
        self
    }

    /// What the server has sent to this client so far.
    pub(crate) fn received(&self) -> Vec<Packet> {
        let mine = |record: &&Record| record.packet().dst() == Some(self.src);
        let records = self.lab.tap().records();
        records
            .iter()
            .filter(|record| record.end() == End::Sent)
            .filter(mine)
            .map(|r| r.packet().clone())
            .collect()
    }

    /// Waits until the server has sent something like that.
    pub(crate) fn wait_for(&self, what: &str, like: impl Fn(&Packet) -> bool) -> Packet {
        let mut found = None;
        self.lab.tap().wait_until(PATIENCE, |_| {
            found = self.received().into_iter().find(|packet| like(packet));
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("the server has not sent {what}\n{}", self.lab.tap().ladder()))
    }

    /// The sequence number that the server sends next: behind its SYN-ACK, its data and its FIN.
    fn server_next(&self) -> u32 {
        let syn_ack = self.wait_for("a SYN-ACK", Packet::is_syn_ack);
        let isn = syn_ack.seq().unwrap();
        let ends = self.received().into_iter().filter(|packet| !packet.is_rst()).map(|packet| {
            let length =
                packet.payload().len() + usize::from(packet.is_fin()) + usize::from(packet.is_syn_ack());
            packet.seq().unwrap().wrapping_sub(isn) + u32::try_from(length).unwrap()
        });
        isn.wrapping_add(ends.max().unwrap())
    }

    fn send(&self, parts: Parts, payload: &[u8]) {
        self.lab.inject("client", self.packet(parts, payload));
    }

    fn packet(&self, parts: Parts, payload: &[u8]) -> Vec<u8> {
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
            _ => unreachable!("one family"),
        };
        let mut tcp = ip.tcp(self.src.port(), self.dst.port(), self.next, 65535);
        for (set, flag) in [
            (parts.syn, PacketBuilderTcp::syn as fn(PacketBuilderTcp) -> PacketBuilderTcp),
            (parts.fin, PacketBuilderTcp::fin),
            (parts.rst, PacketBuilderTcp::rst),
        ] {
            tcp = if set { flag(tcp) } else { tcp };
        }
        if let Some(number) = parts.ack {
            tcp = tcp.ack(number);
        }
        let tcp = tcp.options_raw(&parts.options).unwrap();
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }
}

type PacketBuilderTcp = etherparse::PacketBuilderStep<etherparse::TcpHeader>;

#[derive(Default)]
struct Parts {
    syn: bool,
    fin: bool,
    rst: bool,
    ack: Option<u32>,
    options: Vec<u8>,
}

/// Reads, and counts how often it was polled.
pub(crate) async fn read_counted(
    stream: &mut AcceptedStream,
    room: usize,
    polls: &mut usize,
) -> io::Result<Vec<u8>> {
    let mut room = vec![0; room];
    poll_fn(|cx| {
        *polls += 1;
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().to_vec())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

pub(crate) async fn read(stream: &mut AcceptedStream) -> io::Result<Vec<u8>> {
    read_counted(stream, 8192, &mut 0).await
}

/// Nothing comes of it for a while.
pub(crate) async fn stays_pending<T>(what: impl Future<Output = T>) {
    assert!(timeout(WHILE, what).await.is_err(), "it was to wait");
}

/// HTTP/2 from its first byte to the end of a call: preface, SETTINGS, HEADERS, DATA.
pub(crate) fn grpc_call() -> Vec<u8> {
    // :method POST
    let headers = [http2_head(0x83, "/counter.Counter/Count"), literal(31, "application/grpc")].concat();
    [http2_preface(), frame(1, 4, 1, &headers), frame(0, 1, 1, &[0; 5])].concat()
}

/// HTTP/2 from its first byte to the end of a GET.
pub(crate) fn http2_get(path: &str) -> Vec<u8> {
    [http2_preface(), frame(1, 5, 1, &http2_head(0x82, path))].concat()
}

fn http2_preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, b"")].concat()
}

/// :method, :scheme http, :path, :authority
fn http2_head(method: u8, path: &str) -> Vec<u8> {
    [vec![method, 0x86], literal(4, path), literal(1, "server")].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream], payload].concat()
}

fn literal(index: u8, value: &str) -> Vec<u8> {
    [&[0x40 | index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}
