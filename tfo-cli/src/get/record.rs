//! What is told about one request: as JSON, or in a line for people.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use tfo_http::{ConnInfo, Reason, SynOutcome};

use crate::fetch::{Answer, Unanswered};
use crate::text::{bytes, millis, saved};

/// One request. The names are those of `schemas/get.json`, and do not change.
#[derive(Debug, Default, Serialize)]
pub(super) struct Record {
    status: Option<u16>,
    version: Option<String>,
    body_bytes: Option<u64>,
    elapsed_us: u64,
    dns_us: Option<u64>,
    remote_addr: Option<SocketAddr>,
    local_addr: Option<SocketAddr>,
    outcome: Option<&'static str>,
    reason: Option<&'static str>,
    syn_data_bytes: Option<usize>,
    first_flight_bytes: Option<usize>,
    handshake_rtt_us: Option<u64>,
    saved_rtts: u32,
    saved_us: u64,
    hedged: bool,
    reused: bool,
    /// What the outcome and its reason are in words.
    #[serde(skip)]
    why: Option<String>,
}

impl Record {
    pub(super) fn answered(answer: &Answer, reused: bool) -> Self {
        let mut record = Self::of(answer.info.as_ref(), answer.elapsed, reused);
        record.status = Some(answer.status.as_u16());
        record.version = Some(format!("{:?}", answer.version));
        record.body_bytes = Some(answer.body_bytes);
        record
    }

    /// Nothing was saved by a request that failed.
    pub(super) fn unanswered(unanswered: &Unanswered, reused: bool) -> Self {
        let mut record = Self::of(unanswered.info.as_ref(), unanswered.elapsed, reused);
        (record.saved_rtts, record.saved_us) = (0, 0);
        record.status = unanswered.head.map(|(status, _)| status.as_u16());
        record.version = unanswered.head.map(|(_, version)| format!("{version:?}"));
        if let (None, Some((remote_addr, outcome, reason))) = (&unanswered.info, &unanswered.handshake) {
            record.remote_addr = Some(*remote_addr);
            record.outcome = Some(outcome.as_str());
            record.reason = Some(reason.as_str());
        }
        record
    }

    fn of(info: Option<&ConnInfo>, elapsed: Duration, reused: bool) -> Self {
        let mut record = Self { elapsed_us: micros(elapsed), reused, ..Self::default() };
        let Some(info) = info else { return record };
        let (outcome, reason) = (info.outcome(), info.reason());
        record.remote_addr = Some(info.remote_addr());
        record.local_addr = info.local_addr();
        record.outcome = Some(outcome.as_str());
        record.reason = reason.map(|reason| reason.as_str());
        record.syn_data_bytes = Some(info.syn_data_bytes());
        record.first_flight_bytes = info.first_flight_bytes();
        record.handshake_rtt_us = info.handshake_rtt().map(micros);
        record.why = match (reason, outcome) {
            (Some(reason), _) => Some(reason.to_string()),
            (None, SynOutcome::SynDataAcked) => None,
            (None, outcome) => Some(outcome.to_string()),
        };
        if !reused {
            // Name and handshake were paid for, and saved on, once.
            record.dns_us = info.dns().map(micros);
            record.saved_rtts = info.saved_rtts();
            record.saved_us = micros(info.saved());
            record.hedged = info.hedged();
        }
        record
    }

    /// The server's address, if it was asked for a cookie on a connection of this request's own.
    pub(super) fn without_cookie(&self) -> Option<SocketAddr> {
        let asked = !self.reused && self.reason == Some(Reason::NoCookie.as_str());
        self.remote_addr.filter(|_| asked)
    }

    /// For people.
    pub(super) fn line(&self, number: Option<u32>) -> String {
        let number = number.map(|number| format!("#{number:<3} ")).unwrap_or_default();
        let status = self.phrase();
        let elapsed = millis(Duration::from_micros(self.elapsed_us));
        let body = bytes(self.body_bytes.unwrap_or_default());
        format!("{number}{status}  {body:>8}  {elapsed:>9}  {}", self.story())
    }

    /// `200 OK`, or the number where there is no phrase.
    fn phrase(&self) -> String {
        let status = self.status.and_then(|status| StatusCode::from_u16(status).ok());
        status.map(|status| status.to_string().replace("<unknown status code>", "")).unwrap_or_default()
    }

    /// What rode, what was saved, and why not.
    fn story(&self) -> String {
        if self.reused {
            return "on the connection of an earlier request: no handshake".to_owned();
        }
        let why = self.why.as_deref().unwrap_or("unknown");
        let sent = match (self.syn_data_bytes, self.first_flight_bytes) {
            (None | Some(0), _) => return format!("nothing in the SYN, nothing saved: {why}"),
            (Some(sent), Some(whole)) if sent < whole => format!("{sent} of {whole} bytes in the SYN"),
            (Some(sent), _) => format!("request in the SYN ({sent} bytes)"),
        };
        match self.saved_rtts {
            0 => format!("{sent}, nothing saved: {why}"),
            _ => format!("{sent}, saved 1 round trip ({})", saved(Duration::from_micros(self.saved_us))),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            status: Some(200),
            body_bytes: Some(5),
            elapsed_us: 50_940,
            syn_data_bytes: Some(84),
            first_flight_bytes: Some(84),
            saved_rtts: 1,
            saved_us: 50_310,
            ..Record::default()
        }
    }

    #[test]
    fn a_line_says_what_rode_and_what_was_saved() {
        let ride = record();
        assert_eq!(
            ride.line(Some(2)),
            "#2   200 OK       5 B    50.9 ms  request in the SYN (84 bytes), saved 1 round trip (50.3 ms)"
        );
        let near = Record { saved_us: 21, ..record() };
        assert!(near.story().ends_with("saved 1 round trip (under 0.1 ms)"));
        assert!(ride.line(None).starts_with("200 "));
    }

    #[test]
    fn and_why_not() {
        let why = Some("too large".to_owned());
        let part = Record { first_flight_bytes: Some(3000), saved_rtts: 0, saved_us: 0, why, ..record() };
        assert_eq!(part.story(), "84 of 3000 bytes in the SYN, nothing saved: too large");
        let why = Some("no cookie".to_owned());
        let first = Record { syn_data_bytes: Some(0), saved_rtts: 0, saved_us: 0, why, ..record() };
        assert_eq!(first.story(), "nothing in the SYN, nothing saved: no cookie");
        let again = Record { reused: true, saved_rtts: 0, saved_us: 0, ..record() };
        assert_eq!(again.story(), "on the connection of an earlier request: no handshake");
    }
}
