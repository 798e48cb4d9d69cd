//! Where the demo's client and server live: in a lab, or on this machine's loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tfo_lab::{Flow, Lab};

use super::visits::{Packets, Visit};
use crate::failure::{Code, Failure};

/// How long the packets may take to come to rest, and what rest is.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(50));

/// A client, a server, and what is between them.
#[derive(Debug)]
pub(super) enum Network {
    /// Two hosts of their own.
    Lab(Lab),
    /// This machine twice.
    Loopback,
}

/// Where the visits took place.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A network of their own, so far apart.
    Lab { rtt: Duration },
    /// This machine's loopback, because no lab could be made.
    Loopback { why: String },
}

impl Place {
    /// The round-trip time, where there is one to speak of.
    pub(super) fn rtt(&self) -> Option<Duration> {
        match self {
            Self::Lab { rtt } => Some(*rtt),
            Self::Loopback { .. } => None,
        }
    }
}

impl Network {
    /// What the server listens on.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Lab(lab) => lab.host("server").addr(80),
            Self::Loopback => (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }

    /// Runs the server's side on a thread of its own.
    pub(super) fn spawn_server<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self {
            Self::Lab(lab) => lab.host("server").spawn(run),
            Self::Loopback => thread::spawn(run),
        }
    }

    /// Runs the client's side.
    pub(super) fn run_client<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Lab(lab) => lab.host("client").run(run),
            Self::Loopback => run(),
        }
    }

    /// Adds to each visit what the tap has seen of it.
    pub(super) fn add_packets(&self, visits: &mut [Visit]) -> Result<(), Failure> {
        let Self::Lab(lab) = self else { return Ok(()) };
        let tap = lab.tap();
        if !tap.wait_quiet(REST.1, REST.0) {
            return Err(Failure::new(Code::General, "the private network does not come to rest"));
        }
        let flows: HashMap<_, _> = tap.flows().into_iter().map(|flow| (flow.client(), flow)).collect();
        for visit in visits {
            visit.packets = visit.local_addr.and_then(|local| flows.get(&local)).map(packets);
        }
        Ok(())
    }
}

fn packets(flow: &Flow) -> Packets {
    Packets {
        syn_data_bytes: flow.syn().payload().len(),
        syn_data_acked_bytes: flow.syn_data_acked(),
        delivered_in_syn: flow.request_delivered_in_syn(),
        answered_early: flow.answered_before_any_further_client_packet(),
    }
}
