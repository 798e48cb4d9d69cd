//! What each observer says of TCP Fast Open: `docs/outcomes.md` is what this test measures, and the oracle of
//! the others. `UPDATE=1` writes it anew.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use support::http::Seen;
use support::oracle::{self, LATER, Line};
use support::paths::{KINDS, Kind, Net, ROWS, Row};
use support::report::at_once;
use support::tcp::dial;
use support::visits::{Visit, fetch_cookie, on_client, visit};
use tfo_core::Counters;
use tfo_http::{ConnectError, Hedge, Ride, SynData, TfoConnector, TfoStream};
use tfo_http_server::{AcceptOutcome, PlainReason};
use tfo_lab::{Flow, Host, Packet, Verdict, lab_tests};
use tower_service::Service;

lab_tests! {
    fn the_table_says_what_is_so() {
        let mut work: Vec<(&Situation, &Kind)> = Vec::new();
        let situations = situations();
        for situation in &situations {
            work.extend(KINDS.iter().map(|kind| (situation, kind)));
        }
        let committed = oracle::lines();
        let mut lines = at_once(16, &work, |(situation, kind)| {
            let line = measure(situation, kind);
            // A loaded machine is slow, and not otherwise wrong: it has another chance.
            if committed.iter().any(|known| is_known(&line, known)) { line } else { measure(situation, kind) }
        });
        // Where nothing is learnt there is nothing to add.
        let all = lines.clone();
        let mut at = 0..;
        lines.retain(|line| {
            let before = &all[..at.next().unwrap()];
            !before.iter().any(|other| is_known(line, other))
        });
        lines.push(nothing_sent());
        let text = render(&lines);
        if std::env::var_os("UPDATE").is_some() {
            return fs::write(oracle::file(), &text).unwrap();
        }
        for (line, committed) in lines.iter().zip(&committed) {
            assert_eq!(line, committed, "docs/outcomes.md has the right side; UPDATE=1 writes it anew");
        }
        assert_eq!(text, fs::read_to_string(oracle::file()).unwrap(), "UPDATE=1 writes it anew");
    }

    /// Whoever adds a variant adds a situation in which it is seen.
    fn every_outcome_and_every_reason_is_in_the_table() {
        let info = include_str!("../../tfo-http/src/info.rs");
        let lines = oracle::lines();
        let clients: Vec<_> = lines.iter().map(|line| line.client.as_str()).collect();
        let outcomes = names(info, "impl SynOutcome");
        let reasons = names(info, "impl Reason");
        assert!(outcomes.len() >= 11 && reasons.len() >= 15, "{outcomes:?} {reasons:?}");
        for outcome in outcomes {
            let found = clients.iter().any(|client| client.split(' ').next() == Some(&outcome));
            assert!(found, "no situation ends as {outcome}");
        }
        // Where nothing is written there is no request to make a line of: `first_syn.rs` has it.
        for reason in reasons.into_iter().filter(|reason| *reason != "nothing_written") {
            assert!(clients.iter().any(|client| client.ends_with(&format!("({reason})"))), "no situation for {reason}");
        }
        let server = include_str!("../../tfo-http-server/src/outcome.rs");
        let text = fs::read_to_string(oracle::file()).unwrap();
        for name in variants(server, "AcceptOutcome").chain(variants(server, "PlainReason")).chain(variants(server, "Disproven")) {
            assert!(text.contains(&format!("`{name}`")), "AcceptOutcome, PlainReason or Disproven::{name}");
        }
    }
}

/// A line for each kind of request.
struct Situation {
    name: String,
    row: &'static Row,
    set_up: fn(&mut TfoConnector),
    /// Visits that come before, by the same connector.
    before: usize,
    /// What happens right before the visit that is looked at.
    last: fn(&mut Net),
    /// What happens between the connect and the request.
    meanwhile: fn(&Host),
}

const GOOD: &str = "a good path";

