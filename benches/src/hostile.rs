//! What paths that mistreat TCP Fast Open cost: the first two requests after a path has turned bad, and
//! those that follow. Ours beside plain TCP and the kernel alone, by curl.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tfo_http::{SynData, TfoConnector};
use tfo_lab::{
    BlackholeAnswers, BlackholeClient, CorruptCookie, DelayFastOpen, DropDataSynAck, DropFastOpen,
    DropNthSyn, DropSynData, Lab, ProxySynData, Reorder, ResetSyn, RewriteSynAck, RotateClient,
    StripFastOpen, StripSynData,
};

use crate::process::{Cpus, Process};
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress};
use crate::stats::Figure;

/// Between client and server.
const RTT: Duration = Duration::from_millis(20);
/// Longer than the kernel's first retransmissions take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the second request and those behind it differ in is of interest: a spread is no noise here.
const NOISE: f64 = f64::INFINITY;
/// Labs at a time: they mostly wait.
const LANES: usize = 3;
const PARTS: [&str; 3] = ["first request", "second request", "following requests"];
const WHO: [&str; 3] = ["plain", "tfo-http", "curl --tcp-fastopen"];

/// A path, and how it is made bad.
type Path = (&'static str, fn(&Lab) -> Result<(), String>);

macro_rules! behind {
    ($middlebox:expr) => {
        |lab| {
            lab.middlebox($middlebox);
            Ok(())
        }
    };
}

/// The behaviours, the commonest first.
const PATHS: [Path; 16] = [
    ("none", |_| Ok(())),
    ("SYN data dropped", behind!(DropSynData::new())),
    ("option dropped", behind!(DropFastOpen::new().experimental())),
    ("data SYN-ACK dropped", behind!(DropDataSynAck::new())),
    ("answers blackholed", behind!(BlackholeAnswers::new())),
    ("client blackholed", behind!(BlackholeClient::new().per_pair().lasting(Duration::from_millis(400)))),
    ("data delayed", behind!(DelayFastOpen::by(Duration::from_millis(400)))),
    ("SYN-ACK lies", |lab| {
        lab.host("server").set_fastopen(1).map_err(|error| error.to_string())?;
        lab.middlebox(RewriteSynAck::claiming_data());
        Ok(())
    }),
    ("RST to SYN data", behind!(ResetSyn::with_data())),
    ("option stripped", behind!(StripFastOpen::new().experimental())),
    ("payload stripped", behind!(StripSynData::new())),
    ("cookie corrupted", behind!(CorruptCookie::new())),
    (
        "new address each time",
        behind!(RotateClient::new((1..=4).map(|n| IpAddr::V4(Ipv4Addr::new(10, 1, 0, n))))),
    ),
    ("proxy", behind!(ProxySynData::new())),
    ("every second SYN dropped", behind!(DropNthSyn::every(2))),
    ("reordering", behind!(Reorder::one_of_every(4, Duration::from_millis(5), 7))),
];

/// Runs the set.
pub fn run(effort: Effort, progress: &Progress) -> Vec<Entry> {
    let (paths, repeats, visits) = match effort {
        Effort::Smoke => (&PATHS[..2], 1, 3),
        Effort::Quick => (&PATHS[..6], 1, 5),
        Effort::Full => (&PATHS[..], 7, 8),
    };
    // Interleaved: all behaviours and clients once, then again.
    let jobs: Vec<_> = (0..repeats)
        .flat_map(|_| (0..paths.len()).flat_map(|path| (0..WHO.len()).map(move |who| (path, who))))
        .collect();
    progress.begin("hostile", jobs.len() as u64);
    let results = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(&(path, who)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let times = measure(paths[path], who, visits);
                    if let Ok(mut results) = results.lock() {
                        results.push((path, who, times));
                    }
                    progress.step();
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    let mut entries = Vec::new();
    for (at, (name, _)) in paths.iter().enumerate() {
        for (part, what) in PARTS.iter().enumerate() {
            for (who, subject) in WHO.iter().enumerate() {
                let taken: Result<Vec<_>, &String> = results
                    .iter()
                    .filter(|(path, client, _)| (*path, *client) == (at, who))
                    .map(|(.., times)| times.as_ref().map(|times| of_part(times, part)))
                    .collect();
                let value = match taken {
                    Ok(taken) => Figure::of(&taken.concat(), NOISE),
                    Err(why) => Figure::missing(why),
                };
                let entry = Entry::new(Set::Hostile, what, subject, "ms", value);
                entries.push(entry.case("path", name).case("RTT ms", RTT.as_millis()));
            }
        }
    }
    entries
}

fn of_part(times: &[f64], part: usize) -> Vec<f64> {
    match part {
        0 | 1 => times.get(part).copied().into_iter().collect(),
        _ => times.get(2..).unwrap_or_default().to_vec(),
    }
}

/// One visit to learn the cookie, then the path turns bad, then so many visits: milliseconds of each.
fn measure((_, build): Path, who: usize, visits: usize) -> Result<Vec<f64>, String> {
    let lab = Lab::builder().rtt(RTT).tap_limit(0).build().map_err(|error| format!("no lab: {error}"))?;
    let (client, server) = (lab.host("client"), lab.host("server"));
    let address = server.addr(80);
    let _server =
        Process::role(&server, Cpus::All, &["server", "--kind", "ours", "--listen", &address.to_string()])?;
    let mut connector = TfoConnector::new();
    connector.set_syn_data(if who == 0 { SynData::Never } else { SynData::SafeMethods });
    let uri: Uri = format!("http://{address}/").parse().map_err(|error| format!("{error}"))?;
    client.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let visit = |connector: TfoConnector| {
            let get = get(connector, uri.clone());
            runtime.block_on(async {
                tokio::spawn(get).await.unwrap_or_else(|_| Err("the client failed".to_owned()))
            })
        };
        // A connector of its own: ours comes to a path that it knows nothing of, with a cookie in the kernel.
        visit(TfoConnector::new())?;
        build(&lab)?;
        (0..visits)
            .map(|_| match who {
                2 => curl(&uri),
                _ => visit(connector.clone()),
            })
            .collect()
    })
}

async fn get(connector: TfoConnector, uri: Uri) -> Result<f64, String> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let begun = Instant::now();
    let request = async {
        let response = client.get(uri).await.map_err(|error| format!("{error:?}"))?;
        response.into_body().collect().await.map_err(|error| format!("{error:?}"))
    };
    tokio::time::timeout(PATIENCE, request).await.map_err(|_| format!("no answer within {PATIENCE:?}"))??;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

fn curl(uri: &Uri) -> Result<f64, String> {
    if !crate::run::is_installed("curl") {
        return Err("curl is not installed".to_owned());
    }
    let output = Command::new("curl")
        .args([
            "--silent",
            "--fail",
            "--output",
            "/dev/null",
            "--write-out",
            "%{time_total}",
            "--tcp-fastopen",
        ])
        .args(["--max-time", &PATIENCE.as_secs().to_string(), &uri.to_string()])
        .output()
        .map_err(|error| format!("curl: {error}"))?;
    let seconds = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().ok();
    match (output.status.success(), seconds) {
        (true, Some(seconds)) => Ok(seconds * 1000.0),
        _ if output.status.code() == Some(28) => Err(format!("curl got no answer within {PATIENCE:?}")),
        _ => Err(format!("curl failed: {}", output.status)),
    }
}
