//! The client on hostile paths: whatever plain TCP completes is completed, nothing is executed twice
//! that must not be, and after two slow requests a bad path costs what plain TCP costs.
//!
//! The paths are in `support/paths.rs`, what is to be seen on them in `docs/outcomes.md`. With `TFO_HOSTILE=full`
//! there is more of everything, and the figures go to `docs/results/`.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::dns::Name;
use support::oracle;
use support::paths::{KINDS, Kind, Net, Plain, ROWS, RTT, Row};
use support::report::{at_once, full, section};
use support::tcp::{GET, dial, once};
use support::visits::{Visit, fetch_cookie, on_client, visit, visits};
use tfo_http::{SynData, SynOutcome, TfoConnector};
use tfo_lab::{BlackholeClient, Flow, Packet, Record, Verdict, lab_tests};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};

/// What this machine adds to a time under load; still far from the kernel's second.
const MACHINE: Duration = Duration::from_millis(300);
/// The longest that a first attempt is waited for where nothing is known, and the guard behind a handshake.
const HEDGE: Duration = Duration::from_millis(250);

lab_tests! {
    fn whatever_plain_tcp_completes_is_completed() {
        let mut work = Vec::new();
        for v6 in if full() { &[false, true][..] } else { &[false] } {
            work.extend(ROWS.iter().flat_map(|row| KINDS.iter().map(move |kind| (row, kind, *v6))));
        }
        let count = if full() { 10 } else { 3 };
        let results = at_once(8, &work, |(row, kind, v6)| {
            let mut results = Completed::of(row, kind, *v6, count);
            for _ in 0..2 {
                if results.cost().is_ok() {
                    break;
                }
                // The machine may have stalled; a path that is too slow is so each time.
                results = Completed::of(row, kind, *v6, count);
            }
            results.cost().unwrap_or_else(|why| panic!("{why}"));
            results
        });
        let mut text = format!("{count} requests of each kind by one connector; plain TCP is the control.\n\n\
            | path | request | IP | completed | executed at most | hedged | outcomes, in order |\n|---|---|---|---|---|---|---|\n");
        for (result, (row, kind, v6)) in results.iter().zip(&work) {
            writeln!(text, "| {} | {} | {} | {} |", row.name, kind.name, if *v6 { "v6" } else { "v4" }, result.line()).unwrap();
        }
        section("Every request", &text);
    }

    /// From the tap. A loaded machine has wide margins in tier 1; the full one measures.
    fn a_bad_path_that_is_known_costs_what_plain_tcp_costs() {
        let rows = || ROWS.iter().filter(|row| row.plain == Plain::Well && row.rtt == RTT);
        let seeds: &[u64] = if full() { &[1, 2, 3] } else { &[1] };
        let work: Vec<_> = rows().flat_map(|row| seeds.iter().map(move |seed| (row, *seed))).collect();
        let count = if full() { 200 } else { 20 };
        let margin = if full() { Duration::from_millis(10) } else { Duration::from_millis(100) };
        let costs = at_once(if full() { 6 } else { 8 }, &work, |(row, seed)| {
            let cost = Cost::of(row, *seed, count);
            match cost.exceeds(margin) {
                false => cost,
                true => Cost::of(row, *seed, count),
            }
        });
        let mut text = format!("{count} requests with TCP Fast Open and {count} with plain TCP, in turn; round trip {RTT:?}. \
            Six more went before, in which the path became known: they count as hedged, if they were, and not in the \
            percentiles.\n\n\
            | path | request | seed | hedged | p50 | plain p50 | p90 | plain p90 |\n|---|---|---|---|---|---|---|---|\n");
        for (cost, (row, seed)) in costs.iter().zip(&work) {
            writeln!(text, "| {} | {} | {seed} | {} | {} | {} | {} | {} |", row.name, kind_of(row).name, cost.hedged,
                ms(cost.tfo[0]), ms(cost.plain[0]), ms(cost.tfo[1]), ms(cost.plain[1])).unwrap();
        }
        section("Cost of a path that is known", &text);
        let bad: Vec<_> = costs.iter().zip(&work).filter(|(cost, _)| cost.exceeds(margin)).collect();
        assert!(bad.is_empty(), "{}", bad.iter().map(|(cost, (row, seed))| format!("{}, {seed}: {cost:?}\n", row.name)).collect::<String>());
    }

    fn silent_addresses_hold_nobody_and_are_not_tried_first_again() {
        dead_addresses(false);
    }

    fn refusing_addresses_hold_nobody_and_are_not_tried_first_again() {
        dead_addresses(true);
    }

    /// Each further SYN with the option would lengthen the punishment. Plain TCP fails as long as it lasts.
    fn a_client_that_is_punished_stops_at_once() {
        let net = Net::new(&ROWS[0], false, 7413);
        fetch_cookie(&net);
        let punishing = BlackholeClient::new().later_flows_only();
        let blacklist = punishing.blacklist();
        net.lab.middlebox(punishing);
        let (tap, client) = (net.lab.tap(), net.lab.host("client"));
        let memory = on_client(&client, |runtime| {
            let mut connector = TfoConnector::new();
            connector.set_connect_timeout(Some(Duration::from_millis(600)));
            let get = |name: &str| runtime.block_on(visit(&net, &connector, &KINDS[0], name));
            let first = get("rides");
            assert!(first.result.is_ok(), "it gave itself away, and went on: {first:?}");
            let punished: Vec<_> = (0..8).map(|number| get(&number.to_string())).collect();
            for visit in &punished {
                assert!(visit.result.is_err(), "plain TCP fails too: {visit:?}");
            }
            blacklist.relent();
            let after = get("relented");
            assert!(after.result.is_ok(), "{after:?}\n{}", tap.ladder());
            let again = get("again");
            assert!(again.result.is_ok(), "{again:?}");
            format!("{:?}", connector.path_memory().snapshot(Instant::now()))
        });
        let flows = tap.flows();
        let sent = |flow: &Flow| flow.records()[0].time();
        let rides: Vec<_> = flows.iter().filter(|flow| !flow.syn().payload().is_empty()).map(sent).collect();
        // The ride that gave it away, and four that a path that has carried rides may lose; then the back-off.
        let back_off = Duration::from_secs(2);
        assert!(rides.len() >= 5, "{rides:?}");
        assert!(rides.get(5).is_none_or(|probe| *probe - rides[4] >= back_off), "{rides:?}\n{memory}\n{}", tap.ladder());
    }

    /// A closed socket would answer it with RST, and each such child holds a server slot for a minute.
    fn losers_never_answer_a_late_syn_ack_with_rst() {
        let net = Net::new(&ROWS[0], false, 7413);
        fetch_cookie(&net);
        const LATE: Duration = Duration::from_millis(900);
        net.lab.middlebox(|packet: &Packet| match packet.is_syn() && packet.fast_open().is_some() {
            true => Verdict::Delay(LATE),
            false => Verdict::Pass,
        });
        let (tap, client) = (net.lab.tap(), net.lab.host("client"));
        on_client(&client, |runtime| {
            let connector = TfoConnector::new();
            for number in 0..2 {
                let visit = runtime.block_on(visit(&net, &connector, &KINDS[0], &number.to_string()));
                assert!(visit.result.is_ok() && visit.hedged(), "{visit:?}");
            }
            // The loser's place is in the runtime: it has to run until the answer is there.
            runtime.block_on(async { tokio::time::sleep(4 * LATE).await });
        });
        assert!(tap.wait_quiet(Duration::from_millis(50), Duration::from_secs(10)));
        let flows = tap.flows();
        let losers: Vec<_> = flows.iter().skip(1).filter(|flow| flow.syn().fast_open().is_some()).collect();
        assert_eq!(losers.len(), 2, "{}", tap.ladder());
        for flow in losers {
            let answered = flow.received_by_client().find(|record| record.packet().is_syn_ack());
            let answered = answered.unwrap_or_else(|| panic!("the answer came, late\n{flow}")).time();
            // The ACK proves the child, which gives back its place; what the server says to the closed socket
            // after that may be reset.
            let next = flow.sent_by_client().find(|record| record.time() >= answered).map(Record::packet);
            assert!(next.is_some_and(|next| next.is_ack() && !next.is_rst()), "{flow}");
        }
    }

    /// More than are kept are given up on a path that has fallen silent: those that find no place are closed at
    /// once, the others when nothing has come for three seconds.
    fn what_is_given_up_is_kept_within_bounds() {
        const PLACES: usize = 256;
        let net = Net::new(&ROWS[0], false, 7413);
        fetch_cookie(&net);
        let connector = TfoConnector::new();
        on_client(&net.lab.host("client"), |runtime| {
            let proven = runtime.block_on(visit(&net, &connector, &KINDS[0], "proven"));
            assert!(proven.result.is_ok(), "{proven:?}");
            net.lab.middlebox(|_: &Packet| Verdict::Drop);
            let counts = runtime.block_on(async {
                let mut streams = Vec::new();
                for _ in 0..PLACES + 100 {
                    let mut stream = dial(&connector, net.addr).await;
                    stream.write_all(GET).await.unwrap();
                    assert!(once(|cx| Pin::new(&mut stream).poll_flush(cx)).await.is_ready());
                    streams.push(stream);
                }
                let all = unanswered();
                drop(streams);
                let kept = unanswered();
                tokio::time::sleep(Duration::from_secs(5)).await;
                (all, kept, unanswered())
            });
            assert_eq!(counts, (PLACES + 100, PLACES, 0));
        });
    }
}