fn situations() -> Vec<Situation> {
    let path = |row: &'static Row, (before, later): (usize, &str)| Situation {
        name: format!("{}{later}", row.name),
        row,
        set_up: |_| {},
        before,
        last: |_| {},
        meanwhile: |_| {},
    };
    let named = |name: &str, of: &str| {
        let row = ROWS.iter().find(|row| row.name == of).unwrap();
        Situation { name: name.to_owned(), ..path(row, (0, "")) }
    };
    let mut all = Vec::new();
    for row in ROWS.iter().filter(|row| !row.random) {
        all.push(path(row, (0, "")));
        let [second, fourth, seventh] = LATER;
        all.extend(row.changes.then(|| path(row, second)));
        // Who has to get a cookie first, or anew, learns later what there is to learn.
        all.push(path(row, fourth));
        all.extend((row.cold || row.changes).then(|| path(row, seventh)));
    }
    all.extend([
        Situation {
            set_up: |connector| connector.set_syn_data(SynData::Never),
            ..named("switched off by the caller", GOOD)
        },
        Situation {
            set_up: |connector| connector.set_syn_data(SynData::rule(|_| Ride::No)),
            ..named("a rule of the caller's says no", GOOD)
        },
        Situation {
            last: |net| net.lab.host("client").set_fastopen(2).unwrap(),
            ..named("no TCP Fast Open for clients here", GOOD)
        },
        Situation {
            last: |net| net.lab.host("server").set_fastopen(1).unwrap(),
            ..named("no TCP Fast Open for servers there", GOOD)
        },
        Situation {
            meanwhile: |host| host.flush_cookies().unwrap(),
            ..named("the cookie vanishes between connect and request", GOOD)
        },
        Situation {
            set_up: |connector| connector.set_hedge(Hedge::Never),
            ..named("SYN with data dropped, and no hedge", "SYN with data dropped")
        },
        Situation {
            set_up: |connector| connector.set_connect_timeout(Some(Duration::from_millis(300))),
            last: |net| drop(net.lab.middlebox(|_: &Packet| Verdict::Drop)),
            ..named("nothing is answered", GOOD)
        },
        Situation { last: |net| net.addr.set_port(9), ..named("nobody listens", GOOD) },
        Situation {
            last: |net| drop(net.lab.middlebox(unreachable)),
            ..named("a router says: host unreachable", GOOD)
        },
    ]);
    all
}

