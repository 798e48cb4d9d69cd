//! What this project promises of its cost, held against a run.

use crate::result::{Entry, Results, Set};
use crate::stats::{Figure, Summary};
use crate::tables::number;

/// One promise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// What is promised.
    pub text: &'static str,
    /// The largest value that keeps the promise.
    pub at_most: f64,
    /// What was measured: the worst of all that the promise is about. `None` if that was not measured.
    pub measured: Option<f64>,
    /// What the numbers count.
    pub unit: &'static str,
}

impl Claim {
    /// `yes`, `no`, or that nothing was measured.
    pub fn verdict(&self) -> &'static str {
        match self.measured {
            Some(value) if value <= self.at_most => "yes",
            Some(_) => "no",
            None => "not measured",
        }
    }

    /// The measured value, with its unit.
    pub fn shown(&self) -> String {
        let Some(value) = self.measured else { return String::new() };
        let (shown, bound) = (with_unit(value, self.unit), self.bound());
        // What is rounded to the bound, and is more.
        if value > self.at_most && shown == bound { format!("{value:.3} {}", self.unit) } else { shown }
    }

    /// The bound, with its unit.
    pub fn bound(&self) -> String {
        with_unit(self.at_most, self.unit)
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "×" => format!("{value:.2} ×"),
        _ => format!("{} {unit}", number(value)),
    }
}

/// All promises whose sets were run.
pub fn claims(results: &Results) -> Vec<Claim> {
    let has = |set| results.entries.iter().any(|entry| entry.set == set);
    let mut claims = Vec::new();
    if has(Set::RequestLatency) {
        claims.extend(latency(results));
    }
    if has(Set::ConnectionCost) {
        claims.extend(cost(results));
    }
    if has(Set::Restart) {
        claims.push(restart(results));
    }
    if has(Set::Memory) {
        let idle = results
            .of(Set::Memory, "idle server connection")
            .find(|entry| entry.subject == "tfo-http-server");
        claims.push(Claim {
            text: "Memory of an idle server connection",
            at_most: 20.0,
            measured: idle.and_then(|entry| entry.value.median()).map(|bytes| bytes / 1024.0),
            unit: "KiB",
        });
    }
    claims
}

/// Where nobody asked, or nothing rode, nothing could fail.
fn restart(results: &Results) -> Claim {
    let some = |what, who| {
        let counts = results.of(Set::Restart, what).filter(|entry| entry.subject == who);
        counts.filter_map(|entry| entry.value.median()).any(|count| count > 0.0)
    };
    let tried = some("requests", "plain") && some("requests", "TFO") && some("in the SYN", "TFO");
    let failed = worst(results.of(Set::Restart, "failed").map(|entry| entry.value.median()));
    Claim {
        text: "Requests that fail while the server is restarted",
        at_most: 0.0,
        measured: failed.filter(|_| tried),
        unit: "requests",
    }
}

fn latency(results: &Results) -> [Claim; 3] {
    let of = |subject: &'static str| {
        results.of(Set::RequestLatency, "time of a request").filter(move |entry| {
            entry.subject == subject && entry.at("protocol") == "HTTP/1.1" && entry.at("body bytes") == "100"
        })
    };
    let rtt = |entry: &Entry| entry.at("RTT ms").parse::<f64>().ok();
    let beyond = of("TFO warm").map(|entry| Some(entry.value.median()? - rtt(entry)?));
    let to_plain = of("TFO warm")
        .filter(|entry| rtt(entry).is_some_and(|rtt| rtt >= 20.0))
        .map(|entry| entry.ratio_to.get("plain")?.median());
    let behind_kernel = of("TFO warm").map(|entry| {
        let kernel = of("curl --tcp-fastopen").find(|other| other.case == entry.case)?;
        Some(entry.value.median()? - kernel.value.median()?)
    });
    [
        Claim {
            text: "A repeat GET of 100 B, beyond one round trip: median, at every round-trip time",
            at_most: 1.0,
            measured: worst(beyond),
            unit: "ms",
        },
        Claim {
            text: "A repeat GET of 100 B beside plain TCP: median ratio, from 20 ms up",
            at_most: 0.52,
            measured: worst(to_plain),
            unit: "×",
        },
        Claim {
            text: "A repeat GET of 100 B, behind curl --tcp-fastopen: medians",
            at_most: 0.5,
            measured: worst(behind_kernel),
            unit: "ms",
        },
    ]
}