/// Sockets of this thread's network namespace whose SYN is not answered.
fn unanswered() -> usize {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    sockets.lines().filter(|line| line.split_whitespace().nth(3) == Some("02")).count()
}

/// What became of some requests on one path.
struct Completed {
    row: &'static Row,
    kind: &'static Kind,
    visits: Vec<Visit>,
    executed: usize,
    flows: Vec<Flow>,
    ladder: String,
}

impl Completed {
    /// That they are completed is asserted there; what is seen is asserted here.
    fn of(row: &'static Row, kind: &'static Kind, v6: bool, count: usize) -> Self {
        let mut net = Net::new(row, v6, 7413);
        let visits = visits(&mut net, kind, count, &kind.connector());
        let tap = net.lab.tap();
        let ladder = tap.ladder().to_string();
        let (lines, what) = (oracle::lines(), format!("{}, {}", row.name, kind.name));
        for visit in visits.iter().filter(|_| !row.random) {
            let told = visit.client();
            // Where nothing joins a request that fails, it may take more visits to learn than the oracle looks at.
            let late = kind.may_fail() && told == "plain (avoided)";
            assert!(
                late || oracle::allowed(&lines, row.name, &told),
                "{what}: {told} is not in docs/outcomes.md\n{ladder}"
            );
        }
        // What is claimed to have ridden was in the SYN, and nothing else was.
        let flows = tap.flows();
        for visit in &visits {
            // Where a plain SYN was refused there is none.
            let Some(info) = &visit.info else { continue };
            let data: usize = visit.flows(&flows).iter().map(|flow| flow.syn().payload().len()).sum();
            assert!(
                kind.syn_data != SynData::SafeMethods || kind.method == hyper::Method::GET || data == 0,
                "{what}: a body in the SYN\n{ladder}"
            );
            assert!(info.outcome() != SynOutcome::SynDataAcked || data > 0, "{what}: {info:?}\n{ladder}");
        }
        let executed = visits.iter().map(|visit| net.executions(&visit.path).len()).max().unwrap();
        Self { row, kind, visits, executed, flows, ladder }
    }

