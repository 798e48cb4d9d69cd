//! What a connection costs: CPU time of client and server, and their sum, on loopback.
//!
//! Client and server share one processor, so their figures repeat well; soft interrupts run in
//! whoever sends, so the sum is what the machine pays.

mod clients;
mod syscalls;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tfo_core::Counters;
use tfo_lab::{Host, Lab};

use crate::process::{Cpus, Process};
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress, our_command};
use crate::server::BACKLOG;
use crate::servers::{ALONE, Servers, Subject, loopback, nginx_workers_config};
use crate::stats::Figure;

/// A wider middle half than this share of the median is noise.
const NOISE: f64 = 0.25;
/// Fewer rides than this share of all connections, and the figure is of something else.
const RIDES: f64 = 0.95;
/// For the last connection's close.
const SETTLE: Duration = Duration::from_millis(3);
const SERVER_CPU: &str = "server CPU";
const CLIENT_CPU: &str = "client CPU";
const SYSTEM_CALLS: &str = "system calls";
const SYSTEM_CALLS_OF_CLIENTS: &str = "system calls of a client";

/// Runs the set.
pub fn run(effort: Effort, progress: &Progress) -> Vec<Entry> {
    match loopback().and_then(|lab| all(&lab, effort, progress)) {
        Ok(entries) => entries,
        Err(why) => {
            let missing =
                |what| Entry::new(Set::ConnectionCost, what, "tfo-http", "µs", Figure::missing(&*why));
            [SERVER_CPU, CLIENT_CPU, SYSTEM_CALLS].map(missing).into()
        }
    }
}

fn all(lab: &Lab, effort: Effort, progress: &Progress) -> Result<Vec<Entry>, String> {
    let host = lab.host("loop");
    let servers = Servers::start(&host)?;
    let mut entries = Vec::new();
    let concurrencies: &[usize] = match effort {
        Effort::Smoke => &[1],
        Effort::Quick => &[1, 100],
        Effort::Full => &[1, 10, 100, 1000, 10_000],
    };
    let (rounds, connections) = match effort {
        Effort::Smoke => (2, 20),
        Effort::Quick => (30, 150),
        Effort::Full => (40, 400),
    };
    let steps = concurrencies.len() + 6;
    progress.begin("connection_cost", (steps * (rounds + 1)) as u64);
    let mut raw = Process::role(&host, Cpus::One, &["client", "--kind", "raw"])?;
    for &concurrency in concurrencies {
        for keep_alive in [false, true] {
            if keep_alive && concurrency != 1 {
                continue;
            }
            let subjects: Vec<_> = servers.answering(keep_alive).collect();
            let plan = Plan { rounds, connections: connections.max(concurrency), concurrency, rides: true };
            let measured = rounds_of_servers(&host, &mut raw, &subjects, &plan, progress);
            let names: Vec<_> = subjects.iter().map(|subject| subject.name).collect();
            for entry in against(SERVER_CPU, &names, measured, &["nginx", "naive hyper", "haproxy"]) {
                entries.push(
                    entry
                        .case("keep-alive", if keep_alive { "on" } else { "off" })
                        .case("concurrency", concurrency),
                );
            }
        }
    }
    entries.extend(file_costs(
        &host,
        &servers,
        &mut raw,
        &Plan { rounds, connections, concurrency: 1, rides: true },
        progress,
    ));
    let sixteen = Plan { rounds, connections, concurrency: 16.min(connections), rides: false };
    entries.extend(plain_costs(&host, &servers, &sixteen, progress)?);
    entries.extend(clients::costs(&host, &servers, rounds, connections, progress)?);
    let sixteen = Plan { rides: true, ..sixteen };
    entries.extend(worker_costs(&host, &servers, &mut raw, &sixteen, progress));
    entries.extend(syscalls::counts(&servers, &mut raw));
    Ok(entries)
}

/// How much is measured at once.
struct Plan {
    rounds: usize,
    connections: usize,
    concurrency: usize,
    /// Whether the requests ride in the SYN.
    rides: bool,
}

