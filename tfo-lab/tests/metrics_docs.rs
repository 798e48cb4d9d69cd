//! docs/metrics.md says what the code counts.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Debug;

use tfo_http::TfoMetrics;
use tfo_http::metrics::METRIC_NAMES;
use tfo_http_server::ListenerStats;

const DOCS: &str = include_str!("../../docs/metrics.md");

#[test]
fn the_names_of_the_facade_are_in_the_docs() {
    let in_code = METRIC_NAMES.map(|metric| {
        let labels = if metric.labels.is_empty() { String::new() } else { format!("`{}`", metric.labels) };
        format!("| `{}` | {} | {} | {labels} | {} |", metric.name, metric.kind, metric.unit, metric.meaning)
    });
    assert_eq!(rows("the `metrics` facade"), in_code, "\n{}\n", in_code.join("\n"));
}

#[test]
fn the_fields_of_the_snapshots_are_in_the_docs() {
    let mut client = fields(&TfoMetrics::default());
    for (field, method) in [("outcomes", "outcome()"), ("handshake_rtt.counts", "handshake_rtt.buckets()")] {
        *client.iter_mut().find(|name| *name == field).unwrap() = method.to_owned();
    }
    let mut documented = names("`TfoMetrics`");
    client.sort();
    documented.sort();
    assert_eq!(documented, client);
    assert_eq!(names("`ListenerStats`"), fields(&ListenerStats::default()));
}

#[test]
fn every_outcome_is_in_the_docs() {
    // The Debug text of the counters has one number for each.
    let numbers = format!("{:?}", TfoMetrics::default());
    let outcomes = numbers.split("outcomes: [").nth(1).unwrap().split(']').next().unwrap().split(',').count();
    let paragraph = DOCS.split("The label `outcome`").nth(1).unwrap().split("\n\n").next().unwrap();
    // `SynOutcome` itself is in backquotes too.
    assert_eq!(paragraph.matches('`').count() / 2 - 1, outcomes);
}

/// The rows of the table below a heading.
fn rows(heading: &str) -> Vec<&'static str> {
    let headings = DOCS.split("\n## ");
    let section = headings.into_iter().find(|section| section.lines().next().unwrap().contains(heading));
    section.unwrap().lines().filter(|line| line.starts_with("| `")).collect()
}

fn names(heading: &str) -> Vec<String> {
    rows(heading).iter().map(|row| row.split('`').nth(1).unwrap().to_owned()).collect()
}

/// The fields of a struct of structs, with dots.
fn fields(of: &impl Debug) -> Vec<String> {
    let text = format!("{of:#?}");
    let mut path: Vec<&str> = Vec::new();
    let mut fields = Vec::new();
    for line in text.lines().skip(1) {
        let depth = (line.len() - line.trim_start().len()) / 4;
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        path.truncate(depth - 1);
        path.push(name);
        if !value.ends_with('{') {
            fields.push(path.join("."));
        }
    }
    fields
}
