//! What a connection costs: CPU time of client and server, and their sum, on loopback.
//!
//! Client and server share one processor, so their figures repeat well; soft interrupts run in
//! whoever sends, so the sum is what the machine pays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tfo_core::Counters;
use tfo_lab::{Host, Lab};

use crate::process::{Cpus, Process};
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress};
use crate::server;
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

/// A host of its own, whose loopback has room for many connections.
pub(crate) fn loopback() -> Result<Lab, String> {
    let lab = Lab::builder().host("loop").build().map_err(|error| format!("no lab: {error}"))?;
    let host = lab.host("loop");
    for (name, value) in [
        ("net.core.somaxconn", server::BACKLOG.to_string()),
        ("net.ipv4.tcp_max_syn_backlog", server::BACKLOG.to_string()),
        ("net.ipv4.ip_local_port_range", "10000 65535".to_owned()),
    ] {
        host.set_sysctl(name, value).map_err(|error| error.to_string())?;
    }
    Ok(lab)
}

/// A server that can be measured, or why not.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) process: Result<Process, String>,
    /// Without keep-alive, and with.
    pub(crate) addresses: [SocketAddr; 2],
}

/// All servers that are installed, each once without and once with keep-alive.
pub(crate) struct Servers {
    pub(crate) peers: Vec<Peer>,
    /// The peers' configurations, and a small file.
    directory: TempDir,
}

/// One that is measured.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'static str,
    pub(crate) process: &'a Result<Process, String>,
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
}

impl Servers {
    pub(crate) fn start(host: &Host) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut peers = Vec::new();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for (name, kind, ports) in
            [("tfo-http-server", "ours", [8001, 8002]), ("naive hyper", "naive-hyper", [8003, 8004])]
        {
            for (port, keep_alive) in [(ports[0], false), (ports[1], true)] {
                let listen = format!("0.0.0.0:{port}");
                let mut args = vec!["server", "--kind", kind, "--listen", &listen];
                args.extend(keep_alive.then_some("--keep-alive"));
                let process = Process::role(host, Cpus::One, &args);
                peers.push(Peer { name, process, addresses: [at(port), at(port)] });
            }
        }
        let path = directory.path().to_string_lossy().into_owned();
        let write = |name: &str, text: String| {
            let file = directory.path().join(name);
            std::fs::write(&file, text).map_err(|error| error.to_string())?;
            Ok::<_, String>(file.to_string_lossy().into_owned())
        };
        write("file", "hello\n".to_owned())?;
        let nginx = write("nginx.conf", server::nginx(&path, [8005, 8006]))?;
        let haproxy = write("haproxy.cfg", server::haproxy([8007, 8008]))?;
        for (name, args, ports) in [
            ("nginx", ["-e", "stderr", "-c", &nginx].map(str::to_owned).to_vec(), [8005, 8006]),
            ("haproxy", ["-db", "-f", &haproxy].map(str::to_owned).to_vec(), [8007, 8008]),
        ] {
            let process = Process::listening(host, Cpus::One, program(name), &args, at(ports[0]));
            peers.push(Peer { name, process, addresses: ports.map(at) });
        }
        Ok(Self { peers, directory })
    }

    /// Those that answer without keep-alive, or with it: name, process, address.
    pub(crate) fn answering(&self, keep_alive: bool) -> impl Iterator<Item = Subject<'_>> {
        self.peers.iter().filter_map(move |peer| {
            let [off, on] = peer.addresses;
            let own_process = off == on;
            let is_on = off.port().is_multiple_of(2);
            let fits = !own_process || is_on == keep_alive;
            let address = if keep_alive { on } else { off };
            fits.then_some(Subject { name: peer.name, process: &peer.process, address, path: "/" })
        })
    }
}

/// Daemons are not in every user's path.
fn program(name: &str) -> &'static str {
    match name {
        "nginx" if std::path::Path::new("/usr/sbin/nginx").exists() => "/usr/sbin/nginx",
        "nginx" => "nginx",
        _ if std::path::Path::new("/usr/sbin/haproxy").exists() => "/usr/sbin/haproxy",
        _ => "haproxy",
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
    let clients = clients(&host);
    let steps = concurrencies.len() + 4;
    progress.begin("connection_cost", (steps * (rounds + 1)) as u64);
    let mut raw = Process::role(&host, Cpus::One, &["client", "--kind", "raw"])?;
    for &concurrency in concurrencies {
        for keep_alive in [false, true] {
            if keep_alive && concurrency != 1 {
                continue;
            }
            let subjects: Vec<_> = servers.answering(keep_alive).collect();
            let plan = Plan { rounds, connections: connections.max(concurrency), concurrency };
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
        &Plan { rounds, connections, concurrency: 1 },
        progress,
    ));
    entries.extend(client_costs(&host, &servers, clients, rounds, connections, progress)?);
    entries.extend(worker_costs(&host, &mut raw, rounds, connections, progress)?);
    entries.extend(system_calls(&servers, &mut raw));
    Ok(entries)
}

