//! `tfo serve` on loopback: what it serves, what it does not, and how it begins and ends.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod files;
mod running;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use running::{ANY, Serve, site};
use support::http2::Http2;
use support::{PATIENCE, TFO, tfo};

#[test]
fn it_listens_on_ipv4_ipv6_and_both() {
    let site = site();
    for (listen, connect) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "[::1]"),
        ("[::]:0", "[::1]"),
        ("[::]:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1"),
    ] {
        let mut serve = Serve::start(&site.path().join("root"), &["--listen", listen]);
        assert_ne!(serve.address.port(), 0);
        serve.address = format!("{connect}:{}", serve.address.port()).parse().unwrap();
        assert_eq!(serve.status("/"), 200, "{listen} {connect}");
    }
}

#[test]
fn a_signal_ends_it_when_the_requests_under_way_are_answered() {
    let site = site();
    fs::write(site.path().join("root/big"), vec![b'x'; 50_000_000]).unwrap();
    for signal in ["-TERM", "-INT"] {
        let serve = Serve::start(&site.path().join("root"), ANY);
        // One connection says nothing, one is kept alive, one is in the middle of an answer.
        let _silent = TcpStream::connect(serve.address).unwrap();
        let mut kept = TcpStream::connect(serve.address).unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut busy = TcpStream::connect(serve.address).unwrap();
        busy.write_all(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut first = [0; 1];
        busy.read_exact(&mut first).unwrap();
        kept.read_exact(&mut first).unwrap();
        serve.signal(signal);
        std::thread::sleep(Duration::from_millis(100));
        let mut answer = Vec::new();
        busy.read_to_end(&mut answer).unwrap();
        assert!(answer.len() > 50_000_000, "{}", answer.len());
        let begun = Instant::now();
        let (code, said) = serve.end();
        assert_eq!(code, Some(0), "{signal}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(said.contains("TCP Fast Open"), "{said}");
    }
}

#[test]
fn those_who_wait_to_be_accepted_are_answered_too() {
    let site = site();
    let serve = Serve::start(&site.path().join("root"), ANY);
    assert_eq!(serve.status("/"), 200);
    // It sleeps, and finds the signal and the connections at once.
    serve.signal("-STOP");
    let mut waiting: Vec<_> = (0..50).map(|_| TcpStream::connect(serve.address).unwrap()).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    }
    serve.signal("-TERM");
    serve.signal("-CONT");
    for (index, mut stream) in waiting.into_iter().enumerate() {
        let mut answer = String::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = stream.read_to_string(&mut answer);
        assert!(read.is_ok() && answer.starts_with("HTTP/1.1 200 "), "{index}: {read:?} {answer}");
    }
    let (code, said) = serve.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn tcp_fast_open_can_be_turned_off() {
    let site = site();
    let serve =
        Serve::start(&site.path().join("root"), &["--listen", "127.0.0.1:0", "--fastopen-queue", "0"]);
    assert_eq!(serve.status("/"), 200);
    serve.signal("-TERM");
    assert!(serve.end().1.contains("switched off"));
}

#[test]
fn what_cannot_begin_is_1_and_says_why() {
    let site = site();
    let root = site.path().join("root");
    let (root, file) = (root.to_str().unwrap(), root.join("index.html"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    tfo(&["serve", "--root", root, "--listen", &taken]).assert_failed(1, "in use");
    tfo(&["serve", "--root", root, "--listen", "192.0.2.1:0"]).assert_failed(1, "not one of this host's");
    tfo(&["serve", "--root", file.to_str().unwrap()]).assert_failed(1, "not a directory");
    tfo(&["serve", "--root", "/nonexistent"]).assert_failed(1, "/nonexistent");
    #[cfg(target_os = "linux")]
    {
        let script = format!("ulimit -n 100; exec {TFO} serve --listen 127.0.0.1:0");
        let ran = support::Ran::from(Command::new("sh").args(["-c", &script]).output().unwrap());
        ran.assert_failed(1, "open files");
    }
}

/// Two that share a port would each have a part of the other's clients.
#[test]
fn the_administrator_has_an_address_of_its_own() {
    let site = site();
    let root = site.path().join("root");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for workers in ["1", "2"] {
        let args = ["serve", "--root", root.to_str().unwrap(), "--listen", &free, "--admin", &free];
        tfo(&[&args[..], &["--workers", workers]].concat()).assert_failed(1, "in use");
    }
    let first = Serve::start(&root, &["--listen", "127.0.0.1:0", "--admin", &free]);
    let args = ["serve", "--root", root.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin", &free];
    tfo(&args).assert_failed(1, "in use");
    assert_eq!(first.status("/"), 200);
}

#[test]
#[cfg(target_os = "linux")]
fn there_are_descriptors_for_as_many_as_are_allowed() {
    let site = site();
    let root = site.path().join("root");
    // The soft limit alone is no limit; at the other one nobody waits for an answer that never comes.
    for (limit, possible) in [("-S", None), ("-H", Some(205))] {
        let script = format!("ulimit -S -n 400; ulimit {limit} -n 400; exec \"$@\"");
        let args = ["-c", &script, "sh", TFO, "serve", "--workers", "1", "--listen", "127.0.0.1:0", "--root"];
        let mut command = Command::new("sh");
        let mut serve = Serve::run(command.args(args).arg(&root).args(["--max-connections", "600"]));
        let held: Vec<_> = (0..450).map(|_| TcpStream::connect(serve.address).unwrap()).collect();
        let status = serve.status("/");
        assert_eq!(status, if possible.is_some() { 503 } else { 200 }, "ulimit {limit}");
        drop(held);
        serve.signal("-KILL");
        let mut said = String::new();
        serve.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said.contains("connections at most"), possible.is_some(), "{said}");
        assert!(
            possible.is_none_or(|possible| said.contains(&format!("{possible} connections at most"))),
            "{said}"
        );
    }
}

const KEY: &str = "00112233-44556677-8899aabb-ccddeeff";

#[test]
fn bad_keys_are_1_and_say_why_and_tell_no_key() {
    let site = site();
    let root = site.path().join("root");
    let file = site.path().join("keys");
    let (root, name) = (root.to_str().unwrap(), file.to_str().unwrap());
    let serve = |args: &[&str]| tfo(&[&["serve", "--root", root, "--listen", "127.0.0.1:0"], args].concat());
    serve(&["--key-file", "/nonexistent"])
        .assert_failed(1, "/nonexistent: the file cannot be read: No such file");
    serve(&["--key-secret-file", "/nonexistent"]).assert_failed(1, "/nonexistent: the file cannot be read");
    serve(&["--key-file", root]).assert_failed(1, "no regular file");
    for bad in ["", "secret", &KEY[1..], &KEY.replace('a', "g"), &format!("{KEY},"), &"x".repeat(1 << 20)] {
        fs::write(&file, bad).unwrap();
        let ran = serve(&["--key-file", name]);
        ran.assert_failed(1, name);
        assert!(bad.is_empty() || !ran.stderr.contains(bad), "{ran:?}");
    }
    fs::write(&file, "00000000-00000000-00000000-00000000").unwrap();
    serve(&["--key-file", name]).assert_failed(1, "zeros");
    fs::write(&file, "0123456789abcdef0123456789abcde\n").unwrap();
    let short = serve(&["--key-secret-file", name]);
    short.assert_failed(1, "32 bytes or more are needed");
    assert!(!short.stderr.contains("0123456789"), "{short:?}");
    fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
    for epoch in ["0s", "999ms", "1000years"] {
        serve(&["--key-secret-file", name, "--key-epoch", epoch]).assert_failed(1, "the epoch must be");
    }
}

#[test]
fn key_arguments_that_contradict_each_other_are_2() {
    for args in [
        &["--key-file", "a", "--key-secret-file", "b"] as &[_],
        &["--key-file", "a", "--no-cookie"],
        &["--key-secret-file", "a", "--no-cookie"],
        &["--key-epoch", "24h"],
        &["--key-file", "a", "--key-epoch", "24h"],
        &["--key-secret-file", "a", "--key-epoch", "soon"],
    ] {
        let ran = tfo(&[&["serve"], args].concat());
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
    }
}

#[test]
fn a_queue_that_makes_no_sense_is_2_and_says_why() {
    for queue in ["-1", "-99999999999", "4294967296", "many", ""] {
        let joined = format!("--fastopen-queue={queue}");
        for args in [vec!["--fastopen-queue", queue], vec![&joined]] {
            let ran = tfo(&[&["serve"], &args[..]].concat());
            assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
            assert!(ran.stderr.contains("--fastopen-queue") && ran.stderr.contains(queue), "{ran:?}");
            assert!(!ran.stderr.contains("unexpected argument"), "{ran:?}");
        }
    }
    for other in [&["--key-file", "a"] as &[_], &["--key-secret-file", "a"], &["--no-cookie"]] {
        let ran = tfo(&[&["serve", "--fastopen-queue", "0"], other].concat());
        ran.assert_failed(2, &format!("{} has no meaning with --fastopen-queue 0", other[0]));
    }
}

#[test]
fn a_file_or_a_port_that_it_may_not_have_is_1_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (keys, binary) = (directory.path().join("keys"), directory.path().join("tfo"));
    fs::write(&keys, KEY).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o000)).unwrap();
    fs::copy(TFO, &binary).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Root may read and listen wherever it likes: then as somebody else.
    let root = fs::read(&keys).is_ok();
    let serve = |args: &[&str]| -> support::Ran {
        let mut command = match root {
            true => Command::new("setpriv"),
            false => Command::new(&binary),
        };
        if root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
        }
        command.args(["serve", "--root", "/"]).args(args).output().unwrap().into()
    };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if root && !std::env::split_paths(&paths).any(|path| path.join("setpriv").exists()) {
        let required = std::env::var_os("TFO_LAB").is_some_and(|value| value == "require");
        assert!(!required, "setpriv is not installed (TFO_LAB=require)");
        eprintln!("\n!!! SKIPPED: setpriv is not installed, and this is root\n");
        return;
    }
    let name = keys.to_str().unwrap();
    for option in ["--key-file", "--key-secret-file"] {
        let ran = serve(&["--listen", "127.0.0.1:0", option, name]);
        ran.assert_failed(1, &format!("{name}: the file cannot be read: Permission denied"));
    }
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first_free.is_ok_and(|port| port.trim().parse::<u16>().unwrap() > 81) {
        serve(&["--listen", "127.0.0.1:81"]).assert_failed(1, "CAP_NET_BIND_SERVICE");
    }
}

