//! Bad input and bad networks: where hyper-util's connector fails, ours fails, within the same time, and
//! where it succeeds, ours does.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use support::flows;
use support::http::{Runtime, Server, run};
use support::tcp::{GET, TcpServer, fetch_cookie, known, phase};
use tfo_http::ConnectErrorKind::{Connect as Handshake, Dns, InvalidUri, Socket, TimedOut};
use tfo_http::{ConnectErrorKind, TfoConnector, connect_error, is_connect_error};
use tfo_lab::{Host, Lab, Packet, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_service::Service;

const OPEN: u16 = 80;
const REFUSED: u16 = 81;
const REFUSED_TOO: u16 = 82;
const SILENT: u16 = 83;
const SILENT_TOO: u16 = 84;
const LIMIT: Duration = Duration::from_millis(400);
/// Nothing that has a limit may take as long.
const LONG: Duration = Duration::from_secs(4);

lab_tests! {
    /// The first visit, where the handshake is the connector's; and a later one, where it is the stream's.
    fn what_fails_there_fails_here() {
        for later in [false, true] {
            let mut net = Net::new();
            let addr = net.server.addr(OPEN);
            if later {
                net.run(async move { fetch_cookie(addr).await });
            }
            for case in cases(&net) {
                if !later {
                    net = Net::new();
                }
                let what = format!("{}, later {later}", case.name);
                let before = net.lab.tap().flows().len();
                let theirs = net.request(case.clone().into_theirs(), &case.uri);
                net.lab.tap().wait_quiet(Duration::from_millis(10), LONG);
                let between = net.lab.tap().flows().len();
                let ours = net.request(case.clone().into_ours(), &case.uri);
                net.lab.tap().wait_quiet(Duration::from_millis(10), LONG);
                assert_eq!(theirs.is_ok(), case.fails == Fails::No, "{what}: theirs {theirs:?}");
                assert_eq!(ours.is_ok(), theirs.is_ok(), "{what}: ours {ours:?}, theirs {theirs:?}");
                let flows = net.lab.tap().flows();
                // A SYN with the option that is refused, or not answered, is followed by one without.
                let more = usize::from(case.fails != Fails::No);
                let (ours_sent, theirs_sent) = (flows.len() - between, between - before);
                assert!((theirs_sent..=theirs_sent + more).contains(&ours_sent), "{what}: SYNs\n{}", net.lab.tap().ladder());
                let (Err(ours), Err(theirs)) = (ours, theirs) else { continue };
                assert_eq!(is_connect_error(ours.error()), is_connect_error(theirs.error()), "{what}: {ours:?} {theirs:?}");
                match case.fails {
                    Fails::As(kind) => {
                        let error = connect_error(ours.error()).unwrap_or_else(|| panic!("{what}: {ours:?}"));
                        assert_eq!(error.kind(), kind, "{what}: {ours:?}");
                        assert!(is_connect_error(ours.error()));
                        // Only where it could not know better when hyper asked.
                        let deferred = later && matches!(kind, Handshake | TimedOut) && case.name != "unreachable";
                        assert_eq!(ours.is_connect(), !deferred, "{what}: {ours:?}");
                    }
                    _ => assert!(!is_connect_error(ours.error()), "{what}: hyper itself objects: {ours:?}"),
                }
            }
        }
    }

    fn urls_that_are_none() {
        for text in ["http://[::1", "http://", "http:///path", "http://a b/"] {
            assert!(text.parse::<Uri>().is_err(), "{text}: the connector would have to know");
        }
    }

    /// Too short is an error, never a short success.
    fn an_answer_that_is_cut_off() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"",
        ] {
            let net = Net::new();
            let addr = net.server.addr(90);
            let _server = TcpServer::start(&net.server, addr, move |mut stream: TcpStream| async move {
                let _ = stream.read(&mut [0; 1000]).await;
                let _ = stream.write_all(answer).await;
            });
            let uri = format!("http://{addr}/");
            for visit in 0..3 {
                let case = Case::new("cut off", &uri, Fails::No);
                let text = String::from_utf8_lossy(answer);
                net.request(case.clone().into_theirs(), &uri).expect_err(&text);
                let error = net.request(case.into_ours(), &uri).expect_err(&text);
                assert!(!is_connect_error(error.error()), "{visit}: {error:?}");
            }
            let last = flows(&net.lab, 90).pop().unwrap();
            assert!(last.request_delivered_in_syn(), "{last}");
        }
    }

    fn one_address_of_several_answers() {
        let net = Net::new();
        let at = |port| net.server.addr(port);
        let (v6, v6_refused) = (net.server.addr_v6(OPEN), net.server.addr_v6(REFUSED));
        let v6_silent = net.server.addr_v6(SILENT);
        for found in [
            vec![at(REFUSED), at(OPEN)],
            vec![at(REFUSED), at(REFUSED_TOO), at(OPEN)],
            vec![v6_refused, at(OPEN)],
            vec![at(REFUSED), v6],
            vec![v6, at(OPEN)],
            vec![at(OPEN), v6],
            vec![v6_silent, at(OPEN)],
            vec![at(SILENT), v6],
            vec![v6_silent, v6_refused, at(REFUSED), at(SILENT), at(OPEN), v6],
        ] {
            let mut case = Case::new("several", "http://name/", Fails::No);
            case.found = Ok(found.clone());
            case.limit = Duration::from_secs(9);
            // Without cookies: what a deferred connect does when it fails is another matter.
            let net = Net::new();
            for theirs in [true, false] {
                let begun = Instant::now();
                let result = match theirs {
                    true => net.request(case.clone().into_theirs(), &case.uri),
                    false => net.request(case.clone().into_ours(), &case.uri),
                };
                assert!(result.is_ok(), "{found:?}, theirs {theirs}: {result:?}");
                assert!(theirs || begun.elapsed() < LONG, "{found:?}: {:?}", begun.elapsed());
            }
        }
    }

    /// RFC 8305 section 5, for addresses of one family too, where theirs waits for half of the timeout.
    fn a_silent_address_costs_the_happy_eyeballs_delay() {
        let net = Net::new();
        let mut case = Case::new("silent first", "http://name/", Fails::No);
        case.found = Ok(vec![net.server.addr(SILENT), net.server.addr(OPEN)]);
        case.limit = Duration::from_secs(20);
        let begun = Instant::now();
        net.request(case.clone().into_ours(), &case.uri).unwrap();
        let elapsed = begun.elapsed();
        assert!(elapsed >= Duration::from_millis(300) && elapsed < LONG, "{elapsed:?}");
        assert_eq!(flows(&net.lab, SILENT)[0].sent_by_client().filter(|r| r.packet().is_rst()).count(), 0);
        // One after the other: each has its share of the timeout, in both.
        let net = Net::new();
        for theirs in [true, false] {
            case.limit = Duration::from_secs(2);
            let begun = Instant::now();
            let result = if theirs {
                let mut connector = case.clone().into_theirs();
                connector.set_happy_eyeballs_timeout(None);
                net.request(connector, &case.uri)
            } else {
                let mut connector = case.clone().into_ours();
                connector.set_happy_eyeballs_timeout(None);
                net.request(connector, &case.uri)
            };
            assert!(result.is_ok() && begun.elapsed() >= Duration::from_secs(1), "{result:?}");
        }
    }

    /// What the first SYN fails of at once is no failure while there is another address.
    fn a_route_may_go_before_the_first_write() {
        const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: name\r\nContent-Length: 0\r\n\r\n";
        for (request, is_known) in [(GET, false), (POST, false), (GET, true), (POST, true)] {
            let net = Net::new();
            let (v6, v4) = (net.server.addr_v6(OPEN), net.server.addr(OPEN));
            let host = net.client.clone();
            let dial = async move |found| {
                let mut case = Case::new("route", "http://name/", Fails::No);
                (case.found, case.limit) = (Ok(found), LONG);
                let mut connector = case.into_ours();
                if is_known {
                    known(&connector, v6);
                }
                let stream = connector.call("http://name/".parse().unwrap()).await.unwrap().into_inner();
                assert_eq!((phase(&stream).as_str(), stream.remote_addr()), ("Idle", v6));
                stream
            };
            net.run(async move {
                fetch_cookie(v6).await;
                let (mut stream, mut alone) = (dial(vec![v6, v4]).await, dial(vec![v6]).await);
                host.set_sysctl("net.ipv6.conf.all.disable_ipv6", 1).unwrap();
                stream.write_all(request).await.unwrap();
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200");
                let info = stream.conn_info();
                assert_eq!((info.remote_addr(), info.saved_rtts()), (v4, 0), "{info:?}");
                alone.write_all(request).await.unwrap();
                let error = alone.read_exact(&mut answer).await.unwrap_err();
                let told = connect_error(&error).unwrap();
                assert_eq!((told.address(), told.maybe_executed()), (Some(v6), false), "{error:?}");
            });
        }
    }

    fn of_several_errors_the_first_is_told() {
        let net = Net::new();
        let at = |port| net.server.addr(port);
        for (found, kind, address) in [
            (vec![at(REFUSED), at(REFUSED_TOO)], Handshake, at(REFUSED)),
            (vec![at(REFUSED_TOO), at(REFUSED)], Handshake, at(REFUSED_TOO)),
            (vec![at(REFUSED), at(SILENT)], Handshake, at(REFUSED)),
            (vec![at(SILENT), at(SILENT_TOO)], TimedOut, at(SILENT)),
            (vec![net.server.addr_v6(REFUSED), at(REFUSED)], Handshake, net.server.addr_v6(REFUSED)),
        ] {
            let mut case = Case::new("all fail", "http://name/", Fails::As(kind));
            case.found = Ok(found);
            net.request(case.clone().into_theirs(), &case.uri).unwrap_err();
            let begun = Instant::now();
            let error = net.request(case.clone().into_ours(), &case.uri).unwrap_err();
            let error = connect_error(error.error()).unwrap();
            assert_eq!((error.kind(), error.address()), (kind, Some(address)));
            assert!(begun.elapsed() < LONG);
        }
    }
}

