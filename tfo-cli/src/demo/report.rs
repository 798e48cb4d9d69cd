//! What is told at the end: a page for people, or JSON; and whether there is a doubt.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Row, Table, presets};
use serde::Serialize;
use tfo_core::Support;
use tfo_http::SynOutcome;

use super::evidence;
use super::network::Place;
use super::visits::{Mode, Packets, Visit};
use crate::text::{millis, saved};

/// How many visits are shown one by one; JSON has all.
const ROWS: usize = 21;
/// Of the table: it shall fit everywhere.
const WIDTH: u16 = 80;

/// The visits, and what they amount to.
#[derive(Debug)]
pub(super) struct Report<'a> {
    place: &'a Place,
    visits: &'a [Visit],
    /// What loopback depends on; nothing in a lab.
    problems: Vec<Problem>,
    disagreements: Vec<String>,
    summary: Summary,
}

/// The figures of the closing line, from the repeat visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Summary {
    repeat_visits: usize,
    saved_visits: usize,
    plain_median_us: u64,
    tfo_median_us: u64,
    /// The difference of these two; negative if TCP Fast Open was slower.
    saved_median_us: i64,
    /// The round trip that was saved, by the client's kernel: of the visits that saved one.
    saved_rtt_median_us: Option<u64>,
    /// Rides whose answer left before anything but the SYN had arrived; `None` without a tap.
    answered_early: Option<usize>,
}

#[derive(Clone, Debug, Serialize)]
struct Problem {
    problem: String,
    fix: Option<String>,
}

/// `schemas/demo.json`.
#[derive(Serialize)]
struct Json<'a> {
    network: &'static str,
    why_loopback: Option<&'a str>,
    rtt_us: Option<u64>,
    requests: usize,
    visits: Vec<JsonVisit>,
    summary: Summary,
    evidence_agrees: bool,
    disagreements: &'a [String],
    problems: &'a [Problem],
    claim: String,
}

#[derive(Serialize)]
struct JsonVisit {
    visit: u32,
    repeat: bool,
    mode: Mode,
    elapsed_us: u64,
    rtts: Option<f64>,
    outcome: &'static str,
    reason: Option<&'static str>,
    syn_data_bytes: usize,
    first_flight_bytes: Option<usize>,
    handshake_rtt_us: Option<u64>,
    saved_rtts: u32,
    saved_us: u64,
    server_saw_syn_data: Option<bool>,
    packets: Option<Packets>,
}

impl<'a> Report<'a> {
    pub(super) fn new(place: &'a Place, visits: &'a [Visit]) -> Self {
        let tapped = matches!(place, Place::Lab { .. });
        let mut disagreements: Vec<_> = visits.iter().filter_map(Visit::disagreement).collect();
        disagreements.extend(evidence::unseen(visits, tapped));
        let problems = match place {
            Place::Lab { .. } => Vec::new(),
            Place::Loopback { .. } => Support::probe()
                .problems()
                .iter()
                .map(|problem| Problem { problem: problem.to_string(), fix: problem.fix() })
                .collect(),
        };
        Self { place, visits, problems, disagreements, summary: Summary::of(visits, tapped) }
    }

    /// What makes the demo a failure: observers that disagree, or a lab in which nothing was saved.
    pub(super) fn doubt(&self) -> Option<String> {
        if let Some(first) = self.disagreements.first() {
            let more = match self.disagreements.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            return Some(format!("the evidence disagrees: {first}{more}"));
        }
        let lab = matches!(self.place, Place::Lab { .. });
        (lab && self.summary.saved_visits == 0).then(|| {
            let why = self.why_not().unwrap_or_else(|| "for no stated reason".to_owned());
            format!("no repeat visit saved a round trip: {why}")
        })
    }

    pub(super) fn json(&self) -> serde_json::Result<String> {
        let (network, why_loopback) = match self.place {
            Place::Lab { .. } => ("lab", None),
            Place::Loopback { why } => ("loopback", Some(why.as_str())),
        };
        serde_json::to_string_pretty(&Json {
            network,
            why_loopback,
            rtt_us: self.place.rtt().map(micros),
            requests: self.summary.repeat_visits,
            visits: self.visits.iter().map(|visit| self.json_visit(visit)).collect(),
            summary: self.summary,
            evidence_agrees: self.disagreements.is_empty(),
            disagreements: &self.disagreements,
            problems: &self.problems,
            claim: self.claim(),
        })
    }