    fn hedged(&self) -> usize {
        self.visits.iter().filter(|visit| visit.hedged() && !self.refused(visit)).count()
    }

    /// How many back-offs may have ended meanwhile: of two seconds, four, and so on.
    fn probes(&self) -> usize {
        let (first, last) = (&self.visits[0], &self.visits[self.visits.len() - 1]);
        let took = (last.ended - first.begun).as_secs();
        (took / 2 + 1).ilog2() as usize
    }

    /// A plain attempt in place of one that was refused has waited for nothing.
    fn refused(&self, visit: &Visit) -> bool {
        visit
            .info
            .as_ref()
            .is_some_and(|info| matches!(info.outcome(), SynOutcome::Refused | SynOutcome::Failed))
    }

    /// Few are slow, and none as slow as the kernel would have been.
    fn cost(&self) -> Result<(), String> {
        let what = format!("{}, {}", self.row.name, self.kind.name);
        if self.hedged() > self.row.slow.saturating_add(self.probes()) {
            return Err(format!(
                "{what}: {} of them hedged: {}\n{}",
                self.hedged(),
                self.line(),
                self.ladder
            ));
        }
        let most = 2 * self.row.rtt + HEDGE.max(self.row.rtt * 3 / 2).max(self.row.asks) + MACHINE;
        let took = self.visits.iter().filter_map(|visit| visit.took(&self.flows)).max();
        match took {
            Some(took) if took > most && self.row.plain == Plain::Well && !self.kind.may_fail() => {
                Err(format!("{what}: {took:?}\n{}", self.ladder))
            }
            _ => Ok(()),
        }
    }

    /// Cells of the report.
    fn line(&self) -> String {
        let completed = self.visits.iter().filter(|visit| visit.result.is_ok()).count();
        let mut outcomes: Vec<(String, usize)> = Vec::new();
        for visit in &self.visits {
            match outcomes.last_mut().filter(|(told, _)| *told == visit.client()) {
                Some((_, times)) => *times += 1,
                None => outcomes.push((visit.client(), 1)),
            }
        }
        let outcomes: Vec<_> = outcomes.iter().map(|(told, times)| format!("{times} × {told}")).collect();
        let (all, hedged) = (self.visits.len(), self.hedged());
        format!("{completed} of {all} | {} | {hedged} | {}", self.executed, outcomes.join(", "))
    }
}

/// Times of requests on a path that is known.
#[derive(Debug)]
struct Cost {
    hedged: usize,
    /// p50 and p90.
    tfo: [Duration; 2],
    plain: [Duration; 2],
}

/// Requests that a path may take to become known: two rides, and the four that a path which carried them may lose.
const UNKNOWN: usize = 6;

