//! Requests through the connector and hyper-util's client, and what the tap saw of each.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::http::Extensions;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, capture_connection};
use hyper_util::rt::TokioExecutor;
use tfo_http::{ConnInfo, ConnectError, SynData, TfoConnector, connect_error};
use tfo_lab::{End, Flow, Host};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::paths::{KINDS, Kind, Net, Plain};

/// One request.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) path: String,
    /// `None` if the connector gave no connection at all.
    pub(crate) info: Option<ConnInfo>,
    pub(crate) result: Result<(), String>,
    /// It failed, and may have been executed.
    pub(crate) maybe_executed: bool,
    /// By the tap's clock.
    pub(crate) begun: Duration,
    pub(crate) ended: Duration,
}

impl Visit {
    /// What the client says, as `docs/outcomes.md` has it.
    pub(crate) fn client(&self) -> String {
        let Some(info) = &self.info else { return "no connection".to_owned() };
        match info.reason() {
            Some(reason) => format!("{} ({})", info.outcome(), reason.as_str()),
            None => info.outcome().to_string(),
        }
    }

    pub(crate) fn hedged(&self) -> bool {
        self.info.as_ref().is_some_and(ConnInfo::hedged)
    }

    /// Its connections among `flows`, as the client has them: a path that translates addresses makes others of
    /// them.
    pub(crate) fn flows<'a>(&self, flows: &'a [Flow]) -> Vec<&'a Flow> {
        let ours = |flow: &&Flow| {
            let first = flow.records().first();
            first.is_some_and(|first| {
                first.end() == End::Sent
                    && first.host() == "client"
                    && (self.begun..=self.ended).contains(&first.time())
            })
        };
        flows.iter().filter(ours).collect()
    }

    /// From its first SYN to the first byte of an answer; `None` without one.
    pub(crate) fn took(&self, flows: &[Flow]) -> Option<Duration> {
        let flows = self.flows(flows);
        let begun = flows.first()?.records().first()?.time();
        let answers = flows.iter().filter_map(|flow| flow.first_response_byte_received());
        answers.map(|answer| answer.time().saturating_sub(begun)).min()
    }
}

/// Runs `work` with a runtime in the host.
pub(crate) fn on_client<T: Send>(client: &Host, work: impl FnOnce(&Runtime) -> T + Send) -> T {
    client.run(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        work(&builder.enable_all().build().expect("a runtime"))
    })
}

/// One request of this kind, on a connection of its own.
pub(crate) async fn visit<C: Connect + Clone + Send + Sync + 'static>(
    net: &Net,
    connector: &C,
    kind: &Kind,
    name: &str,
) -> Visit {
    let tap = net.lab.tap();
    let mut path = format!("/{name}/");
    path.extend(std::iter::repeat_n('x', kind.length.saturating_sub(path.len())));
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector.clone());
    let uri = match net.name {
        Some(name) => format!("http://{name}{path}"),
        None => format!("http://{}{path}", net.addr),
    };
    let request = Request::builder().method(&kind.method).uri(uri).body(Full::from(kind.body));
    let mut request = request.expect("a request");
    let captured = capture_connection(&mut request);
    let begun = tap.now();
    let mut maybe_executed = false;
    let result = timeout(net.patience, async {
        let response = client.request(request).await.map_err(|error| {
            maybe_executed = connect_error(&error).is_some_and(ConnectError::maybe_executed);
            format!("{error:?}")
        })?;
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        match &body.to_bytes()[..] {
            b"hello" => Ok(()),
            other => Err(format!("another answer: {other:?}")),
        }
    });
    let result = result.await.unwrap_or_else(|_| Err(format!("no answer within {:?}", net.patience)));
    let ended = tap.now();
    let mut extensions = Extensions::new();
    if let Some(connected) = captured.connection_metadata().as_ref() {
        connected.get_extras(&mut extensions);
    }
    Visit { path, info: extensions.remove::<ConnInfo>(), result, maybe_executed, begun, ended }
}

/// The first visit, while nothing is in the way; none where the row wants it hostile from the beginning.
pub(crate) fn fetch_cookie(net: &Net) {
    if !net.row.cold {
        let first = on_client(&net.lab.host("client"), |runtime| {
            runtime.block_on(visit(net, &TfoConnector::new(), &KINDS[0], "cookie"))
        });
        first.result.expect("a first visit, before the path is hostile");
    }
}

/// `count` requests, one after the other, by one connector; a cookie is fetched before the path turns bad,
/// and then plain TCP is the control. All are completed with the right bytes, if plain TCP's is, and executed
/// as often as their kind may be.
pub(crate) fn visits(net: &mut Net, kind: &Kind, count: usize, connector: &TfoConnector) -> Vec<Visit> {
    let row = net.row;
    fetch_cookie(net);
    net.turn();
    let mut plain = TfoConnector::new();
    plain.set_syn_data(SynData::Never);
    let net = &*net;
    let visits = on_client(&net.lab.host("client"), |runtime| {
        let control = runtime.block_on(visit(net, &plain, kind, "control"));
        let completes = row.plain != Plain::Fails;
        assert_eq!(control.result.is_ok(), completes, "{}: plain TCP: {:?}", row.name, control.result);
        let one = |number: usize| {
            (row.before)(net, number);
            runtime.block_on(visit(net, connector, kind, &number.to_string()))
        };
        (0..count).map(one).collect::<Vec<_>>()
    });
    let tap = net.lab.tap();
    for visit in &visits {
        let what = || format!("{}, {}: {visit:?}\n{}", row.name, kind.name, tap.ladder());
        let seen = net.executions(&visit.path);
        if row.plain == Plain::Fails {
            assert!(visit.result.is_err() && seen.is_empty(), "plain TCP fails, and this not: {}", what());
            continue;
        }
        assert!(visit.result.is_ok() || kind.may_fail() && visit.maybe_executed, "{}", what());
        assert!(visit.result.is_err() || !seen.is_empty(), "answered, and not executed: {}", what());
        assert!(kind.executed.contains(&seen.len()), "executed {} times: {}", seen.len(), what());
        assert!(seen.iter().all(|seen| seen.method == kind.method && seen.body == kind.body), "{}", what());
    }
    visits
}