/// How much is measured at once.
struct Plan {
    rounds: usize,
    connections: usize,
    concurrency: usize,
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
    let rode = (rides_since(host, &rides)? as f64) / plan.connections as f64;
    if rode < RIDES {
        return Err(format!("only {:.0} % of the requests rode in the SYN", rode * 100.0));
    }
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

fn rides_since(host: &Host, before: &Counters) -> Result<u64, String> {
    Ok(rides(host)?.since(before).passive.unwrap_or_default())
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

/// Client, server and both, of each client with the same server.
fn client_costs(
    host: &Host,
    servers: &Servers,
    mut clients: Vec<(&'static str, Result<Process, String>)>,
    rounds: usize,
    connections: usize,
    progress: &Progress,
) -> Result<Vec<Entry>, String> {
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
                Some((_, Ok(client))) => client_sample(client, &server, connections),
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
    let parts: [(&str, fn(&[f64; 2]) -> f64); 3] = [
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
    Ok(entries)
}

fn client_sample(
    client: &mut Process,
    subject: &Subject<'_>,
    connections: usize,
) -> Result<[f64; 2], String> {
    let server = subject.process.as_ref().map_err(Clone::clone)?;
    ask_for(client, subject, 3, 1)?;
    thread::sleep(SETTLE);
    let before = (client.cpu()?, server.cpu()?);
    ask_for(client, subject, connections, 1)?;
    thread::sleep(SETTLE);
    let after = (client.cpu()?, server.cpu()?);
    let each = |spent: Duration| micros(spent) / connections as f64;
    Ok([each(after.0 - before.0), each(after.1 - before.1)])
}

/// wrk runs for a time, not for a count, and only without TCP Fast Open.
fn wrk_sample(host: &Host, subject: &Subject<'_>) -> Result<[f64; 2], String> {
    let server = subject.process.as_ref().map_err(Clone::clone)?;
    let used = || {
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)
            .map_err(|error| error.to_string())
    };
    let total = |usage: nix::sys::resource::Usage| {
        let [user, system] = [usage.user_time(), usage.system_time()];
        (user.tv_sec() + system.tv_sec()) as f64 * 1e6 + (user.tv_usec() + system.tv_usec()) as f64
    };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0", "wrk", "-t1", "-c1", "-d1s", "-H", "Connection: close"]);
    command.arg(format!("http://{}/", subject.address)).stdin(Stdio::null()).stderr(Stdio::null());
    if !crate::run::is_installed("wrk") {
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
    let queue = server::BACKLOG.to_string();
    let command = std::env::current_exe().map(|this| this.with_file_name("tfo")).unwrap_or_default();
    let process = match command.is_file() {
        false => Err("the command is not there: cargo build --release -p tfo-cli".to_owned()),
        true => {
            let listen = "0.0.0.0:8009";
            let args = ["serve", "--listen", listen, "--root", &root, "--fastopen-queue", &queue];
            let args: Vec<_> = args.map(str::to_owned).into();
            Process::listening(host, Cpus::One, &command.to_string_lossy(), &args, address)
        }
    };
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
    raw: &mut Process,
    rounds: usize,
    connections: usize,
    progress: &Progress,
) -> Result<Vec<Entry>, String> {
    const NAMES: [&str; 2] = ["tfo-http-server, 1 worker", "tfo-http-server, 2 workers"];
    let started = [("1", 8011_u16), ("2", 8012)].map(|(workers, port)| {
        let listen = format!("0.0.0.0:{port}");
        let args = ["server", "--kind", "ours", "--listen", &listen, "--workers", workers];
        (Process::role(host, Cpus::All, &args), SocketAddr::from(([127, 0, 0, 1], port)))
    });
    let subjects: Vec<_> = NAMES
        .iter()
        .zip(&started)
        .map(|(name, (process, address))| Subject { name, process, address: *address, path: "/" })
        .collect();
    let plan = Plan { rounds, connections, concurrency: 16.min(connections) };
    let measured = rounds_of_servers(host, raw, &subjects, &plan, progress);
    let entries = against("server CPU, workers", &NAMES, measured, &NAMES[..1]);
    Ok(entries.into_iter().map(|entry| entry.case("concurrency", plan.concurrency)).collect())
}

/// System calls of a server for each connection, counted by strace.
fn system_calls(servers: &Servers, raw: &mut Process) -> Vec<Entry> {
    let mut entries = Vec::new();
    for keep_alive in [false, true] {
        for subject in servers.answering(keep_alive) {
            let counted = counted(&subject, raw);
            let value = counted.map_or_else(Figure::missing, |count| Figure::of(&[count], f64::INFINITY));
            let entry = Entry::new(Set::ConnectionCost, SYSTEM_CALLS, subject.name, "calls", value);
            entries.push(entry.case("keep-alive", if keep_alive { "on" } else { "off" }));
        }
    }
    entries
}

fn counted(subject: &Subject<'_>, raw: &mut Process) -> Result<f64, String> {
    let server = subject.process.as_ref().map_err(Clone::clone)?;
    const CONNECTIONS: usize = 200;
    if !crate::run::is_installed("strace") {
        return Err("strace is not installed".to_owned());
    }
    ask_for(raw, subject, 10, 1)?;
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(file.path())
        .args(["-p", &server.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("strace does not start: {error}"))?;
    // Until it has its tracee.
    let status = PathBuf::from(format!("/proc/{}/status", server.pid()));
    let traced = || std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("TracerPid:\t0\n"));
    for _ in 0..500 {
        if traced() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(50));
    let answered = ask_for(raw, subject, CONNECTIONS, 1);
    thread::sleep(Duration::from_millis(50));
    let pid = nix::unistd::Pid::from_raw(strace.id() as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
    let _ = strace.wait();
    answered?;
    let text = std::fs::read_to_string(file.path()).map_err(|error| error.to_string())?;
    let calls = text.lines().filter(|line| line.contains('(') && !line.contains("<unfinished")).count();
    match calls {
        0 => Err("strace saw no call: it may not trace here".to_owned()),
        calls => Ok(calls as f64 / CONNECTIONS as f64),
    }
}
