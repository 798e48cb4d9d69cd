//! The servers that are measured side by side, each running in a host's loopback.

use std::net::SocketAddr;

use tempfile::TempDir;
use tfo_lab::{Host, Lab};

use crate::process::{Cpus, Process};
use crate::server::BACKLOG;

/// A host of its own, whose loopback has room for many connections.
pub(crate) fn loopback() -> Result<Lab, String> {
    let lab = Lab::builder().host("loop").build().map_err(|error| format!("no lab: {error}"))?;
    let host = lab.host("loop");
    for (name, value) in [
        ("net.core.somaxconn", BACKLOG.to_string()),
        ("net.ipv4.tcp_max_syn_backlog", BACKLOG.to_string()),
        ("net.ipv4.ip_local_port_range", "10000 65535".to_owned()),
    ] {
        host.set_sysctl(name, value).map_err(|error| error.to_string())?;
    }
    Ok(lab)
}

/// The server that makes the system calls of ours, and does nothing else.
pub(crate) const ALONE: &str = "those system calls alone";

/// A server that can be measured, or why not.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) process: Result<Process, String>,
    /// Where it answers without keep-alive, and where with.
    pub(crate) addresses: [Option<SocketAddr>; 2],
}

/// All servers that are installed, each once without and once with keep-alive.
pub(crate) struct Servers {
    pub(crate) peers: Vec<Peer>,
    /// The peers' configurations, and a small file: `file`.
    pub(crate) directory: TempDir,
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
                peers.push(Peer {
                    name,
                    process,
                    addresses: if keep_alive { [None, Some(at(port))] } else { [Some(at(port)), None] },
                });
            }
        }
        let ends = ["server", "--kind", "ours", "--listen", "0.0.0.0:8015", "--end-in-last-packet"];
        peers.push(Peer {
            name: "tfo-http-server, FIN with the answer",
            process: Process::role(host, Cpus::One, &ends),
            addresses: [Some(at(8015)), None],
        });
        let least = ["server", "--kind", "calls-alone", "--listen", "0.0.0.0:8010"];
        peers.push(Peer {
            name: ALONE,
            process: Process::role(host, Cpus::One, &least),
            addresses: [Some(at(8010)), None],
        });
        let path = directory.path().to_string_lossy().into_owned();
        let write = |name: &str, text: String| {
            let file = directory.path().join(name);
            std::fs::write(&file, text).map_err(|error| error.to_string())?;
            Ok::<_, String>(file.to_string_lossy().into_owned())
        };
        write("file", "hello\n".to_owned())?;
        let nginx = write("nginx.conf", nginx_config(&path, [8005, 8006]))?;
        let haproxy = write("haproxy.cfg", haproxy_config([8007, 8008]))?;
        for (name, args, ports) in [
            ("nginx", ["-e", "stderr", "-c", &nginx].map(str::to_owned).to_vec(), [8005, 8006]),
            ("haproxy", ["-db", "-f", &haproxy].map(str::to_owned).to_vec(), [8007, 8008]),
        ] {
            let process = Process::listening(host, Cpus::One, name, &args, at(ports[0]));
            peers.push(Peer { name, process, addresses: ports.map(|port| Some(at(port))) });
        }
        Ok(Self { peers, directory })
    }

    /// Those that answer without keep-alive, or with it.
    pub(crate) fn answering(&self, keep_alive: bool) -> impl Iterator<Item = Subject<'_>> {
        self.peers.iter().filter_map(move |peer| {
            let address = peer.addresses[usize::from(keep_alive)]?;
            Some(Subject { name: peer.name, process: &peer.process, address, path: "/" })
        })
    }
}

/// A configuration for nginx that answers as the others do; `directory` is for its files.
fn nginx_config(directory: &str, ports: [u16; 2]) -> String {
    let [off, on] = ports.map(|port| format!("{port}"));
    let servers = [nginx_server(directory, &off, 0), nginx_server(directory, &on, 65)];
    format!("master_process off;\n{}", nginx_with(directory, &servers.concat()))
}

/// The same without keep-alive, for so many workers, each with a listener of its own.
pub(crate) fn nginx_workers_config(directory: &str, port: u16, workers: &str) -> String {
    let server = nginx_server(directory, &format!("{port} reuseport"), 0);
    format!("user root; worker_processes {workers};\n{}", nginx_with(directory, &server))
}

fn nginx_server(directory: &str, listen: &str, keep_alive: u32) -> String {
    format!(
        "server {{ listen {listen} backlog={BACKLOG} fastopen={BACKLOG}; keepalive_timeout {keep_alive}; \
         keepalive_requests 1000000; location = /file {{ root {directory}; }} \
         location / {{ default_type text/plain; return 200 hello; }} }}\n"
    )
}

fn nginx_with(directory: &str, servers: &str) -> String {
    format!(
        "daemon off; pid {directory}/pid; error_log stderr crit; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 19000; }}\n\
         http {{ access_log off; default_type text/plain;\n\
         client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3; \
         uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;\n{servers} }}\n"
    )
}

/// A configuration for haproxy that answers as the others do.
fn haproxy_config(ports: [u16; 2]) -> String {
    let [off, on] = ports;
    let frontend = |name, port, option| {
        format!(
            "frontend {name}\n  bind 0.0.0.0:{port} tfo backlog {BACKLOG}\n  option {option}\n  \
             http-request return status 200 content-type text/plain string hello\n"
        )
    };
    format!(
        "global\n  nbthread 1\n  maxconn 9900\ndefaults\n  mode http\n  timeout client 30s\n  \
         timeout server 30s\n  timeout connect 5s\n{}{}",
        frontend("off", off, "httpclose"),
        frontend("on", on, "http-keep-alive")
    )
}
