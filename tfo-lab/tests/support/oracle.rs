//! `docs/outcomes.md`: what each observer says in each situation.

use std::fs;
use std::path::PathBuf;

use super::report::repository;

/// Behind the name of a situation: later visits by the same connector.
pub(crate) const LATER: [(usize, &str); 3] =
    [(1, ", second visit"), (3, ", fourth visit"), (6, ", seventh visit")];

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) situation: String,
    pub(crate) request: String,
    /// The client's outcome, and its reason in brackets.
    pub(crate) client: String,
    /// The server's outcome of each execution.
    pub(crate) server: String,
    /// What the client's kernel counted, and the server's.
    pub(crate) kernels: [String; 2],
    pub(crate) tap: String,
}

impl Line {
    pub(crate) fn render(&self) -> String {
        let [client, server] = &self.kernels;
        let cells = [&self.situation, &self.request, &self.client, &self.server, client, server, &self.tap];
        format!("| {} |", cells.map(String::as_str).join(" | "))
    }

    /// The same request, and all observers say the same.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        Self { situation: other.situation.clone(), ..self.clone() } == *other
    }

    fn parse(line: &str) -> Option<Self> {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::to_owned);
        let [situation, request, client, server, one, two, tap] =
            <[String; 7]>::try_from(cells.collect::<Vec<_>>()).ok()?;
        Some(Self { situation, request, client, server, kernels: [one, two], tap })
    }
}

pub(crate) fn file() -> PathBuf {
    repository().join("docs/outcomes.md")
}

/// The committed lines, in their order; without the head of the table.
pub(crate) fn lines() -> Vec<Line> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    text.lines().filter_map(Line::parse).filter(|line| line.situation != "situation").collect()
}

/// The situation without the visit.
pub(crate) fn situation(line: &Line) -> &str {
    LATER.iter().find_map(|(_, later)| line.situation.strip_suffix(later)).unwrap_or(&line.situation)
}

/// Whether the client may say so in this situation, at its first visit or a later one.
pub(crate) fn allowed(lines: &[Line], of: &str, client: &str) -> bool {
    lines.iter().any(|line| situation(line) == of && line.client == client)
}