struct Net {
    lab: Lab,
    client: Host,
    server: Host,
    _http: [Server; 2],
}

impl Net {
    fn new() -> Self {
        let lab = Lab::builder().rtt(Duration::from_millis(4)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        lab.middlebox(|packet: &Packet| match packet.dst().map(|to| to.port()) {
            Some(SILENT | SILENT_TOO) => Verdict::Drop,
            _ => Verdict::Pass,
        });
        let http = [server.addr(OPEN), server.addr_v6(OPEN)].map(|addr| Server::start(&server, addr));
        Self { lab, client, server, _http: http }
    }

    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        run(&self.client, Runtime::CurrentThread, work)
    }

    /// One request, with its whole answer.
    fn request<C: Connect + Clone + Send + Sync + 'static>(
        &self,
        connector: C,
        uri: &str,
    ) -> Result<(), Failure> {
        let uri = uri.parse::<Uri>().unwrap();
        self.run(async move {
            let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
            let begun = Instant::now();
            let result = client.get(uri).await;
            let response = result.map_err(Failure::Request)?;
            assert!(begun.elapsed() < LONG * 3);
            let body = response.into_body().collect().await;
            let body = body.map_err(Failure::Body)?;
            assert_eq!(body.to_bytes(), "hello");
            Ok(())
        })
    }
}

