//! The page that a person reads: pictures first, all numbers below them.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::claims::claims;
use crate::plot::{Bar, Bars, Failed, Line, Lines};
use crate::result::{Entry, Results, Set};
use crate::stats::Figure;
use crate::tables::{Section, bytes, distinct, number, ratio_number, sections};

/// Wide enough for a page, and for half of one.
const WIDE: u32 = 980;
const STYLE: &str = "
body{font:16px/1.5 system-ui,sans-serif;color:#1f2937;background:#f3f4f6;margin:0}
main{max-width:1020px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:28px;margin:8px 0}h2{font-size:21px;margin:0 0 4px}h3{font-size:15px;margin:22px 0 4px}
p.intro{color:#4b5563;font-size:14px;margin:4px 0 12px;max-width:80ch}
section{background:#fff;border-radius:10px;padding:20px 22px;margin:20px 0;box-shadow:0 1px 2px #0002}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:14px;margin:18px 0}
.fact{background:#fff;border-radius:10px;padding:14px 18px;box-shadow:0 1px 2px #0002}
.fact b{display:block;font-size:27px;color:#2563eb;font-weight:650}.fact span{font-size:13.5px;color:#4b5563}
.machine{font-size:13.5px;color:#4b5563}
svg{max-width:100%;height:auto}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:6px 0}
td,th{padding:3px 9px;border-bottom:1px solid #e5e7eb;text-align:left;vertical-align:top;font-variant-numeric:tabular-nums}
th{color:#4b5563;font-weight:600}td.yes{color:#15803d;font-weight:600}td.no{color:#b91c1c;font-weight:600}td.not-measured{color:#9ca3af}td.missing{color:#9ca3af;max-width:24ch;font-size:12px}
summary{cursor:pointer;color:#2563eb;font-size:14px;margin-top:10px}";

/// The whole page. It needs nothing else.
///
/// # Errors
/// If a picture cannot be drawn.
pub fn html(results: &Results) -> Result<String, Failed> {
    let mut parts = Vec::new();
    for section in sections(results) {
        let pictures = match section.set {
            Set::RequestLatency => latency(results)?,
            Set::ConnectionCost => cost(results)?,
            Set::Hostile => hostile(results)?,
            // Counts that are to be zero make no picture.
            Set::Restart => Vec::new(),
            Set::Memory | Set::Micro => bars_of_set(results, section.set)?,
        };
        parts.push(part(&section, &pictures));
    }
    let machine = &results.machine;
    let peers: Vec<_> = results.peers.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "tfo-http: what was measured" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "HTTP in the SYN: what was measured" }
                    p.machine {
                        (results.date) " · " (machine.cpu) ", " (machine.cpus) " processors · " (machine.kernel) " · "
                        code { (results.command) } " (" (results.seconds) " s) · revision " (machine.revision)
                        " · load " (results.load[0]) " → " (results.load[1]) @if !peers.is_empty() { " · beside " (peers.join(", ")) }
                    }
                    div.facts { @for (value, text) in facts(results) { div.fact { b { (value) } span { (text) } } } }
                    (promises(results))
                    @for part in parts { (part) }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn promises(results: &Results) -> Markup {
    let claims = claims(results);
    html! {
        @if !claims.is_empty() {
            section {
                h2 { "What is promised" }
                div.table {
                    table {
                        tr { th { "" } th { "at most" } th { "measured" } th { "kept" } }
                        @for claim in &claims {
                            tr {
                                td { (claim.text) }
                                td { (claim.bound()) }
                                td { (claim.shown()) }
                                td class=(claim.verdict().replace(' ', "-")) { (claim.verdict()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn part(section: &Section, pictures: &[(String, String)]) -> Markup {
    html! {
        section {
            h2 { (section.title) }
            p.intro { (section.intro) }
            @for (caption, svg) in pictures { h3 { (caption) } (PreEscaped(svg)) }
            details open[pictures.is_empty()] {
                summary { "All numbers" }
                @for table in &section.tables {
                    h3 { (table.caption) }
                    div.table {
                        table {
                            tr { @for name in &table.header { th { (name) } } }
                            @for row in &table.rows {
                                tr { @for value in row { @if value.starts_with("not measured") { td.missing { (value) } } @else { td { (value) } } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What is said first; of what was measured in this run only.
fn facts(results: &Results) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let warm = results.of(Set::RequestLatency, "time of a request").filter(|entry| {
        entry.subject == "TFO warm" && entry.at("protocol") == "HTTP/1.1" && entry.at("body bytes") == "100"
    });
    let rtt = |entry: &&Entry| entry.at("RTT ms").parse::<u64>().unwrap_or_default().abs_diff(20);
    if let Some(entry) = warm.min_by_key(rtt)
        && let (Some(time), Some(ratio)) =
            (entry.value.median(), entry.ratio_to.get("plain").and_then(Figure::median))
    {
        let text = format!(
            "of plain TCP's time for a repeat GET at a round trip of {} ms: {} ms",
            entry.at("RTT ms"),
            number(time)
        );
        facts.push((format!("{} ×", ratio_number(ratio)), text));
    }
    let mut ratio = |what: &str, subject: &str, to: &str, text: &str| {
        let found = results.of(Set::ConnectionCost, what).find(|entry| {
            entry.subject == subject
                && ["", "1"].contains(&entry.at("concurrency"))
                && ["", "off"].contains(&entry.at("keep-alive"))
        });
        if let Some(ratio) = found.and_then(|entry| entry.ratio_to.get(to)).and_then(Figure::median) {
            facts.push((format!("{} ×", ratio_number(ratio)), text.to_owned()));
        }
    };
    ratio("client CPU", "tfo-http", "HttpConnector", "of HttpConnector's processor time for a connection");
    ratio(
        "server CPU",
        "tfo-http-server",
        "nginx",
        "of nginx's processor time for a connection with one request",
    );
    let hostile = |what: &str, subject: &str| {
        let mut found = results.of(Set::Hostile, what);
        found.find(|entry| entry.subject == subject && entry.at("path") == "SYN data dropped")?.value.median()
    };
    if let (Some(ours), Some(kernel)) =
        (hostile("following requests", "tfo-http"), hostile("following requests", "curl --tcp-fastopen"))
    {
        let text = format!(
            "for each later request on a path that drops SYN data; the kernel alone takes {} ms",
            number(kernel)
        );
        facts.push((format!("{} ms", number(ours)), text));
    }
    facts
}

fn latency(results: &Results) -> Result<Vec<(String, String)>, Failed> {
    const WHAT: &str = "time of a request";
    let all = || results.of(Set::RequestLatency, WHAT);
    let mut pictures = Vec::new();
    for protocol in distinct(all(), |entry| entry.at("protocol")) {
        for size in distinct(all(), |entry| entry.at("body bytes")) {
            let of =
                || all().filter(|entry| entry.at("protocol") == protocol && entry.at("body bytes") == size);
            let point = |entry: &Entry| Some((entry.at("RTT ms").parse().ok()?, *entry.value.measured()?));
            let lines: Vec<_> = distinct(of(), |entry| &entry.subject)
                .into_iter()
                .map(|name| Line {
                    name,
                    points: of().filter(|entry| entry.subject == name).filter_map(point).collect(),
                })
                .filter(|line| !line.points.is_empty())
                .collect();
            if lines.is_empty() {
                continue;
            }
            let rtts: Vec<f64> = distinct(of(), |entry| entry.at("RTT ms"))
                .into_iter()
                .filter_map(|rtt| rtt.parse().ok())
                .collect();
            let limit: Vec<_> = of()
                .filter(|entry| entry.subject == "plain")
                .filter_map(|entry| {
                    Some((entry.at("RTT ms").parse().ok()?, entry.at("limit ms").parse().ok()?))
                })
                .collect();
            let one: Vec<_> = rtts.iter().map(|rtt| (*rtt, *rtt)).collect();
            let mut limits = vec![("one round trip", one.clone())];
            if limit != one {
                limits.push(("limit of this size", limit));
            }
            let lines = Lines { x: "round-trip time, ms", y: "ms, median", log: false, lines, limits };
            pictures.push((format!("{protocol}, {} in the answer", bytes(size)), lines.svg((WIDE, 360))?));
        }
    }
    Ok(pictures)
}

fn cost(results: &Results) -> Result<Vec<(String, String)>, Failed> {
    let mut pictures = Vec::new();
    let entries = |what: &'static str| results.of(Set::ConnectionCost, what);
    let groups =
        |what: &'static str, case: &'static str, names: &[(&'static str, &'static str)], to: &str| {
            let groups = names.iter().map(|(value, name)| {
                let alone =
                    |entry: &&Entry| entry.at(case) == *value && ["", "1"].contains(&entry.at("concurrency"));
                (*name, entries(what).filter(alone).map(|entry| bar(entry, to)).collect::<Vec<_>>())
            });
            groups.filter(|(_, bars)| !bars.is_empty()).collect::<Vec<_>>()
        };
    let keep_alive = [("off", "keep-alive off"), ("on", "keep-alive on")];
    let mut draw = |caption: &str, unit, groups: Vec<_>| -> Result<(), Failed> {
        if !groups.is_empty() {
            pictures
                .push((caption.to_owned(), Bars { groups, unit, log_from: None, named: true }.svg(WIDE)?));
        }
        Ok(())
    };
    draw(
        "Server: processor time for each connection, one at a time",
        "µs",
        groups("server CPU", "keep-alive", &keep_alive, "nginx"),
    )?;
    draw(
        "Server: a small file",
        "µs",
        groups("server CPU, a small file", "keep-alive", &keep_alive, "nginx"),
    )?;
    draw(
        "Server: connections without TCP Fast Open",
        "µs",
        groups("server CPU, plain connections", "keep-alive", &keep_alive, "nginx"),
    )?;
    for (what, caption) in [
        ("client CPU", "Client: processor time for each connection"),
        ("CPU of both", "Client and server together"),
    ] {
        let bars: Vec<_> = entries(what).map(|entry| bar(entry, "HttpConnector")).collect();
        let server = entries(what).next().map_or("", |entry| entry.at("server"));
        let groups = if bars.is_empty() { Vec::new() } else { vec![("", bars)] };
        draw(&format!("{caption}, with {server}"), "µs", groups)?;
    }
    draw(
        "System calls of a server for each connection",
        "",
        groups("system calls", "keep-alive", &keep_alive, "nginx"),
    )?;
    let client_calls: Vec<_> = entries("system calls of a client").map(|entry| bar(entry, "")).collect();
    if !client_calls.is_empty() {
        draw("System calls of a client for each connection", "", vec![("", client_calls)])?;
    }
    let workers: Vec<_> =
        entries("server CPU, workers").map(|entry| bar(entry, "tfo-http-server, 1 worker")).collect();
    draw(
        "Workers, on all processors",
        "µs",
        if workers.is_empty() { Vec::new() } else { vec![("", workers)] },
    )?;
    let off = || entries("server CPU").filter(|entry| entry.at("keep-alive") == "off");
    let lines: Vec<_> = distinct(off(), |entry| &entry.subject)
        .into_iter()
        .map(|name| {
            let point =
                |entry: &Entry| Some((entry.at("concurrency").parse().ok()?, *entry.value.measured()?));
            Line { name, points: off().filter(|entry| entry.subject == name).filter_map(point).collect() }
        })
        .filter(|line| line.points.len() > 1)
        .collect();
    if !lines.is_empty() {
        let lines =
            Lines { x: "connections at a time", y: "µs, median", log: true, lines, limits: Vec::new() };
        pictures.push((
            "Server: processor time by the number of connections at a time".to_owned(),
            lines.svg((WIDE, 320))?,
        ));
    }
    Ok(pictures)
}

fn hostile(results: &Results) -> Result<Vec<(String, String)>, Failed> {
    let mut pictures = Vec::new();
    for what in results.whats(Set::Hostile) {
        let of = || results.of(Set::Hostile, what);
        let group = |path| {
            (path, of().filter(|entry| entry.at("path") == path).map(|entry| bar(entry, "")).collect())
        };
        let groups = distinct(of(), |entry| entry.at("path")).into_iter().map(group).collect();
        let bars = Bars { groups, unit: "ms", log_from: Some(10.0), named: false };
        let mut caption = what.to_owned();
        caption[..1].make_ascii_uppercase();
        pictures.push((caption + " on a bad path (logarithmic)", bars.svg(WIDE)?));
    }
    Ok(pictures)
}

fn bars_of_set(results: &Results, set: Set) -> Result<Vec<(String, String)>, Failed> {
    let whats = results.whats(set);
    let mut pictures = Vec::new();
    for what in whats {
        let entries: Vec<_> = results.of(set, what).collect();
        let unit = entries.first().map_or("", |entry| &entry.unit);
        let groups = vec![("", entries.iter().map(|entry| bar(entry, "")).collect())];
        let mut caption = what.to_owned();
        caption[..1].make_ascii_uppercase();
        pictures.push((caption, Bars { groups, unit, log_from: None, named: true }.svg(WIDE)?));
    }
    Ok(pictures)
}

fn bar<'a>(entry: &'a Entry, to: &str) -> Bar<'a> {
    let note = match entry.ratio_to.get(to).and_then(Figure::measured) {
        Some(ratio) => {
            let bounds =
                ratio.bounds.map(|[low, high]| format!(" [{}, {}]", ratio_number(low), ratio_number(high)));
            let whom = to.rsplit(", ").next().unwrap_or(to);
            format!(" = {} × {whom}{}", ratio_number(ratio.median), bounds.unwrap_or_default())
        }
        None => String::new(),
    };
    let value = match &entry.value {
        Figure::Measured(summary) => Ok(*summary),
        Figure::Missing { not_measured } => Err(not_measured.as_str()),
    };
    Bar { subject: &entry.subject, value, note }
}
