//! A result file as tables: what both pages show.

use std::collections::BTreeSet;

use crate::result::{Entry, Results, Set};
use crate::stats::{Figure, Summary};

/// A part of a page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Section {
    /// The set that it shows.
    pub set: Set,
    /// Its heading.
    pub title: &'static str,
    /// How it was measured, and how to read it.
    pub intro: &'static str,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// One table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The rows, as long as the header.
    pub rows: Vec<Vec<String>>,
}

/// What is said of each set.
fn words(set: Set) -> (&'static str, &'static str) {
    match set {
        Set::RequestLatency => (
            "Time of a request on a new connection",
            "In a lab: two hosts, and a wire with a delay and without a limit on its rate. From the request to the \
             last byte of its answer, milliseconds: the median, and in brackets the 99th percentile. The limit is \
             one round trip, and one more each time that the answer has to wait for the first window of ten \
             segments to double. Cold is a first visit (no cookie), warm a repeat visit; cookie-less is a server \
             and a client whose sockets ask for none. Clients take turns; h2c with TCP_NODELAY, as curl sets it. The \
             last difference is that of the medians of a repeat visit and of curl --tcp-fastopen.",
        ),
        Set::ConnectionCost => (
            "What a connection costs",
            "On the loopback of a host of its own: microseconds of processor time for each connection with one \
             request, kernel included. Client and server are processes of their own on one processor (the workers: \
             on all); soft interrupts run in whoever sends. Those compared take turns, round by round. In brackets \
             the 95 % bounds of the median, by order statistics; ratios are medians of the ratios within a round. \
             Servers are loaded by blocking sockets with TCP Fast Open, so many requests at a time as the \
             concurrency says; a round in which less than 95 % of them rode in the SYN does not count. Plain connections \
             come 16 at a time, and their requests a millisecond later. FIN with the answer is an option of ours, which \
             takes a packet less and a system call more (`ServerBuilder::end_in_last_packet`).",
        ),
        Set::Hostile => (
            "Paths that mistreat TCP Fast Open",
            "In a lab at 20 ms: after a visit that fetched the cookie the path turns bad. Median milliseconds of the \
             first request, of the second, and of those that follow, each on a new connection. curl \
             --tcp-fastopen is what the kernel does alone.",
        ),
        Set::Restart => (
            "Restarts under load",
            "In a lab at 40 ms: `tfo serve` hands its listeners to its successor (SIGUSR2), again and again, while four \
             plain clients and four with TCP Fast Open ask for a small file without a pause, each request on a \
             connection of its own. In the SYN is what the kernel says of the connection; failed is what had no whole \
             answer. The worst latency is the longest of all, from the connect to the end of the answer.",
        ),
        Set::Memory => {
            ("Memory", "Growth of the process, divided: the kernel's socket buffers are not in it.")
        }
        Set::Micro => (
            "Single operations",
            "Nanoseconds, and instructions as callgrind counts them (its processor has no SHA instructions). A path \
             is asked before each connection, TCP_INFO is decoded once or twice for each.",
        ),
    }
}

/// All that a result file says.
pub fn sections(results: &Results) -> Vec<Section> {
    let sets: BTreeSet<_> = results.entries.iter().map(|entry| entry.set).collect();
    sets.into_iter()
        .map(|set| {
            let (title, intro) = words(set);
            let tables = match set {
                Set::RequestLatency => latency(results),
                Set::Hostile => hostile(results),
                Set::Restart => restart(results),
                _ => results.whats(set).into_iter().map(|what| plain(results, set, what)).collect(),
            };
            Section { set, title, intro, tables }
        })
        .collect()
}

/// The values that the entries have, each once, in the order of the file.
pub(crate) fn distinct<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    of: impl Fn(&'a Entry) -> &'a str,
) -> Vec<&'a str> {
    let mut values = Vec::new();
    for value in entries.map(of) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

fn latency(results: &Results) -> Vec<Table> {
    const WHAT: &str = "time of a request";
    let all = || results.of(Set::RequestLatency, WHAT);
    let subjects = distinct(all(), |entry| &entry.subject);
    let mut tables = Vec::new();
    for protocol in distinct(all(), |entry| entry.at("protocol")) {
        for size in distinct(all(), |entry| entry.at("body bytes")) {
            let of = |rtt: &str, subject: &str| {
                all().find(|entry| {
                    entry.at("protocol") == protocol
                        && entry.at("body bytes") == size
                        && entry.at("RTT ms") == rtt
                        && entry.subject == subject
                })
            };
            let mut header = vec!["RTT ms".to_owned(), "limit ms".to_owned()];
            header.extend(subjects.iter().map(|subject| (*subject).to_owned()));
            header.extend(["warm / plain", "warm / limit", "warm − curl, ms", "n"].map(str::to_owned));
            let rows = distinct(all(), |entry| entry.at("RTT ms"))
                .into_iter()
                .filter_map(|rtt| {
                    let warm = of(rtt, "TFO warm")?;
                    let mut row = vec![rtt.to_owned(), warm.at("limit ms").to_owned()];
                    row.extend(subjects.iter().map(|subject| {
                        of(rtt, subject).map_or_else(String::new, |entry| {
                            show(&entry.value, |value| {
                                format!("{} ({})", number(value.median), number(value.p99))
                            })
                        })
                    }));
                    row.extend(["plain", "limit"].map(|to| {
                        warm.ratio_to.get(to).map_or_else(String::new, |ratio| {
                            show(ratio, |value| bounded(value, ratio_number))
                        })
                    }));
                    let kernel = of(rtt, "curl --tcp-fastopen").and_then(|entry| entry.value.median());
                    let beside = warm
                        .value
                        .median()
                        .zip(kernel)
                        .map(|(warm, kernel)| format!("{:+.2}", warm - kernel));
                    row.push(beside.unwrap_or_default());
                    row.push(warm.value.measured().map_or_else(String::new, |value| value.n.to_string()));
                    Some(row)
                })
                .collect();
            tables.push(Table {
                caption: format!("{protocol}, {} in the answer", bytes(size)),
                header,
                rows,
            });
        }
    }
    tables
}