fn cost(results: &Results) -> Vec<Claim> {
    let find = |what, subject: &str, keep_alive: &str| {
        results.of(Set::ConnectionCost, what).find(|entry| {
            entry.subject == subject
                && ["", keep_alive].contains(&entry.at("keep-alive"))
                && ["", "1", "16"].contains(&entry.at("concurrency"))
        })
    };
    let upper = |what, subject, keep_alive, to| {
        let ratio: Option<&Figure> = find(what, subject, keep_alive).and_then(|entry| entry.ratio_to.get(to));
        ratio.and_then(Figure::measured).and_then(high)
    };
    let ratio = |text, at_most, measured| Claim { text, at_most, measured, unit: "×" };
    let many = results.of(Set::ConnectionCost, "server CPU").filter(|entry| {
        entry.subject == "tfo-http-server"
            && entry.at("concurrency").parse::<u32>().is_ok_and(|many| many >= 100)
    });
    let many: Option<Vec<_>> = many.map(|entry| entry.value.median()).collect();
    let growth = many.filter(|many| many.len() > 1).map(|many| {
        many.iter().copied().fold(0.0, f64::max) / many.iter().copied().fold(f64::INFINITY, f64::min)
    });
    let beside_naive = results
        .of(Set::ConnectionCost, "server CPU")
        .filter(|entry| entry.subject == "tfo-http-server" && entry.at("concurrency") == "100");
    let beside_naive =
        beside_naive.map(|entry| high(entry.ratio_to.get("naive hyper")?.measured()?)).next().flatten();
    let calls = find("system calls", "tfo-http-server", "off").and_then(|entry| entry.value.median());
    vec![
        ratio(
            "Server CPU beside nginx, keep-alive off: upper bound",
            1.10,
            upper("server CPU", "tfo-http-server", "off", "nginx"),
        ),
        ratio(
            "Server CPU beside nginx, keep-alive on: upper bound",
            1.10,
            upper("server CPU", "tfo-http-server", "on", "nginx"),
        ),
        ratio(
            "Server CPU beside naive hyper, keep-alive off: upper bound",
            0.75,
            upper("server CPU", "tfo-http-server", "off", "naive hyper"),
        ),
        ratio("Server CPU beside naive hyper, 100 connections at a time: upper bound", 0.75, beside_naive),
        ratio(
            "tfo serve beside nginx, a small file: upper bound",
            1.10,
            upper("server CPU, a small file", "tfo serve", "on", "nginx"),
        ),
        // Connections beside the counted ones are a call in a hundred.
        Claim {
            text: "System calls of the server for a ride, keep-alive off",
            at_most: 7.0,
            measured: calls.map(f64::round),
            unit: "calls",
        },
        ratio(
            "Client CPU beside HttpConnector: upper bound",
            0.75,
            upper("client CPU", "tfo-http", "", "HttpConnector"),
        ),
        ratio(
            "Client CPU beside tokio-tfo: upper bound",
            0.95,
            upper("client CPU", "tfo-http", "", "tokio-tfo"),
        ),
        ratio("Client CPU beside wrk: upper bound", 0.90, upper("client CPU", "tfo-http", "", "wrk, plain")),
        ratio("Server CPU, from 100 connections at a time on: the most beside the least", 1.3, growth),
        ratio(
            "Server CPU with two workers beside one: upper bound",
            1.15,
            upper("server CPU, workers", "tfo-http-server, 2 workers", "", "tfo-http-server, 1 worker"),
        ),
    ]
}

/// The upper bound; the median where there are too few samples for one.
fn high(summary: &Summary) -> Option<f64> {
    Some(summary.bounds.map_or(summary.median, |[_, high]| high))
}

/// The largest of all; `None` if one is missing, or there is none.
fn worst(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Option<Vec<_>> = values.collect();
    values?.into_iter().reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missing_value_is_no_verdict() {
        assert_eq!(worst([Some(1.0), Some(3.0), Some(2.0)].into_iter()), Some(3.0));
        assert_eq!(worst([Some(1.0), None].into_iter()), None);
        assert_eq!(worst([].into_iter()), None);
        let claim = |measured| Claim { text: "", at_most: 1.0, measured, unit: "×" };
        let verdicts = [Some(1.0), Some(1.01), None].map(|measured| claim(measured).verdict());
        assert_eq!(verdicts, ["yes", "no", "not measured"]);
        assert_eq!(
            [1.0, 1.004, 1.01].map(|measured| claim(Some(measured)).shown()),
            ["1.00 ×", "1.004 ×", "1.01 ×"]
        );
    }
}