/// ICMP (RFC 792), in answer to a SYN; IPv4 only.
fn unreachable(packet: &Packet) -> Verdict {
    let Some(reply) = packet.too_big_reply(576).filter(|_| packet.is_syn()) else { return Verdict::Pass };
    let mut bytes = reply.bytes().to_vec();
    // From "fragmentation needed" to "host unreachable"; then the checksum.
    (bytes[21], bytes[22], bytes[23]) = (1, 0, 0);
    bytes[24..28].fill(0);
    let words =
        bytes[20..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    bytes[22..24].copy_from_slice(&sum.to_be_bytes());
    Verdict::Drop.and(bytes)
}

/// Whether an earlier visit says the same.
fn is_known(line: &Line, earlier: &Line) -> bool {
    earlier.says_the_same(line) && oracle::situation(earlier) == oracle::situation(line)
}

fn measure(situation: &Situation, kind: &Kind) -> Line {
    let mut net = Net::new(situation.row, false, 7413);
    fetch_cookie(&net);
    net.turn();
    let mut connector = kind.connector();
    // Long enough for a loaded machine, and shorter than the kernel's second.
    connector.set_hedge(Hedge::After(Duration::from_millis(500).max(2 * situation.row.rtt)));
    (situation.set_up)(&mut connector);
    let ((client, server), tap) = ((net.lab.host("client"), net.lab.host("server")), net.lab.tap());
    let counters = || [&client, &server].map(|host| host.run(|| Counters::read().unwrap()));
    let meddled = Meddled { inner: connector.clone(), host: client.clone(), meanwhile: situation.meanwhile };
    let (before, visit) = on_client(&net.lab.host("client"), |runtime| {
        for number in 0..situation.before {
            (situation.row.before)(&net, number);
            let _ = runtime.block_on(visit(&net, &connector, kind, &format!("before-{number}"))).result;
        }
        (situation.row.before)(&net, situation.before);
        (situation.last)(&mut net);
        // Not for long: a back-off of two seconds may run.
        tap.wait_quiet(Duration::from_millis(30), Duration::from_millis(600));
        let before = counters();
        let visit = runtime.block_on(visit(&net, &meddled, kind, "this"));
        (before, visit)
    });
    tap.wait_quiet(Duration::from_millis(30), Duration::from_secs(5));
    let kernels = counters();
    let flows = tap.flows();
    let mut executions: Vec<_> = net.executions(&visit.path).iter().map(server_says).collect();
    // Which of two handlers is first is a matter of microseconds.
    executions.sort_by(|one, other| other.cmp(one));
    Line {
        situation: situation.name.clone(),
        request: kind.name.to_owned(),
        client: visit.client(),
        server: if executions.is_empty() { "–".to_owned() } else { executions.join(", ") },
        kernels: [0, 1].map(|at| kernel_says(&kernels[at].since(&before[at]))),
        tap: tap_says(&visit, &visit.flows(&flows)),
    }
}

/// hyper connects, and no request comes.
fn nothing_sent() -> Line {
    let net = Net::new(&ROWS[0], false, 7413);
    fetch_cookie(&net);
    let tap = net.lab.tap();
    let begun = tap.now();
    let info = on_client(&net.lab.host("client"), |runtime| {
        runtime.block_on(async { dial(&TfoConnector::new(), net.addr).await.conn_info().clone() })
    });
    let visit = Visit {
        path: String::new(),
        info: Some(info),
        result: Ok(()),
        maybe_executed: false,
        begun,
        ended: tap.now(),
    };
    let nothing = || "–".to_owned();
    Line {
        situation: "connected, and no request".to_owned(),
        request: nothing(),
        client: visit.client(),
        server: nothing(),
        kernels: [nothing(), nothing()],
        tap: tap_says(&visit, &visit.flows(&tap.flows())),
    }
}

fn server_says(seen: &Seen) -> String {
    let outcome = match seen.outcome {
        AcceptOutcome::Plain(PlainReason::Off) => "`Plain` (`Off`)".to_owned(),
        AcceptOutcome::Plain(PlainReason::NotUsed) => "`Plain` (`NotUsed`)".to_owned(),
        AcceptOutcome::CookieOnly => "`CookieOnly`".to_owned(),
        AcceptOutcome::SynData { .. } => "`SynData`".to_owned(),
        other => format!("`{other:?}`"),
    };
    if seen.was_gated { format!("{outcome}, gated") } else { outcome }
}

fn kernel_says(counters: &Counters) -> String {
    let counted = [
        ("Active", counters.active),
        ("ActiveFail", counters.active_fail),
        ("Passive", counters.passive),
        ("PassiveFail", counters.passive_fail),
        ("ListenOverflow", counters.listen_overflow),
        ("CookieReqd", counters.cookie_reqd),
        ("Blackhole", counters.blackhole),
    ];
    let counted = counted.iter().filter_map(|(name, count)| Some((name, count.filter(|count| *count > 0)?)));
    let text: Vec<_> = counted.map(|(name, count)| format!("{name} {count}")).collect();
    if text.is_empty() { "–".to_owned() } else { text.join(", ") }
}

/// Each connection of the client: its SYN, and what came back to the client.
fn tap_says(visit: &Visit, flows: &[&Flow]) -> String {
    let one = |flow: &&Flow| {
        let option = match flow.syn().fast_open() {
            None => "SYN",
            Some(option) if option.is_request() && option.is_experimental() => "SYN, request (254)",
            Some(option) if option.is_request() => "SYN, request",
            Some(_) if flow.syn().payload().is_empty() => "SYN, cookie",
            Some(_) => "SYN, cookie, data",
        };
        let back: Vec<_> = flow.received_by_client().filter(|record| record.time() <= visit.ended).collect();
        let first = back.iter().find(|record| record.packet().is_syn_ack() || record.packet().is_rst());
        let mut text = match first {
            None => format!("{option} → nothing"),
            Some(reset) if reset.packet().is_rst() => format!("{option} → RST"),
            Some(syn_ack) => {
                let taken = syn_ack.packet().ack().map(|ack| ack.wrapping_sub(flow.syn().seq().unwrap() + 1));
                let acked = match taken {
                    Some(0) if !flow.syn().payload().is_empty() => " without the data",
                    Some(bytes) if bytes > 0 => " of the data",
                    _ => "",
                };
                let grant = if syn_ack.packet().fast_open().is_some() { " with a cookie" } else { "" };
                format!("{option} → SYN-ACK{acked}{grant}")
            }
        };
        let reset = back.iter().any(|record| record.packet().is_rst());
        if !reset && back.iter().any(|record| !record.packet().payload().is_empty()) {
            text += " → answer";
        }
        let again =
            flow.sent_by_client().filter(|record| record.time() <= visit.ended && record.packet().is_syn());
        if again.count() > 1 {
            text = text.replacen(" →", ", again without →", 1);
        }
        text
    };
    let text: Vec<_> = flows.iter().map(one).collect();
    if text.is_empty() { "–".to_owned() } else { text.join("; ") }
}

/// A connector that waits for something between connect and request.
#[derive(Clone)]
struct Meddled {
    inner: TfoConnector,
    host: Host,
    meanwhile: fn(&Host),
}

type Dialled = Result<TokioIo<TfoStream>, ConnectError>;

impl Service<Uri> for Meddled {
    type Response = TokioIo<TfoStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Dialled> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, host, meanwhile) = (self.inner.call(uri), self.host.clone(), self.meanwhile);
        Box::pin(async move {
            let stream = connecting.await?;
            meanwhile(&host);
            Ok(stream)
        })
    }
}

