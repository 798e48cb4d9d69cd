//! What may follow what, checked against what is committed of it: a matrix and a picture.

use std::fmt::Debug;

/// The cells in a matrix of text: a row for each event, a column for each state, so many characters
/// wide (the first column, the others).
pub(crate) fn check<S: Debug, E: Debug>(
    committed: &str,
    (first, others): (usize, usize),
    states: &[S],
    events: &[E],
    next: impl Fn(&S, &E) -> Vec<String>,
) {
    let row = |name: String, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<others$}")).collect();
        format!("{name:<first$}{cells}").trim_end().to_owned()
    };
    let cell = |state: &S, event: &E| match next(state, event) {
        to if to.is_empty() => "-".to_owned(),
        to => to.join("/"),
    };
    let mut lines = vec![row(String::new(), states.iter().map(name).collect())];
    for event in events {
        lines.push(row(name(event), states.iter().map(|state| cell(state, event)).collect()));
    }
    assert_eq!(committed.lines().collect::<Vec<_>>(), lines, "\n{}", lines.join("\n"));
}

/// The same as the arrows of a picture.
pub(crate) fn check_picture<S: Debug, E: Debug>(
    committed: &str,
    states: &[S],
    events: &[E],
    next: impl Fn(&S, &E) -> Vec<String>,
) {
    let drawn: Vec<_> = committed
        .lines()
        .filter_map(|line| line.trim().split_once(" --> "))
        .filter(|(from, _)| *from != "[*]")
        .map(|(from, rest)| format!("{from} --> {rest}"))
        .collect();
    let mut arrows = Vec::new();
    for from in states {
        for event in events {
            let to = next(from, event);
            arrows.extend(to.iter().map(|to| format!("{} --> {to} : {}", name(from), name(event))));
        }
    }
    assert_eq!(drawn, arrows, "\n{}", arrows.join("\n"));
}

fn name(of: &impl Debug) -> String {
    format!("{of:?}").replace('"', "")
}
