//! How long a request takes on a new connection, in a lab, by round-trip time.
//!
//! In each round every client once, one behind the other, so that whatever disturbs the machine
//! disturbs all of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use ipnet::IpNet;
use tfo_http::path::PathMemory;
use tfo_http::{ConnInfo, SynData, SynOutcome, TfoConnector};
use tfo_lab::{Host, Lab};

use crate::process::{Cpus, Process};
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress};
use crate::stats::Figure;

/// A wider middle half than this share of the median is noise.
const NOISE: f64 = 0.25;
const PORT: u16 = 80;
const OPEN_PORT: u16 = 81;
/// The kernel's first window (RFC 6928), and a segment's payload at an MTU of 1500.
const FIRST_WINDOW: u64 = 10;
const SEGMENT: u64 = 1448;
/// About what heads take.
const HEAD: u64 = 120;
const WHAT: &str = "time of a request";

/// A client that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Plain,
    Cold,
    Warm,
    CookieLess,
    CurlPlain,
    CurlTfo,
}

impl Who {
    const ALL: [Self; 6] =
        [Self::Plain, Self::Cold, Self::Warm, Self::CookieLess, Self::CurlPlain, Self::CurlTfo];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Cold => "TFO cold",
            Self::Warm => "TFO warm",
            Self::CookieLess => "TFO cookie-less",
            Self::CurlPlain => "curl",
            Self::CurlTfo => "curl --tcp-fastopen",
        }
    }
}