fn hostile(results: &Results) -> Vec<Table> {
    let whats = results.whats(Set::Hostile);
    let entries = || results.entries.iter().filter(|entry| entry.set == Set::Hostile);
    let subjects = distinct(entries(), |entry| &entry.subject);
    let mut header = vec!["path".to_owned()];
    for subject in &subjects {
        header.extend(
            whats.iter().map(|what| format!("{subject}: {}", what.split(' ').next().unwrap_or_default())),
        );
    }
    let rows =
        distinct(entries(), |entry| entry.at("path"))
            .into_iter()
            .map(|path| {
                let mut row = vec![path.to_owned()];
                for subject in &subjects {
                    for what in &whats {
                        let found = entries().find(|entry| {
                            entry.at("path") == path && entry.subject == *subject && entry.what == *what
                        });
                        row.push(found.map_or_else(String::new, |entry| {
                            show(&entry.value, |value| number(value.median))
                        }));
                    }
                }
                row
            })
            .collect();
    vec![Table { caption: "Milliseconds of a request".to_owned(), header, rows }]
}

fn restart(results: &Results) -> Vec<Table> {
    let whats = results.whats(Set::Restart);
    let entries = || results.entries.iter().filter(|entry| entry.set == Set::Restart);
    let unit = |what: &str| entries().find(|entry| entry.what == what).map_or("", |entry| &entry.unit);
    let named = |what: &&str| match unit(what) {
        "ms" => format!("{what}, ms"),
        _ => (*what).to_owned(),
    };
    let header = std::iter::once("clients".to_owned()).chain(whats.iter().map(named)).collect();
    let rows = distinct(entries(), |entry| &entry.subject).into_iter().map(|subject| {
        let of = |what: &&str| {
            let found = entries().find(|entry| entry.subject == subject && entry.what == *what);
            found.map_or_else(String::new, |entry| show(&entry.value, |value| number(value.median)))
        };
        std::iter::once(subject.to_owned()).chain(whats.iter().map(of)).collect()
    });
    let restarts = entries().next().map_or("", |entry| entry.at("restarts"));
    vec![Table { caption: format!("{restarts} restarts"), header, rows: rows.collect() }]
}

/// A row for each entry.
fn plain(results: &Results, set: Set, what: &str) -> Table {
    let entries: Vec<_> = results.of(set, what).collect();
    let cases: BTreeSet<_> = entries.iter().flat_map(|entry| entry.case.keys().map(String::as_str)).collect();
    let ratios: BTreeSet<_> =
        entries.iter().flat_map(|entry| entry.ratio_to.keys().map(String::as_str)).collect();
    let unit = entries.first().map_or("", |entry| &entry.unit);
    let mut header: Vec<_> = cases.iter().map(|case| (*case).to_owned()).collect();
    header.extend(["who".to_owned(), unit.to_owned()]);
    header.extend(ratios.iter().map(|ratio| format!("/ {ratio}")));
    header.push("n".to_owned());
    let rows = entries
        .iter()
        .map(|entry| {
            let mut row: Vec<_> = cases.iter().map(|case| entry.at(case).to_owned()).collect();
            row.push(entry.subject.clone());
            row.push(show(&entry.value, |value| bounded(value, number)));
            row.extend(ratios.iter().map(|ratio| {
                entry
                    .ratio_to
                    .get(*ratio)
                    .map_or_else(String::new, |ratio| show(ratio, |value| bounded(value, ratio_number)))
            }));
            row.push(entry.value.measured().map_or_else(String::new, |value| value.n.to_string()));
            row
        })
        .collect();
    Table { caption: capitalised(what), header, rows }
}

fn capitalised(what: &str) -> String {
    let mut chars = what.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The figure, or the reason in its place.
pub(crate) fn show(figure: &Figure, shown: impl Fn(&Summary) -> String) -> String {
    match figure {
        Figure::Measured(summary) => shown(summary),
        Figure::Missing { not_measured } => format!("not measured: {not_measured}"),
    }
}

fn bounded(value: &Summary, number: fn(f64) -> String) -> String {
    match value.bounds {
        Some([low, high]) => format!("{} [{}, {}]", number(value.median), number(low), number(high)),
        None => number(value.median),
    }
}

/// Three digits or more.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Two digits behind the point.
pub(crate) fn ratio_number(value: f64) -> String {
    format!("{value:.2}")
}

/// `10240` as `10 KiB`.
pub(crate) fn bytes(text: &str) -> String {
    match text.parse::<u64>() {
        Ok(bytes) if bytes >= 1024 && bytes % 1024 == 0 => format!("{} KiB", bytes / 1024),
        _ => format!("{text} B"),
    }
}
