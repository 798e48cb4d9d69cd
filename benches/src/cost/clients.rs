//! What clients cost, all with the same server.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use tfo_lab::Host;

use super::{CLIENT_CPU, SETTLE, Samples, against, ask_for, micros, must_have_ridden, syscalls};
use crate::process::{Cpus, Process};
use crate::result::Entry;
use crate::run::{Progress, is_installed};
use crate::servers::{Servers, Subject};

/// Those that do without TCP Fast Open.
const PLAIN: [&str; 2] = ["tfo-http, off", "HttpConnector"];

/// Client, server and both, of each client with the same server.
pub(super) fn costs(
    host: &Host,
    servers: &Servers,
    rounds: usize,
    connections: usize,
    progress: &Progress,
) -> Result<Vec<Entry>, String> {
    let mut clients = clients(host);
    // The server that others know, where it is installed.
    let found = |wanted| servers.answering(false).find(|one| one.name == wanted && one.process.is_ok());
    let server = found("nginx").or_else(|| found("naive hyper")).ok_or("there is no server")?;
    let names: Vec<_> = clients.iter().map(|(name, _)| *name).chain(["wrk, plain"]).collect();
    let wrk_rounds = if rounds < 40 { rounds.min(8) } else { rounds };
    let mut samples: Vec<Result<Vec<[f64; 2]>, String>> = names.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..=rounds {
        for at in 0..names.len() {
            let at = (at + round) % names.len();
            let Ok(taken) = &mut samples[at] else { continue };
            let one = match clients.get_mut(at) {
                Some((_, Ok(client))) => {
                    let rides = !PLAIN.contains(&names[at]);
                    client_sample(host, client, &server, rides, connections)
                }
                Some((_, Err(why))) => Err(why.clone()),
                // It takes a second each time.
                None if round > wrk_rounds => continue,
                None => wrk_sample(host, &server),
            };
            match one {
                Ok(_) if round == 0 => {}
                Ok(one) => taken.push(one),
                Err(why) => samples[at] = Err(why),
            }
        }
        progress.step();
    }
    let others = ["HttpConnector", "tokio-tfo", "wrk, plain"];
    let of = |pick: fn(&[f64; 2]) -> f64| -> Vec<Samples> {
        samples
            .iter()
            .map(|taken| taken.as_ref().map(|taken| taken.iter().map(pick).collect()).map_err(Clone::clone))
            .collect()
    };
    let mut entries = Vec::new();
    type Part = (&'static str, fn(&[f64; 2]) -> f64);
    let parts: [Part; 3] = [
        (CLIENT_CPU, |[client, _]| *client),
        ("CPU of that server", |[_, server]| *server),
        ("CPU of both", |[client, server]| client + server),
    ];
    for (what, pick) in parts {
        entries.extend(
            against(what, &names, of(pick), &others)
                .into_iter()
                .map(|entry| entry.case("server", server.name)),
        );
    }
    for (name, client) in &mut clients {
        if let Ok(client) = client {
            entries.push(syscalls::count_client(client, name, &server));
        }
    }
    Ok(entries)
}

/// The clients that can be measured.
fn clients(host: &Host) -> Vec<(&'static str, Result<Process, String>)> {
    [
        ("tfo-http", "ours"),
        ("tfo-http, off", "ours-plain"),
        ("HttpConnector", "http-connector"),
        ("tokio-tfo", "tokio-tfo"),
        ("blocking sockets, TFO", "raw"),
    ]
    .map(|(name, kind)| (name, Process::role(host, Cpus::One, &["client", "--kind", kind])))
    .into()
}

fn client_sample(
    host: &Host,
    client: &mut Process,
    subject: &Subject<'_>,
    rides: bool,
    connections: usize,
) -> Result<[f64; 2], String> {
    let server = subject.process.as_ref().map_err(Clone::clone)?;
    ask_for(client, subject, 3, 1)?;
    thread::sleep(SETTLE);
    let counted = super::rides(host)?;
    let before = (client.cpu()?, server.cpu()?);
    ask_for(client, subject, connections, 1)?;
    thread::sleep(SETTLE);
    let after = (client.cpu()?, server.cpu()?);
    must_have_ridden(host, &counted, connections, rides)?;
    let each = |spent: Duration| micros(spent) / connections as f64;
    Ok([each(after.0 - before.0), each(after.1 - before.1)])
}

/// wrk runs for a time, not for a count, and only without TCP Fast Open.
fn wrk_sample(host: &Host, subject: &Subject<'_>) -> Result<[f64; 2], String> {
    let server = subject.process.as_ref().map_err(Clone::clone)?;
    let used = || getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| error.to_string());
    let total = |usage: Usage| {
        let [user, system] = [usage.user_time(), usage.system_time()];
        (user.tv_sec() + system.tv_sec()) as f64 * 1e6 + (user.tv_usec() + system.tv_usec()) as f64
    };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0", "wrk", "-t1", "-c1", "-d1s", "-H", "Connection: close"]);
    command.arg(format!("http://{}/", subject.address)).stdin(Stdio::null()).stderr(Stdio::null());
    if !is_installed("wrk") {
        return Err("wrk is not installed".to_owned());
    }
    let before = (total(used()?), server.cpu()?);
    let output = host.run(|| command.output()).map_err(|error| format!("wrk does not start: {error}"))?;
    thread::sleep(SETTLE);
    let after = (total(used()?), server.cpu()?);
    let text = String::from_utf8_lossy(&output.stdout);
    let requests =
        text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok());
    let requests = requests.filter(|requests| *requests > 0.0).ok_or("wrk counted no requests")?;
    Ok([(after.0 - before.0) / requests, micros(after.1 - before.1) / requests])
}