#[derive(Debug)]
enum Failure {
    Request(Error),
    Body(hyper::Error),
}

impl Failure {
    fn error(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::Request(error) => error,
            Self::Body(error) => error,
        }
    }

    fn is_connect(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_connect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    No,
    /// Hyper does not even ask the connector.
    Elsewhere,
    As(ConnectErrorKind),
}

#[derive(Clone)]
struct Case {
    name: &'static str,
    uri: String,
    found: Result<Vec<SocketAddr>, &'static str>,
    local: Option<IpAddr>,
    interface: Option<&'static str>,
    any_scheme: bool,
    limit: Duration,
    fails: Fails,
}

fn cases(net: &Net) -> Vec<Case> {
    let at = |port| format!("http://{}/", net.server.addr(port));
    let ok = at(OPEN);
    let case = Case::new;
    let named = |name, found, fails| Case { found, ..case(name, "http://name/", fails) };
    let from = |name, local: IpAddr, fails| Case { local: Some(local), ..case(name, &ok, fails) };
    let odd = |name, uri: &str, found, fails| Case { uri: uri.to_owned(), ..named(name, found, fails) };
    let via = |name, interface, fails| Case { interface: Some(interface), ..case(name, &ok, fails) };
    vec![
        case("a good one", &ok, Fails::No),
        named("a good name", Ok(vec![net.server.addr(OPEN)]), Fails::No),
        odd("a port that is no number", "http://name:port/", Ok(vec![net.server.addr(OPEN)]), Fails::No),
        odd("a port out of range", "http://name:99999/", Ok(vec![net.server.addr(OPEN)]), Fails::No),
        odd("an empty host", "http://:80/", Err("no such host"), Fails::As(Dns)),
        case("no scheme", "10.0.0.2:80", Fails::Elsewhere),
        case("no host", "/path", Fails::Elsewhere),
        case("another scheme", "ftp://10.0.0.2/", Fails::As(InvalidUri)),
        case("https where http is enforced", "https://10.0.0.2:80/", Fails::As(InvalidUri)),
        Case { any_scheme: true, ..case("https where it is not", "https://10.0.0.2:80/", Fails::No) },
        named("an unknown name", Err("no such host"), Fails::As(Dns)),
        named("a name without addresses", Ok(vec![]), Fails::As(Dns)),
        case("refused", &at(REFUSED), Fails::As(Handshake)),
        case("silent", &at(SILENT), Fails::As(TimedOut)),
        // Multicast: the kernel has no route for TCP to it.
        case("unreachable", "http://224.0.0.9/", Fails::As(Handshake)),
        from("a local address of the other family", Ipv6Addr::LOCALHOST.into(), Fails::As(Dns)),
        from("another's local address", [192, 0, 2, 77].into(), Fails::As(Socket)),
        from("our own address", net.client.ipv4().into(), Fails::No),
        via("no such interface", "nosuch0", Fails::As(Socket)),
        via("our own interface", "tun0", Fails::No),
    ]
}