/// The kind of request that the path is bad for.
fn kind_of(row: &Row) -> &'static Kind {
    &KINDS[usize::from(row.name.starts_with("oversize"))]
}

impl Cost {
    fn of(row: &'static Row, seed: u64, count: usize) -> Self {
        let (mut net, kind) = (Net::new(row, false, seed), kind_of(row));
        fetch_cookie(&net);
        net.turn();
        let (tfo, mut plain) = (kind.connector(), TfoConnector::new());
        plain.set_syn_data(SynData::Never);
        let visits: Vec<_> = on_client(&net.lab.host("client"), |runtime| {
            (0..count + UNKNOWN)
                .map(|number| {
                    (row.before)(&net, number);
                    let name = |which| format!("{which}-{number}");
                    let one = |connector, name: &str| runtime.block_on(visit(&net, connector, kind, name));
                    // Now one is first and now the other: a balancer that takes turns is not to sort them.
                    match number % 2 {
                        0 => (one(&tfo, &name("tfo")), one(&plain, &name("plain"))),
                        _ => {
                            let plain = one(&plain, &name("plain"));
                            (one(&tfo, &name("tfo")), plain)
                        }
                    }
                })
                .collect()
        });
        let flows = net.lab.tap().flows();
        let hedged = visits.iter().filter(|(tfo, _)| tfo.hedged()).count();
        let (tfo, plain): (Vec<_>, Vec<_>) = visits.into_iter().skip(UNKNOWN).unzip();
        Self { hedged, tfo: percentiles(&tfo, &flows), plain: percentiles(&plain, &flows) }
    }

    fn exceeds(&self, margin: Duration) -> bool {
        self.tfo.iter().zip(&self.plain).any(|(tfo, plain)| *tfo > *plain + margin)
    }
}

fn percentiles(visits: &[Visit], flows: &[Flow]) -> [Duration; 2] {
    let mut times: Vec<_> = visits.iter().map(|visit| visit.took(flows).unwrap()).collect();
    times.sort();
    [50, 90].map(|percent| times[times.len() * percent / 100])
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Two of three addresses fall silent, or refuse, after all three have carried rides.
fn dead_addresses(refuse: bool) {
    const DELAY: Duration = Duration::from_millis(250);
    let mut net = Net::new(&ROWS[0], false, 7413);
    let alive = net.addr.ip();
    let dead = [50, 51].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
    net.name = Some("named");
    dead.iter().for_each(|ip| net.lab.add_address("server", *ip).unwrap());
    let mut connector = TfoConnector::new_with_resolver(Fixed(vec![dead[0], dead[1], alive]));
    connector.set_happy_eyeballs_timeout(Some(DELAY));
    let client = net.lab.host("client");
    for ip in [dead[0], dead[1], alive] {
        // The same path memory, one address at a time.
        let mut one = TfoConnector::new_with_resolver(Fixed(vec![ip]));
        one.set_path_memory(connector.path_memory().clone());
        on_client(&client, |runtime| {
            for number in 0..2 {
                let visit = runtime.block_on(visit(&net, &one, &KINDS[0], &format!("{ip}-{number}")));
                visit.result.unwrap();
            }
        });
    }
    net.lab.middlebox(move |packet: &Packet| {
        match packet.dst().is_some_and(|dst| dead.contains(&dst.ip())) {
            false => Verdict::Pass,
            true if refuse => match packet.reset_reply() {
                Some(reset) => Verdict::Drop.and(reset),
                None => Verdict::Drop,
            },
            true => Verdict::Drop,
        }
    });
    let visits: Vec<_> = on_client(&client, |runtime| {
        (0..4)
            .map(|number| runtime.block_on(visit(&net, &connector, &KINDS[0], &number.to_string())))
            .collect()
    });
    let (tap, flows) = (net.lab.tap(), net.lab.tap().flows());
    for (number, visit) in visits.iter().enumerate() {
        assert!(visit.result.is_ok(), "{visit:?}\n{}", tap.ladder());
        let waited = if number > 0 {
            Duration::ZERO
        } else if refuse {
            8 * RTT
        } else {
            2 * DELAY
        };
        let took = visit.took(&flows).unwrap();
        assert!(took <= waited + 2 * RTT + MACHINE, "{number}: {took:?}\n{}", tap.ladder());
        let first = visit.flows(&flows)[0].server().ip();
        assert_eq!(first == alive, number > 0, "{number}: a dead one is tried first once\n{}", tap.ladder());
    }
}

/// A resolver that always answers the same.
#[derive(Clone)]
struct Fixed(Vec<IpAddr>);

impl tower_service::Service<Name> for Fixed {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let addresses: Vec<_> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        ready(Ok(addresses.into_iter()))
    }
}