/// Runs the set.
pub fn run(effort: Effort, progress: &Progress) -> Vec<Entry> {
    let (rtts, sizes, http2): (&[u64], &[usize], &[bool]) = match effort {
        Effort::Smoke => (&[10], &[100], &[false]),
        Effort::Quick => (&[1, 20, 100], &[100], &[false, true]),
        Effort::Full => (&[1, 10, 20, 50, 100, 200], &[100, 10 << 10, 100 << 10], &[false, true]),
    };
    let rounds = |rtt: u64| match (effort, rtt) {
        (Effort::Smoke, _) => 5,
        (Effort::Quick, 0..=20) => 20,
        (Effort::Quick, _) => 8,
        (Effort::Full, 0..=20) => 100,
        (Effort::Full, 21..=50) => 50,
        (Effort::Full, _) => 30,
    };
    progress.begin(
        "request_latency",
        rtts.iter().map(|rtt| rounds(*rtt)).sum::<usize>() as u64 * (sizes.len() * http2.len()) as u64,
    );
    let mut entries = Vec::new();
    for &rtt in rtts {
        let cells = sizes.iter().flat_map(|size| http2.iter().map(|http2| (*size, *http2)));
        let cell = |(size, http2)| Cell { rtt: Duration::from_millis(rtt), size, http2, rounds: rounds(rtt) };
        let cells: Vec<_> = cells.map(cell).collect();
        // Far apart the machine is idle nearly all the time: there sizes go side by side.
        let lanes = if rtt >= 50 { sizes.len() } else { 1 };
        for together in cells.chunks(lanes) {
            thread::scope(|scope| {
                let threads: Vec<_> =
                    together.iter().map(|cell| scope.spawn(|| cell.measure(progress))).collect();
                for (thread, cell) in threads.into_iter().zip(together) {
                    let measured = thread.join().unwrap_or_else(|_| Err("the client failed".to_owned()));
                    entries.extend(cell.entries(measured));
                }
            });
        }
    }
    entries
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Cell {
    rtt: Duration,
    size: usize,
    http2: bool,
    rounds: usize,
}

type Samples = Result<Vec<f64>, String>;

impl Cell {
    fn measure(&self, progress: &Progress) -> Result<Vec<Samples>, String> {
        let site = self.site()?;
        let mut samples: Vec<Samples> = Who::ALL.iter().map(|_| Ok(Vec::new())).collect();
        let path_memory = PathMemory::new();
        for round in 0..=self.rounds {
            for at in 0..Who::ALL.len() {
                let at = (at + round) % Who::ALL.len();
                let Ok(taken) = &mut samples[at] else { continue };
                // The first round fetches the cookies, and warms up.
                match self.visit(&site, Who::ALL[at], round, &path_memory) {
                    Ok(_) if round == 0 => {}
                    Ok(time) => taken.push(time.as_secs_f64() * 1000.0),
                    Err(_) if round == 0 && Who::ALL[at] == Who::Warm => {}
                    Err(why) => samples[at] = Err(why),
                }
            }
            if round > 0 {
                progress.step();
            }
        }
        Ok(samples)
    }

    fn site(&self) -> Result<Site, String> {
        let failed = |error: tfo_lab::LabError| format!("no lab: {error}");
        let lab = Lab::builder().rtt(self.rtt).tap_limit(0).build().map_err(failed)?;
        // An address for each first visit: the kernel has no cookie for it.
        for round in 0..=self.rounds {
            lab.add_address("server", address(round).ip()).map_err(failed)?;
        }
        let host = lab.host("server");
        let start = |listen: SocketAddr, option: Option<&str>| {
            let listen = listen.to_string();
            let args = ["server", "--kind", "ours", "--listen", &listen, "--keep-alive"];
            let args: Vec<_> = args.into_iter().chain(option).collect();
            Process::role(&host, Cpus::All, &args)
        };
        let (home, open) = (host.addr(PORT), host.addr(OPEN_PORT));
        let with_cookies = start(SocketAddr::from(([0, 0, 0, 0], PORT)), None)?;
        // On a private address: where strangers may reach it, such a listener answers nobody unproven.
        let without = start(open, Some("--no-cookie"))?;
        Ok(Site { client: lab.host("client"), home, open, _servers: [with_cookies, without], _lab: lab })
    }

    fn visit(&self, site: &Site, who: Who, round: usize, memory: &PathMemory) -> Result<Duration, String> {
        let fresh = PathMemory::new();
        match who {
            Who::Plain => self.get(site, site.home, SynData::Never, &fresh, None),
            Who::Cold => self.get(
                site,
                address(round),
                SynData::SafeMethods,
                &fresh,
                Some(SynOutcome::CookieRequested),
            ),
            Who::Warm => {
                self.get(site, site.home, SynData::SafeMethods, memory, Some(SynOutcome::SynDataAcked))
            }
            Who::CookieLess => {
                self.get(site, site.open, SynData::SafeMethods, &fresh, Some(SynOutcome::SynDataAcked))
            }
            Who::CurlPlain => self.curl(site, false),
            Who::CurlTfo => self.curl(site, true),
        }
    }

    /// From the request to the last byte of its answer.
    fn get(
        &self,
        site: &Site,
        to: SocketAddr,
        syn_data: SynData,
        memory: &PathMemory,
        expected: Option<SynOutcome>,
    ) -> Result<Duration, String> {
        let uri: Uri = format!("http://{to}/{}", self.size).parse().map_err(|error| format!("{error}"))?;
        let mut connector = TfoConnector::new();
        connector.set_syn_data(syn_data);
        connector.set_no_cookie([IpNet::from(site.open.ip())].into_iter().filter(|_| to == site.open));
        connector.set_path_memory(memory.clone());
        // As curl: else HEADERS wait for the ACK of the preface, and plain TCP looks worse than it is.
        connector.set_nodelay(self.http2);
        let (size, http2) = (self.size, self.http2);
        site.client.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
            runtime.block_on(async {
                tokio::spawn(async move {
                    let client: Client<_, Full<Bytes>> =
                        Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
                    let begun = Instant::now();
                    let response = client.get(uri).await.map_err(|error| format!("{error:?}"))?;
                    let info = response.extensions().get::<ConnInfo>().cloned();
                    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
                    let took = begun.elapsed();
                    if body.to_bytes().len() != size {
                        return Err("the answer is not whole".to_owned());
                    }
                    match (expected, info.map(|info| info.outcome())) {
                        (Some(expected), Some(found)) if expected != found => {
                            Err(format!("the outcome was {found}, not {expected}"))
                        }
                        _ => Ok(took),
                    }
                })
                .await
                .unwrap_or_else(|_| Err("the client failed".to_owned()))
            })
        })
    }

    /// By curl's own clock, which leaves its start out.
    fn curl(&self, site: &Site, tfo: bool) -> Result<Duration, String> {
        if !crate::run::is_installed("curl") {
            return Err("curl is not installed".to_owned());
        }
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--output", "/dev/null"]);
        command.args(["--write-out", "%{time_total} %{size_download}"]);
        command.args(tfo.then_some("--tcp-fastopen"));
        command.args(self.http2.then_some("--http2-prior-knowledge"));
        command.arg(format!("http://{}/{}", site.home, self.size));
        let output = site.client.run(|| command.output()).map_err(|error| format!("curl: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (seconds, size) = text.trim().split_once(' ').unwrap_or_default();
        // curl 7.88 with HTTP/2: its SYN carries the preface alone, and having asked for the end of the
        // handshake without a pause it takes the end of a whole answer for a failure.
        if output.status.code() == Some(92) && size.parse() == Ok(self.size) {
            return Err("curl's own fault: it exits with 92 although the answer is whole".to_owned());
        }
        let seconds = seconds.parse::<f64>().ok().filter(|_| output.status.success());
        seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("curl failed: {}", output.status))
    }

    /// One round trip, and one more for each time that the answer has to wait for its window to double.
    fn limit(&self) -> Duration {
        let mut sent = FIRST_WINDOW * SEGMENT;
        let (mut trips, mut window) = (1, FIRST_WINDOW);
        while sent < self.size as u64 + HEAD {
            window *= 2;
            sent += window * SEGMENT;
            trips += 1;
        }
        self.rtt * trips
    }

    fn entries(&self, measured: Result<Vec<Samples>, String>) -> Vec<Entry> {
        let samples = measured.unwrap_or_else(|why| Who::ALL.iter().map(|_| Err(why.clone())).collect());
        let of = |who| &samples[Who::ALL.iter().position(|one| *one == who).unwrap_or_default()];
        let limit = self.limit().as_secs_f64() * 1000.0;
        let entry = |who: Who| {
            let taken = of(who);
            let value = match taken {
                Ok(taken) => Figure::of(taken, NOISE),
                Err(why) => Figure::missing(why),
            };
            let mut entry = Entry::new(Set::RequestLatency, WHAT, who.name(), "ms", value);
            for other in [Who::Plain, Who::CurlTfo].into_iter().filter(|other| *other != who) {
                let ratio = match (taken, of(other)) {
                    (Ok(ours), Ok(theirs)) => Figure::ratio(ours, theirs),
                    (Err(why), _) | (_, Err(why)) => Figure::missing(why),
                };
                entry = entry.ratio(other.name(), ratio);
            }
            let to_limit = match taken {
                Ok(taken) => Figure::ratio(taken, &vec![limit; taken.len()]),
                Err(why) => Figure::missing(why),
            };
            entry
                .ratio("limit", to_limit)
                .case("RTT ms", self.rtt.as_millis())
                .case("body bytes", self.size)
                .case("protocol", if self.http2 { "h2c" } else { "HTTP/1.1" })
                .case("limit ms", limit)
        };
        Who::ALL.into_iter().map(entry).collect()
    }
}

/// A lab with a server.
struct Site {
    client: Host,
    home: SocketAddr,
    /// Where data is taken without a cookie.
    open: SocketAddr,
    // Ended in this order.
    _servers: [Process; 2],
    _lab: Lab,
}

/// The server's address for one first visit.
fn address(round: usize) -> SocketAddr {
    let [high, low] = (round as u16 + 1).to_be_bytes();
    (IpAddr::V4(Ipv4Addr::new(10, 2, high, low)), PORT).into()
}