fn render(lines: &[Line]) -> String {
    let mut text = HEAD.to_owned();
    for line in lines {
        writeln!(text, "{}", line.render()).unwrap();
    }
    text + TAIL
}

const HEAD: &str = "\
# Outcomes

What each observer says of TCP Fast Open, situation by situation: a request through `TfoConnector` and hyper-util's
client, on a path of the lab, on Linux. `tfo-lab/tests/outcomes.rs` measures it and fails when a line is no longer so;
`UPDATE=1 TFO_LAB=require cargo test -p tfo-lab --test outcomes` writes it anew. `hostile.rs` takes it as its oracle.

- **request**: `GET`, a GET that does not fit into a SYN (`big GET`), `POST`,
  and a POST under `SynData::DangerEverything` (`danger POST`).
- **client**: `ConnInfo`'s `SynOutcome`, and its `Reason` in brackets, when the answer is there.
- **server**: the `AcceptOutcome` of each connection on which the request was handled; *gated* if bytes were
  withheld until the handshake was complete. `–`: it was not handled.
- **client's kernel**, **server's kernel**: what `TcpExt: TCPFastOpen…` counted in that network namespace, up to the end
  of the request.
- **tap**: the client's connections in the order of their SYNs, with what reached the client up to the end of the
  request. *request* asks for a cookie, *cookie* carries one.
- *second visit*, *fourth visit*, *seventh visit*: by the same connector, with what its path memory has learnt.

The hedge is at 500 ms here, so that a busy machine changes nothing; the default is sooner. Paths with chance in them
(loss, reordering, every second SYN dropped) have no line.
A later visit of which all say the same as of the first has none either.

| situation | request | client | server | client's kernel | server's kernel | tap |
|---|---|---|---|---|---|---|
";

const TAIL: &str = "
## Not to be had from a request on Linux

- `AcceptOutcome`'s `Unknown`: a kernel whose `TCP_INFO` lacks these fields. `PlainReason`'s `Unsupported`: a system
  without TCP Fast Open.
- Why a connection will not be proven is no outcome of a request, because no client of ours has sent it: `Reset` (a
  replayed or forged SYN, answered by the address's owner), `Deadline` (the handshake was not complete in time), `Closed`
  (this side closed first). `tfo-http-server`'s tests on replays have them.
";

/// The names that `as_str` of a type gives.
fn names(source: &str, of: &str) -> Vec<String> {
    let body = source.split(of).nth(1).and_then(|rest| rest.split("fn as_str").nth(1)).unwrap();
    let arms = body.split("\n    }").next().unwrap().lines().filter_map(|line| line.split("=> \"").nth(1));
    arms.map(|name| name.trim_end_matches("\",").to_owned()).collect()
}

/// The variants of an enum.
fn variants<'a>(source: &'a str, of: &str) -> impl Iterator<Item = &'a str> {
    let body =
        source.split(&format!("pub enum {of} {{")).nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
    let lines =
        body.lines().filter(|line| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase());
    lines.map(|line| line.trim().split(|letter: char| !letter.is_alphanumeric()).next().unwrap())
}