/// The samples of one subject, or why there are none.
type Samples = Result<Vec<f64>, String>;

/// Microseconds of server time per connection; in each round every server once, each time another first.
fn rounds_of_servers(
    host: &Host,
    load: &mut Process,
    subjects: &[Subject<'_>],
    plan: &Plan,
    progress: &Progress,
) -> Vec<Samples> {
    let mut samples: Vec<Samples> = subjects
        .iter()
        .map(|subject| subject.process.as_ref().map(|_| Vec::new()).map_err(Clone::clone))
        .collect();
    for round in 0..=plan.rounds {
        for at in 0..subjects.len() {
            let at = (at + round) % subjects.len();
            let Ok(taken) = &mut samples[at] else { continue };
            let one = server_sample(host, load, &subjects[at], plan);
            // The first round fetches cookies and warms up.
            match one {
                Ok(_) if round == 0 => {}
                Ok(one) => taken.push(one),
                Err(why) => samples[at] = Err(why),
            }
        }
        progress.step();
    }
    samples
}

fn server_sample(host: &Host, load: &mut Process, subject: &Subject<'_>, plan: &Plan) -> Result<f64, String> {
    let server = subject.process.as_ref().map_err(Clone::clone)?;
    ask_for(load, subject, 3, 1)?;
    let rides = rides(host)?;
    let before = server.cpu()?;
    ask_for(load, subject, plan.connections, plan.concurrency)?;
    thread::sleep(SETTLE);
    let spent = server.cpu()? - before;
    must_have_ridden(host, &rides, plan.connections, plan.rides)?;
    Ok(micros(spent) / plan.connections as f64)
}

fn ask_for(load: &mut Process, of: &Subject<'_>, count: usize, concurrency: usize) -> Result<(), String> {
    let answered = load.ask(&format!("get {} {} {count} {concurrency}", of.address, of.path))?;
    match answered.parse() == Ok(count) {
        true => Ok(()),
        false => Err(format!("only {answered} of {count} requests were answered")),
    }
}

fn rides(host: &Host) -> Result<Counters, String> {
    host.run(Counters::read).map_err(|error| error.to_string())
}

/// Whether the figure is of what it shall be of: connections that rode, or that did not.
fn must_have_ridden(host: &Host, before: &Counters, connections: usize, rides: bool) -> Result<(), String> {
    let rode = self::rides(host)?.since(before).passive.unwrap_or_default() as f64 / connections as f64;
    match rides {
        true if rode < RIDES => Err(format!("only {:.0} % of the requests rode in the SYN", rode * 100.0)),
        false if rode > 1.0 - RIDES => Err(format!("{:.0} % of the requests rode in the SYN", rode * 100.0)),
        _ => Ok(()),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A figure for each subject, and its ratios to some of the others.
fn against(what: &str, names: &[&str], samples: Vec<Samples>, others: &[&str]) -> Vec<Entry> {
    let by_name: BTreeMap<_, _> = names.iter().copied().zip(&samples).collect();
    names
        .iter()
        .zip(&samples)
        .map(|(name, taken)| {
            let value = match taken {
                Ok(taken) => Figure::of(taken, NOISE),
                Err(why) => Figure::missing(why),
            };
            let mut entry = Entry::new(Set::ConnectionCost, what, name, "µs", value);
            for other in others.iter().filter(|other| *other != name) {
                let ratio = match (taken, by_name.get(other)) {
                    (Ok(ours), Some(Ok(theirs))) => Figure::ratio(ours, theirs),
                    (Err(why), _) | (_, Some(Err(why))) => Figure::missing(why),
                    (_, None) => continue,
                };
                entry = entry.ratio(other, ratio);
            }
            entry
        })
        .collect()
}

/// Of connections without TCP Fast Open, whose requests come when they were accepted.
fn plain_costs(
    host: &Host,
    servers: &Servers,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Entry>, String> {
    let mut load = Process::role(host, Cpus::One, &["client", "--kind", "raw-plain"])?;
    let mut entries = Vec::new();
    for keep_alive in [false, true] {
        // Those that wait for a request.
        let subjects: Vec<_> =
            servers.answering(keep_alive).filter(|subject| subject.name != ALONE).collect();
        let measured = rounds_of_servers(host, &mut load, &subjects, plan, progress);
        let names: Vec<_> = subjects.iter().map(|subject| subject.name).collect();
        for entry in against("server CPU, plain connections", &names, measured, &["nginx", "naive hyper"]) {
            entries.push(entry.case("keep-alive", if keep_alive { "on" } else { "off" }));
        }
    }
    Ok(entries)
}

/// A small file, with keep-alive on: the command beside nginx.
fn file_costs(
    host: &Host,
    servers: &Servers,
    raw: &mut Process,
    plan: &Plan,
    progress: &Progress,
) -> Vec<Entry> {
    let address = SocketAddr::from(([127, 0, 0, 1], 8009));
    let root = servers.directory.path().to_string_lossy().into_owned();
    let queue = BACKLOG.to_string();
    let process = our_command().and_then(|command| {
        let listen = "0.0.0.0:8009";
        let args = ["serve", "--listen", listen, "--root", &root, "--fastopen-queue", &queue];
        let args: Vec<_> = args.map(str::to_owned).into();
        Process::listening(host, Cpus::One, &command.to_string_lossy(), &args, address)
    });
    let ours = Subject { name: "tfo serve", process: &process, address, path: "/file" };
    let nginx = servers.answering(true).find(|subject| subject.name == "nginx");
    let subjects: Vec<_> =
        [Some(ours), nginx.map(|nginx| Subject { path: "/file", ..nginx })].into_iter().flatten().collect();
    let measured = rounds_of_servers(host, raw, &subjects, plan, progress);
    let names: Vec<_> = subjects.iter().map(|subject| subject.name).collect();
    let entries = against("server CPU, a small file", &names, measured, &["nginx"]);
    entries.into_iter().map(|entry| entry.case("keep-alive", "on")).collect()
}

/// One worker and two, on all processors.
fn worker_costs(
    host: &Host,
    servers: &Servers,
    raw: &mut Process,
    plan: &Plan,
    progress: &Progress,
) -> Vec<Entry> {
    const NAMES: [&str; 4] =
        ["tfo-http-server, 1 worker", "tfo-http-server, 2 workers", "nginx, 1 worker", "nginx, 2 workers"];
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let ours = [("1", 8011), ("2", 8012)].map(|(workers, port)| {
        let listen = format!("0.0.0.0:{port}");
        let args = ["server", "--kind", "ours", "--listen", &listen, "--workers", workers];
        (Process::role(host, Cpus::All, &args), at(port))
    });
    let nginx = [("1", 8013), ("2", 8014)].map(|(workers, port)| {
        let path = servers.directory.path().join(format!("nginx-{workers}"));
        let text = path.to_string_lossy().into_owned();
        let config = nginx_workers_config(&text, port, workers);
        let file = path.join("conf");
        let written = fs::create_dir(&path).and_then(|()| fs::write(&file, config));
        let args = ["-e", "stderr", "-c", &*file.to_string_lossy()].map(str::to_owned);
        let process = written
            .map_err(|error| format!("{text}: {error}"))
            .and_then(|()| Process::listening(host, Cpus::All, "nginx", &args, at(port)));
        (process, at(port))
    });
    let started: Vec<_> = ours.into_iter().chain(nginx).collect();
    let subjects: Vec<_> = NAMES
        .iter()
        .zip(&started)
        .map(|(name, (process, address))| Subject { name, process, address: *address, path: "/" })
        .collect();
    let measured = rounds_of_servers(host, raw, &subjects, plan, progress);
    let entries = against("server CPU, workers", &NAMES, measured, &[NAMES[0], NAMES[2], NAMES[3]]);
    entries.into_iter().map(|entry| entry.case("concurrency", plan.concurrency)).collect()
}