impl Case {
    fn new(name: &'static str, uri: &str, fails: Fails) -> Self {
        Self {
            name,
            uri: uri.to_owned(),
            found: Err("nobody should ask"),
            local: None,
            interface: None,
            any_scheme: false,
            limit: LIMIT,
            fails,
        }
    }

    fn into_theirs(self) -> HttpConnector<Names> {
        let mut connector = HttpConnector::new_with_resolver(Names(self.found));
        connector.enforce_http(!self.any_scheme);
        connector.set_connect_timeout(Some(self.limit));
        connector.set_local_address(self.local);
        if let Some(interface) = self.interface {
            connector.set_interface(interface);
        }
        connector
    }

    fn into_ours(self) -> TfoConnector<Names> {
        let mut connector = TfoConnector::new_with_resolver(Names(self.found));
        connector.enforce_http(!self.any_scheme);
        connector.set_connect_timeout(Some(self.limit));
        connector.set_local_address(self.local);
        if let Some(interface) = self.interface {
            connector.set_interface(interface);
        }
        connector
    }
}

/// A resolver that knows one answer.
#[derive(Clone)]
struct Names(Result<Vec<SocketAddr>, &'static str>);

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _name: Name) -> Self::Future {
        ready(self.0.clone().map(Vec::into_iter).map_err(io::Error::other))
    }
}