#[test]
fn a_hang_up_ends_it_only_where_there_is_no_file_to_read_again() {
    let site = site();
    let root = site.path().join("root");
    let serve = Serve::start(&root, ANY);
    serve.signal("-HUP");
    assert_eq!(serve.end().0, None, "killed by the signal");
    let (secret, key) = (site.path().join("secret"), site.path().join("key"));
    fs::write(&secret, [7; 32]).unwrap();
    fs::write(&key, KEY).unwrap();
    let derived = ["--key-secret-file", secret.to_str().unwrap(), "--key-epoch", "1h"];
    for args in [&derived as &[_], &["--key-file", key.to_str().unwrap()]] {
        let serve = Serve::start(&root, &[ANY, args].concat());
        serve.signal("-HUP");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(serve.status("/"), 200);
        serve.signal("-TERM");
        let (code, said) = serve.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("cookie keys: read again"), "{said}");
        // Which keys are in force is said once, when it begins.
        assert_eq!(said.matches("cookie keys: cookies are made with ").count(), 1, "{said}");
    }
}

#[test]
fn it_speaks_http2_logs_and_tells_the_administrator() {
    let site = site();
    let args = ["--listen", "127.0.0.1:0", "--access-log", "--workers", "1", "--admin", "127.0.0.1:0"];
    let mut serve = Serve::start(&site.path().join("root"), &args);
    let mut stderr = BufReader::new(serve.process.stderr.take().unwrap()).lines();
    let admin = stderr.find_map(|line| Some(line.unwrap().strip_prefix("metrics on ")?.to_owned())).unwrap();
    let curl = |args: &[&str]| {
        let output = Command::new("curl").args(["-sS", "--max-time", "10"]).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let page = format!("http://{}/", serve.address);
    assert_eq!(curl(&["--http2-prior-knowledge", "-w", " %{http_version}", &page]), "index 2");
    assert_eq!(curl(&["-w", " %{http_version}", &page]), "index 1.1");
    let metrics = curl(&[&admin]);
    for sample in
        ["tfo_connections_total{protocol=\"http2\"} 1", "tfo_responses_total{status=\"2xx\"} 2", "# EOF"]
    {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }
    let health = admin.replace("/metrics", "/healthz");
    assert_eq!(curl(&["-w", "%{http_code}", &health]), "ok\n200");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", &health]), "404");
    curl(&["-o", "/dev/null", &format!("{page}a\"b")]);
    let mut log = BufReader::new(serve.process.stdout.take().unwrap()).lines();
    for version in ["HTTP/2.0", "HTTP/1.1"] {
        let line = log.next().unwrap().unwrap();
        assert!(
            line.starts_with("127.0.0.1:") && line.contains(&format!("{version}\" 200 5 plain ")),
            "{line}"
        );
    }
    let line = log.next().unwrap().unwrap();
    assert!(line.contains("\"GET /a\\x22b HTTP/1.1\" 404 "), "{line}");
}

#[test]
fn limits_answer_slow_clients_and_too_many() {
    let site = site();
    let args =
        ["--listen", "127.0.0.1:0", "--header-timeout", "300ms", "--max-connections", "1", "--no-keep-alive"];
    let serve = Serve::start(&site.path().join("root"), &args);
    assert!(serve.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").contains("connection: close"));
    let begun = Instant::now();
    let slow = loop {
        let slow = serve.exchange("GET / HTTP/1.1\r\n");
        // The one before may be on its way out still.
        if !slow.starts_with("HTTP/1.1 503 ") || begun.elapsed() > PATIENCE {
            break slow;
        }
    };
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    let held = TcpStream::connect(serve.address).unwrap();
    let begun = Instant::now();
    while !serve.get("/", "").starts_with("HTTP/1.1 503 ") {
        assert!(begun.elapsed() < PATIENCE);
    }
    drop(held);
}

/// A client of HTTP/2 has many answers at a time, each with its file.
#[test]
#[cfg(target_os = "linux")]
fn files_take_no_descriptors_from_others() {
    let site = site();
    let root = site.path().join("root");
    fs::write(root.join("large"), vec![b'x'; 1_000_000]).unwrap();
    let script = "ulimit -n 400; exec \"$@\"";
    let args = ["-c", script, "sh", TFO, "serve", "--workers", "1", "--listen", "127.0.0.1:0", "--root"];
    let mut command = Command::new("sh");
    let serve = Serve::run(command.args(args).arg(&root).args(["--max-connections", "100"]));
    let greedy: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Http2::connect(serve.address, 0);
            (0..128).for_each(|_| _ = client.get("/large", &[]));
            client.until(|answer| answer.head);
            client
        })
        .collect();
    assert!(fs::read_dir(format!("/proc/{}/fd", serve.process.id())).unwrap().count() < 300);
    assert_eq!([serve.status("/"), serve.status("/large")], [200, 500]);
    drop(greedy);
    let begun = Instant::now();
    while serve.status("/large") != 200 {
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn who_takes_nothing_of_an_answer_is_closed() {
    let site = site();
    let root = site.path().join("root");
    fs::write(root.join("large"), vec![b'x'; 20_000_000]).unwrap();
    let serve = Serve::start(&root, &["--listen", "127.0.0.1:0", "--write-timeout", "300ms"]);
    let mut client = TcpStream::connect(serve.address).unwrap();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let mut answer = Vec::new();
    // A RST is an error.
    let _ = client.read_to_end(&mut answer);
    assert!((1..20_000_000).contains(&answer.len()), "{}", answer.len());
}
