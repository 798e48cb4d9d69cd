//! The counters as Prometheus reads them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::ServerHandle;

/// The type of [`ServerHandle::prometheus`]'s text, for `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl ServerHandle {
    /// All counters of this server and of its listeners as text (OpenMetrics 1.0, which Prometheus reads).
    ///
    /// | name | type | labels | what |
    /// |---|---|---|---|
    /// | `tfo_connections_open` | gauge | | connections that are open |
    /// | `tfo_connections_accepted_total` | counter | `outcome`: `plain`, `cookie_only`, `syn_data`, `unknown` | accepted connections by what became of TCP Fast Open |
    /// | `tfo_connections_total` | counter | `protocol`: `http1`, `http2` | connections by what they speak |
    /// | `tfo_connections_at_once_total` | counter | | answered without the reactor |
    /// | `tfo_responses_total` | counter | `status`: `1xx` to `5xx` | answers of the service, and 408 and 413 of the limits |
    /// | `tfo_refused_total` | counter | `limit`: `connections`, `header_size`, `malformed`, `header_timeout`, `idle_timeout`, `body_size`, `body_rate`, `write_timeout` | what limits have refused |
    /// | `tfo_gate_gated_total` | counter | | connections of which something was withheld |
    /// | `tfo_gate_withheld` | gauge | | those of which something is withheld now |
    /// | `tfo_gate_disproven_total` | counter | `reason`: `reset`, `deadline`, `closed` | connections that were not proven |
    /// | `tfo_proofs_total` | counter | | proofs that were waited for |
    /// | `tfo_proof_seconds_total` | counter | | how long, all together |
    /// | `tfo_accept_no_resources_total` | counter | | no descriptor or memory for a connection |
    pub fn prometheus(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

/// For a registry of one's own.
impl Collector for ServerHandle {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (stats, listeners) = (self.stats(), self.listener_stats());
        let (outcomes, gate, refused) = (listeners.outcomes, listeners.gate, stats.refused);
        gauge(&mut encoder, "tfo_connections_open", "Connections that are open", self.open_connections())?;
        family(
            &mut encoder,
            "tfo_connections_accepted",
            "Accepted connections by TCP Fast Open outcome",
            "outcome",
            &[
                ("plain", outcomes.plain),
                ("cookie_only", outcomes.cookie_only),
                ("syn_data", outcomes.syn_data),
                ("unknown", outcomes.unknown),
            ],
        )?;
        family(
            &mut encoder,
            "tfo_connections",
            "Connections by protocol",
            "protocol",
            &[("http1", stats.http1), ("http2", stats.http2)],
        )?;
        counter(
            &mut encoder,
            "tfo_connections_at_once",
            "Connections answered without the reactor",
            stats.at_once,
        )?;
        let [s1, s2, s3, s4, s5] = stats.statuses;
        let statuses = [("1xx", s1), ("2xx", s2), ("3xx", s3), ("4xx", s4), ("5xx", s5)];
        family(&mut encoder, "tfo_responses", "Responses by status", "status", &statuses)?;
        family(
            &mut encoder,
            "tfo_refused",
            "What limits have refused",
            "limit",
            &[
                ("connections", refused.connections),
                ("header_size", refused.header_size),
                ("malformed", refused.malformed),
                ("header_timeout", refused.header_timeout),
                ("idle_timeout", refused.idle_timeout),
                ("body_size", refused.body_size),
                ("body_rate", refused.body_rate),
                ("write_timeout", refused.write_timeout),
            ],
        )?;
        counter(&mut encoder, "tfo_gate_gated", "Connections of which something was withheld", gate.gated)?;
        gauge(
            &mut encoder,
            "tfo_gate_withheld",
            "Connections of which something is withheld",
            gate.withheld,
        )?;
        family(
            &mut encoder,
            "tfo_gate_disproven",
            "Connections that were not proven",
            "reason",
            &[("reset", gate.reset), ("deadline", gate.deadline), ("closed", gate.closed)],
        )?;
        counter(&mut encoder, "tfo_proofs", "Proofs that were waited for", listeners.proofs.count)?;
        let seconds = listeners.proofs.total.as_secs_f64();
        counter(&mut encoder, "tfo_proof_seconds", "Time that was waited for proofs", seconds)?;
        let no_resources = listeners.limits.no_resources;
        counter(
            &mut encoder,
            "tfo_accept_no_resources",
            "No descriptor or memory for a connection",
            no_resources,
        )
    }
}

fn counter<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: N) -> fmt::Result
where
    ConstCounter<N>: EncodeMetric,
{
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> fmt::Result {
    let mut family: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    values.iter().try_for_each(|(value, count)| {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::server::control::Control;

    #[test]
    fn every_name_is_in_the_table() {
        let text = ServerHandle(Arc::new(Control::new(1))).prometheus();
        let source = include_str!("prometheus.rs");
        let mut samples = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(source.contains(&format!("/// | `{name}` |")), "{line}");
            samples += 1;
        }
        assert_eq!(samples, 29, "{text}");
        assert!(text.contains("tfo_refused_total{limit=\"body_size\"} 0\n"), "{text}");
    }
}
