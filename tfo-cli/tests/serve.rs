//! `tfo serve` on loopback: what it serves, what it does not, and how it begins and ends.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::http2::Http2;
use support::{PATIENCE, TFO, tfo};

/// A running `tfo serve`.
struct Serve {
    process: Child,
    address: SocketAddr,
}

impl Serve {
    fn start(root: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(TFO);
        command.arg("serve").arg("--root").arg(root).args(args);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").expect(&line).parse().unwrap();
        Self { process, address }
    }

    fn get(&self, path: &str, headers: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"))
    }

    fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn status(&self, path: &str) -> u16 {
        self.get(path, "").split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill {signal} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// The exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.process.wait().unwrap().code();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ANY: &[&str] = &["--listen", "127.0.0.1:0"];

/// A root with all that should be found, and all that should not.
fn site() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    let root = directory.path().join("root");
    for path in
        [&outside, &root, &root.join("dir"), &root.join("empty"), &root.join(".git"), &root.join("stolen")]
    {
        fs::create_dir(path).unwrap();
    }
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(root.join("index.html"), "index").unwrap();
    fs::write(root.join("a b.txt"), "0123456789").unwrap();
    fs::write(root.join("dir/index.html"), "dir").unwrap();
    fs::write(root.join(".env"), "secret").unwrap();
    fs::write(root.join(".git/config"), "secret").unwrap();
    symlink("a b.txt", root.join("inside.txt")).unwrap();
    symlink("dir", root.join("linked")).unwrap();
    symlink("../outside/secret", root.join("relative")).unwrap();
    symlink(outside.join("secret"), root.join("absolute")).unwrap();
    symlink(&outside, root.join("directory")).unwrap();
    symlink("../../outside/secret", root.join("stolen/index.html")).unwrap();
    // Links within the root, to what is hidden there.
    symlink(".env", root.join("dotlink")).unwrap();
    symlink(".git", root.join("gitlink")).unwrap();
    symlink("../gitlink/config", root.join("dir/chain")).unwrap();
    fs::write(root.join(".git/index.html"), "secret").unwrap();
    fs::create_dir(root.join(".git/plain")).unwrap();
    symlink("../../index.html", root.join(".git/plain/index.html")).unwrap();
    symlink(".git/plain", root.join("back")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    directory
}

#[test]
fn files_are_served_with_types_ranges_and_conditions() {
    let site = site();
    let serve = Serve::start(&site.path().join("root"), ANY);
    let index = serve.get("/", "");
    assert!(index.starts_with("HTTP/1.1 200 OK\r\n") && index.ends_with("\r\n\r\nindex"), "{index}");
    assert!(index.contains("content-type: text/html"), "{index}");
    for (path, body) in [
        ("/a%20b.txt", "0123456789"),
        ("/inside.txt", "0123456789"),
        ("/linked/", "dir"),
        ("/dir/index.html?q", "dir"),
    ] {
        let answer = serve.get(path, "");
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{body}")),
            "{path}: {answer}"
        );
    }
    assert_eq!(serve.status("/dir"), 307);
    let part = serve.get("/a%20b.txt", "Range: bytes=2-4\r\n");
    assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n234"), "{part}");
    assert!(serve.get("/a%20b.txt", "Range: bytes=99-\r\n").starts_with("HTTP/1.1 416 "));
    let tag = index.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert!(serve.get("/", &format!("If-None-Match: {tag}\r\n")).starts_with("HTTP/1.1 304 "));
    let head = serve.exchange("HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(head.contains("content-length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post =
        serve.exchange("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
}

#[test]
fn an_answer_at_once_is_the_same_on_the_wire() {
    let site = site();
    let root = site.path().join("root");
    for (name, length) in [("nothing", 0), ("one.css", 1), ("most", 65_536), ("more", 65_537)] {
        fs::write(root.join(name), "x".repeat(length)).unwrap();
    }
    let serve = Serve::start(&root, ANY);
    let whole = |request: &str| {
        let answer = serve.exchange(request);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut head: Vec<_> = head.lines().filter(|line| !line.starts_with("date: ")).collect();
        // hyper says last that there is no body.
        head[1..].sort_unstable();
        (head.join("\n"), body.to_owned())
    };
    for path in
        ["/", "/dir/", "/dir", "/a%20b.txt", "/nothing", "/one.css", "/most", "/more", "/inside.txt", "/no"]
    {
        for method in ["GET", "HEAD"] {
            for version in ["HTTP/1.1", "HTTP/1.0"] {
                let request =
                    |more| format!("{method} {path} {version}\r\nHost: h\r\nConnection: close\r\n{more}\r\n");
                // A condition that is none, but asks for a look.
                let looked_at = whole(&request("If-Modified-Since: nonsense\r\n"));
                assert_eq!(whole(&request("")), looked_at, "{method} {path} {version}");
            }
        }
    }
}

#[test]
fn a_range_is_given_only_of_the_file_that_the_client_has() {
    let site = site();
    let serve = Serve::start(&site.path().join("root"), ANY);
    let whole = serve.get("/a%20b.txt", "");
    let header = |name| whole.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let (tag, time) = (header("etag: "), header("last-modified: "));
    for (condition, status) in [
        (tag, 206),
        (time, 206),
        (&format!("W/{tag}"), 200),
        ("\"other\"", 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 200),
        (&format!("{tag}, \"other\""), 200),
        ("*", 200),
        ("nonsense", 200),
        ("", 200),
    ] {
        for (range, part, missed) in [("bytes=2-4", "234", 206), ("bytes=99-", "", 416)] {
            let answer = serve.get("/a%20b.txt", &format!("Range: {range}\r\nIf-Range: {condition}\r\n"));
            let (status, body) = if status == 206 { (missed, part) } else { (200, "0123456789") };
            let begins = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&begins) && answer.ends_with(body), "{condition} {range}: {answer}");
        }
        let all = serve.get("/a%20b.txt", &format!("If-Range: {condition}\r\n"));
        assert!(all.starts_with("HTTP/1.1 200 "), "{condition}: {all}");
    }
    // The other conditions come first.
    let both = format!("Range: bytes=2-4\r\nIf-Range: \"other\"\r\nIf-None-Match: {tag}\r\n");
    assert!(serve.get("/a%20b.txt", &both).starts_with("HTTP/1.1 304 "));
    // Several ranges at once: everything.
    let several = serve.get("/a%20b.txt", "Range: bytes=0-1,4-5\r\n");
    assert!(several.starts_with("HTTP/1.1 200 ") && several.ends_with("\r\n\r\n0123456789"), "{several}");
}

#[test]
fn nothing_outside_and_nothing_hidden_is_served() {
    let site = site();
    let serve = Serve::start(&site.path().join("root"), ANY);
    let missing = serve.get("/missing", "");
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    let without_date =
        |answer: &str| answer.lines().filter(|line| !line.starts_with("date")).collect::<Vec<_>>().join("\n");
    for path in [
        "/.env",
        "/.git/config",
        "/.git/",
        "/%2eenv",
        "/dir/../.env",
        "/dir/../index.html",
        "/../outside/secret",
        "/..%2foutside/secret",
        "/%2e%2e/outside/secret",
        "/%2e%2e%2foutside%2fsecret",
        "/..%5coutside%5csecret",
        "/relative",
        "/absolute",
        "/directory/secret",
        "/directory/",
        "/directory",
        "/stolen/",
        "/stolen",
        "/stolen/index.html",
        "/dotlink",
        "/gitlink",
        "/gitlink/",
        "/gitlink/config",
        "/gitlink/plain/",
        "/dir/chain",
        "/back",
        "/loop",
        "/pipe",
        "/empty/",
        "/empty",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/a%00b",
        "/index.html%00.txt",
        "/dir//index.html",
        "/%ff",
        "/index.html/",
        "/index.html/x",
        &format!("/{}", "a".repeat(300)),
        &format!("/{}", "a/".repeat(3000)),
    ] {
        let answer = serve.get(path, "");
        assert_eq!(without_date(&answer), without_date(&missing), "{path}");
    }
    let absolute =
        serve.exchange("GET http://h/../outside/secret HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(absolute.starts_with("HTTP/1.1 404 "), "{absolute}");
    // A head is looked up in another way than a body.
    for path in [
        "/relative",
        "/.env",
        "/dotlink",
        "/gitlink/config",
        "/gitlink/",
        "/pipe",
        "/stolen/",
        "/directory/secret",
    ] {
        let head = serve.exchange(&format!("HEAD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
    }
}

#[test]
fn a_pipe_is_not_opened_so_its_writer_goes_on_waiting() {
    let site = site();
    let root = site.path().join("root");
    let pipe = root.join("pipe");
    fs::create_dir(root.join("piped")).unwrap();
    fs::hard_link(&pipe, root.join("piped/index.html")).unwrap();
    let serve = Serve::start(&root, ANY);
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::File::options().write(true).open(pipe)?.write_all(b"for its reader"))
    };
    for _ in 0..20 {
        for (path, condition) in [("/pipe", ""), ("/pipe", "If-None-Match: x\r\n"), ("/piped/", "")] {
            for method in ["GET", "HEAD"] {
                let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
                let answer = serve.exchange(&format!("{head}{condition}\r\n"));
                assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
                assert!(!writer.is_finished(), "{method} {path} {condition}");
            }
        }
        // By then it waits for a reader.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read(pipe).unwrap(), b"for its reader");
    writer.join().unwrap().unwrap();
}

#[test]
fn a_body_is_as_long_as_it_was_announced_or_fails() {
    const LENGTH: u64 = 300_000;
    let site = site();
    let root = site.path().join("root");
    let range = [("range", "bytes=100000-299999")];
    for (length, headers, part) in [
        (LENGTH + 100_000, &[][..], 300_000),
        (LENGTH + 100_000, &range, 200_000),
        (LENGTH, &[], 300_000),
        (250_000, &[], 0),
        (250_000, &range, 0),
        (0, &[], 0),
    ] {
        let file = fs::File::create(root.join("file")).unwrap();
        file.set_len(LENGTH).unwrap();
        let serve = Serve::start(&root, ANY);
        let mut client = Http2::connect(serve.address, 0);
        let id = client.get("/file", headers);
        client.until(|answer| answer.head);
        file.set_len(length).unwrap();
        client.open(id, 1_000_000);
        client.until(|answer| answer.ended || answer.reset);
        let answer = &client.answers[&id];
        if part == 0 {
            assert!(answer.reset && !answer.ended, "{length} {headers:?}: {answer:?}");
        } else {
            assert!(answer.ended && answer.bytes == part, "{length} {headers:?}: {answer:?}");
        }
    }
}

/// What a process has in memory, KiB.
#[cfg(target_os = "linux")]
fn resident(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn answers_that_nobody_takes_have_little_in_memory() {
    let site = site();
    let root = site.path().join("root");
    for (length, window) in [(16_384, 0), (65_536, 0), (65_536, 1), (1_000_000, 1)] {
        fs::write(root.join("file"), vec![b'x'; length]).unwrap();
        let serve = Serve::start(&root, ANY);
        let before = resident(&serve.process);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut client = Http2::connect(serve.address, window);
                for _ in 0..128 {
                    client.get("/file", &[]);
                }
                client.until(|answer| answer.head && answer.bytes == window as usize);
                client
            })
            .collect();
        let more = resident(&serve.process) - before;
        // A connection may have 3 MiB of the file; what streams and threads need comes to that.
        assert!(more < 24_000, "{length} bytes, window {window}: {more} KiB");
        drop(clients);
    }
}

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
fn a_browser_shows_its_pages() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join("chromium").exists()) {
        let required = std::env::var_os("TFO_LAB").is_some_and(|value| value == "require");
        assert!(!required, "chromium is not installed (TFO_LAB=require)");
        eprintln!("\n!!! SKIPPED: chromium is not installed\n");
        return;
    }
    let site = site();
    let root = site.path().join("root");
    let page = "<!doctype html><p id=p>empty</p><script src=script.js></script>";
    fs::write(root.join("page.html"), page).unwrap();
    // Only a browser that loads both, and takes the script's type for one, shows this.
    fs::write(root.join("script.js"), "document.getElementById('p').textContent = 'fil' + 'led'").unwrap();
    let serve = Serve::start(&root, ANY);
    let profile = tempfile::tempdir().unwrap();
    let flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
                 --disable-component-update --disable-sync";
    let shown = Command::new("chromium")
        .args(flags.split_whitespace())
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--dump-dom", &format!("http://{}/page.html", serve.address)])
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&shown.stdout);
    assert!(dom.contains("<p id=\"p\">filled</p>"), "{shown:?}");
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
    let mut log = BufReader::new(serve.process.stdout.take().unwrap()).lines();
    for version in ["HTTP/2.0", "HTTP/1.1"] {
        let line = log.next().unwrap().unwrap();
        assert!(
            line.starts_with("127.0.0.1:") && line.contains(&format!("{version}\" 200 5 plain ")),
            "{line}"
        );
    }
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