    fn json_visit(&self, visit: &Visit) -> JsonVisit {
        JsonVisit {
            visit: visit.number,
            repeat: visit.is_repeat(),
            mode: visit.mode,
            elapsed_us: micros(visit.elapsed),
            rtts: self.rtts(visit).map(|rtts| (rtts * 10.0).round() / 10.0),
            outcome: visit.outcome.as_str(),
            reason: visit.reason.map(|reason| reason.as_str()),
            syn_data_bytes: visit.syn_data_bytes,
            first_flight_bytes: visit.first_flight_bytes,
            handshake_rtt_us: visit.handshake_rtt.map(micros),
            saved_rtts: visit.saved_rtts,
            saved_us: micros(visit.saved),
            server_saw_syn_data: visit.server_saw_syn_data,
            packets: visit.packets,
        }
    }

    /// For people.
    pub(super) fn page(&self) -> String {
        let head = match self.place {
            Place::Lab { rtt, .. } => format!(
                "A client and a server on this machine's kernel, in a private network with a\n\
                 round-trip time of {}. Every request goes on a new connection. In brackets:\n\
                 how many round trips (RTTs) it took.",
                humantime::format_duration(*rtt)
            ),
            Place::Loopback { .. } => {
                "A client and a server on this machine's loopback, where there is no round trip\n\
                 worth saving. Whether TCP Fast Open works here at all is decided by the\n\
                 machine's own settings."
                    .to_owned()
            }
        };
        let mut page = format!("{head}\n\n{}\n\n", self.table().trim_fmt());
        for problem in &self.problems {
            page.push_str(&problem.problem);
            page.push('\n');
            if let Some(fix) = &problem.fix {
                page.push_str(&format!("  fix, as root: {fix}\n"));
            }
        }
        if !self.problems.is_empty() {
            page.push('\n');
        }
        for part in [self.evidence(), self.medians(), self.claim()] {
            page.push_str(&part);
            page.push('\n');
        }
        page.truncate(page.trim_end().len());
        page
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
        table.set_header(["visit", "plain TCP", "TCP Fast Open", "in the SYN", "saved"]);
        let pairs = self.visits.chunks_exact(2);
        let more = pairs.len().saturating_sub(ROWS);
        for pair in pairs.take(ROWS) {
            let [plain, tfo] = pair else { continue };
            table.add_row(self.row(plain, tfo));
        }
        if more > 0 {
            table.add_row([format!("{more} more")]);
        }
        for column in 1..=2 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn row(&self, plain: &Visit, tfo: &Visit) -> Row {
        let took = |visit: &Visit| {
            let rtts = self.rtts(visit).map(|rtts| format!(" ({rtts:.1})")).unwrap_or_default();
            millis(visit.elapsed) + &rtts
        };
        let in_syn = match (tfo.syn_data_bytes, tfo.first_flight_bytes) {
            (0, _) => match (tfo.outcome, tfo.reason) {
                (SynOutcome::CookieRequested, _) => "cookie request".to_owned(),
                (_, Some(reason)) => format!("nothing: {reason}"),
                (outcome, None) => format!("nothing: {outcome}"),
            },
            (sent, Some(whole)) if sent < whole => format!("{sent} of {whole} B"),
            (sent, _) => format!("request, {sent} B"),
        };
        let saving = match (tfo.saved_rtts, tfo.reason) {
            (0, Some(reason)) if tfo.syn_data_bytes > 0 => format!("nothing: {reason}"),
            (0, _) => "–".to_owned(),
            _ => format!("1 RTT, {}", saved(tfo.saved)),
        };
        let name =
            if plain.is_repeat() { format!("repeat {}", plain.number - 1) } else { "first".to_owned() };
        Row::from(vec![name, took(plain), took(tfo), in_syn, saving])
    }

    /// What the observers say together.
    fn evidence(&self) -> String {
        if let Some(doubt) = self.doubt() {
            return doubt;
        }
        let count = self.visits.len();
        match self.summary.answered_early {
            None => format!("TCP_INFO at both ends agrees on all {count} connections."),
            Some(early) => {
                let answered = match (early, self.summary.saved_visits) {
                    (1, 1) => "the ride was answered".to_owned(),
                    (early, rides) if early == rides => format!("all {rides} rides were answered"),
                    (early, rides) => format!("{early} of {rides} rides were answered"),
                };
                format!(
                    "TCP_INFO at both ends and the packets on the wire agree on all {count}\n\
                     connections; {answered} before anything but the SYN had\n\
                     reached the server."
                )
            }
        }
    }

    /// What a clock says. It has the machine's noise in it, so nothing is claimed from it.
    fn medians(&self) -> String {
        let summary = &self.summary;
        let (plain, tfo) = (time(summary.plain_median_us), time(summary.tfo_median_us));
        let medians = format!("medians: {plain} plain, {tfo} with TCP Fast Open");
        match (self.place, u64::try_from(summary.saved_median_us)) {
            (Place::Loopback { .. }, _) => medians,
            (Place::Lab { .. }, Ok(less @ 1..)) => format!("{medians}: {} less", time(less)),
            (Place::Lab { .. }, _) if summary.saved_visits == 0 => format!("{medians}: no less"),
            (Place::Lab { .. }, _) => format!(
                "{medians}: no less.\n\
                 This machine is too busy for the clock to show what the packets do."
            ),
        }
    }

    /// The closing line: nothing in it that was not measured.
    fn claim(&self) -> String {
        let summary = &self.summary;
        if !self.disagreements.is_empty() {
            return "nothing is claimed, because the evidence disagrees".to_owned();
        }
        if let Place::Loopback { .. } = self.place {
            let rode = format!("{} of {}", summary.saved_visits, summary.repeat_visits);
            return format!("{rode} rode in the SYN, but loopback has no round trip worth saving");
        }
        let Some(rtt) = summary.saved_rtt_median_us else { return "nothing saved".to_owned() };
        let saved = format!("one round trip ({}) saved", time(rtt));
        match (summary.saved_visits, summary.repeat_visits) {
            (1, 1) => format!("{saved} on the repeat visit"),
            (all, of) if all == of => format!("{saved} on each of {of} repeat visits"),
            (some, of) => {
                let why = self.why_not().map(|why| format!(" (the others: {why})")).unwrap_or_default();
                format!("{saved} on {some} of {of} repeat visits{why}")
            }
        }
    }

    /// Why the first repeat visit that saved nothing did not.
    fn why_not(&self) -> Option<String> {
        let unsaved = |visit: &&Visit| visit.is_repeat() && visit.mode == Mode::Tfo && visit.saved_rtts == 0;
        let visit = self.visits.iter().find(unsaved)?;
        Some(visit.reason.map_or_else(|| visit.outcome.to_string(), |reason| reason.to_string()))
    }

    fn rtts(&self, visit: &Visit) -> Option<f64> {
        self.place.rtt().map(|rtt| visit.elapsed.as_secs_f64() / rtt.as_secs_f64())
    }
}

impl Summary {
    fn of(visits: &[Visit], tapped: bool) -> Self {
        let repeats = |mode| visits.iter().filter(move |visit| visit.is_repeat() && visit.mode == mode);
        let median_of = |mode| median(repeats(mode).map(|visit| micros(visit.elapsed)).collect());
        let (plain_median_us, tfo_median_us) = (median_of(Mode::Plain), median_of(Mode::Tfo));
        let saved = |visit: &&Visit| visit.saved_rtts > 0;
        let early = |visit: &&Visit| visit.packets.is_some_and(|packets| packets.answered_early);
        let saved_rtts: Vec<_> = repeats(Mode::Tfo).filter(saved).map(|visit| micros(visit.saved)).collect();
        Self {
            repeat_visits: repeats(Mode::Tfo).count(),
            saved_visits: repeats(Mode::Tfo).filter(saved).count(),
            plain_median_us,
            tfo_median_us,
            saved_median_us: plain_median_us.cast_signed() - tfo_median_us.cast_signed(),
            saved_rtt_median_us: (!saved_rtts.is_empty()).then(|| median(saved_rtts)),
            answered_early: tapped.then(|| repeats(Mode::Tfo).filter(saved).filter(early).count()),
        }
    }
}

/// The mean of the middle two, if there are two.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    match (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2)) {
        (Some(low), Some(high)) => low.midpoint(*high),
        _ => 0,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn time(micros: u64) -> String {
    millis(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests;
