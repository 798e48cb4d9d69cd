//! `tfo get` on loopback: arguments, answers, and every way in which it can go wrong.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::{NO_STATE, Ran, TFO, answering, read_head, server, tfo};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn the_body_goes_to_standard_output_and_a_line_to_standard_error() {
    let ran = tfo(&["get", &answering(HELLO)]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.stderr.starts_with("200 OK ") && ran.stderr.contains("5 B"), "{ran:?}");
}

#[test]
fn an_error_status_is_an_answer_too() {
    let ran = tfo(&["get", "--json", &answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.records()[0]["status"], 503);
}

#[test]
fn json_has_all_names_and_no_body() {
    let ran = tfo(&["get", "--json", "-n", "2", &answering(HELLO)]);
    let records = ran.records();
    assert_eq!((ran.code, records.len(), ran.stderr.as_str()), (0, 2, ""), "{ran:?}");
    for record in &records {
        assert_eq!(record["version"], "HTTP/1.1");
        assert_eq!(record["body_bytes"], 5);
        assert_eq!(record["dns_us"], serde_json::Value::Null, "an address needs no name");
        assert_eq!((record["reused"].as_bool(), record["hedged"].as_bool()), (Some(false), Some(false)));
        let (remote, local) =
            (record["remote_addr"].as_str().unwrap(), record["local_addr"].as_str().unwrap());
        assert!(remote.starts_with("127.0.0.1:") && local.starts_with("127.0.0.1:") && remote != local);
    }
    assert_ne!(records[0]["local_addr"], records[1]["local_addr"], "a new connection each");
}

#[test]
fn a_name_is_resolved_and_timed() {
    let url = answering(HELLO).replace("127.0.0.1", "localhost");
    let record = &tfo(&["get", "--json", &url]).records()[0];
    assert!(
        record["dns_us"].as_u64().is_some_and(|dns| dns <= record["elapsed_us"].as_u64().unwrap()),
        "{record}"
    );
}

#[test]
fn reuse_keeps_the_connection_and_saves_nothing_again() {
    let address = server(|mut stream| {
        while !read_head(&mut stream).is_empty() {
            stream.write_all(HELLO).unwrap();
        }
    });
    let url = format!("http://{address}/");
    let reused = |ran: &Ran| {
        ran.records().iter().map(|record| record["reused"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        let ran = tfo(&["get", "--json", "--reuse", "-n", "4", &url]);
        assert_eq!(reused(&ran), [false, true, true, true], "{ran:?}");
        let ports: Vec<_> = ran.records().iter().map(|record| record["local_addr"].clone()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{ran:?}");
    }
    let ran = tfo(&["get", "--json", "-n", "4", &url]);
    assert_eq!(reused(&ran), [false; 4]);
}

#[test]
fn method_headers_and_data_arrive() {
    let (sender, requests) = mpsc::channel();
    let address = server(move |mut stream| {
        let _ = sender.send(String::from_utf8(read_head(&mut stream)).unwrap());
        let _ = stream.write_all(HELLO);
    });
    let url = format!("{address}/path?q=1#fragment");
    let request = |args: &[&str]| {
        let ran = tfo(&[&["get", "-o", "/dev/null"], args, &[&url]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        requests.recv_timeout(support::PATIENCE).unwrap()
    };
    let plain = request(&[]);
    assert!(plain.starts_with("GET /path?q=1 HTTP/1.1\r\n"), "{plain}");
    assert!(plain.contains(&format!("host: {address}\r\n")) && plain.contains("user-agent: tfo/"), "{plain}");
    let post = request(&["-d", "a=b", "-H", "X-One: 1", "-H", "X-One: 2"]);
    assert!(post.starts_with("POST ") && post.ends_with("\r\n\r\na=b"), "{post}");
    assert!(post.contains("x-one: 1\r\nx-one: 2\r\n") && post.contains("content-length: 3\r\n"), "{post}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"tfo\n").unwrap();
    let data = format!("@{}", file.path().display());
    let put = request(&["-X", "PUT", "-d", &data, "-H", "Content-Type: text/plain"]);
    assert!(
        put.starts_with("PUT ") && put.ends_with("\r\n\r\ntfo\n") && !put.contains("urlencoded"),
        "{put}"
    );
    assert!(request(&["-X", "HEAD"]).starts_with("HEAD "));
}

#[test]
fn bad_arguments_are_2() {
    for args in [
        &["get"] as &[_],
        &["get", "-n", "0", "http://h/"],
        &["get", "-n", "-1", "http://h/"],
        &["get", "--tfo", "maybe", "http://h/"],
        &["get", "-H", "no colon", "http://h/"],
        &["get", "-X", "NO WAY", "http://h/"],
        &["get", "--max-time", "soon", "http://h/"],
        &["get", "--connect-timeout", "0", "http://h/"],
        &["get", "http://[::1/"],
        &["get", "http://host:99999/"],
        &["get", "http://a b/"],
        &["get", "http://"],
        &["get", ""],
        &["get", "-d", "@/nonexistent", "http://h/"],
        &["get", "-d", "@/", "http://h/"],
        &["demo", "--rtt", "0"],
        &["demo", "--rtt", "0s"],
        &["demo", "--rtt", "1h"],
        &["demo", "--requests", "0"],
        &["serve", "--listen", "nowhere"],
        &["nonsense"],
        &[],
    ] {
        let ran = tfo(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(
            !ran.stderr.is_empty() && ran.stdout.is_empty() && !ran.stderr.contains("panicked"),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn what_fails_has_curls_code_and_one_line() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    tfo(&["get", &format!("http://{closed}/")]).assert_failed(7, "refused");
    tfo(&["get", "http://0.0.0.0:1/"]).assert_failed(7, "cannot connect");
    tfo(&["get", "http://255.255.255.255/"]).assert_failed(7, "cannot connect");
    tfo(&["get", "http://nonexistent.invalid/"]).assert_failed(6, "cannot resolve");
    tfo(&["get", "https://localhost/"]).assert_failed(1, "https");
    tfo(&["get", "ftp://localhost/"]).assert_failed(1, "ftp");
    tfo(&["get", "-o", "/nonexistent/file", &answering(HELLO)]).assert_failed(23, "/nonexistent/file");
    #[cfg(target_os = "linux")]
    tfo(&["get", "-o", "/dev/full", &answering(HELLO)]).assert_failed(23, "/dev/full");
}

#[test]
fn broken_answers_are_56() {
    for (answer, says) in [
        (b"" as &'static [u8], "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "after 5 of 10 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "after 5 bytes"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 2000 What\r\n\r\n", "not HTTP"),
    ] {
        let ran = tfo(&["get", "--json", &answering(answer)]);
        ran.assert_failed(56, says);
        let record = &ran.records()[0];
        let cut_off = says.starts_with("after");
        assert_eq!(record["status"].as_u64(), cut_off.then_some(200), "{record}");
        assert_eq!(record["version"].as_str(), cut_off.then_some("HTTP/1.1"), "{record}");
        assert!(record["body_bytes"].is_null(), "{record}");
        assert!(record["remote_addr"].is_string(), "{record}");
    }
    // Who speaks before it is asked is no HTTP server.
    let eager = server(|mut stream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        let _ = read_head(&mut stream);
    });
    tfo(&["get", &format!("http://{eager}/")]).assert_failed(56, "");
    // Without a length the end of the connection is the end of the body.
    let ran = tfo(&["get", &answering(b"HTTP/1.0 200 OK\r\n\r\nhello")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello"));
}

#[test]
fn a_silent_server_times_out_in_time() {
    let address = server(|stream| {
        std::thread::sleep(support::PATIENCE);
        drop(stream);
    });
    let trickle = server(|mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        std::thread::sleep(support::PATIENCE);
    });
    for (url, status) in [(format!("http://{address}/"), None), (format!("http://{trickle}/"), Some(200))] {
        let begun = Instant::now();
        let ran = tfo(&["get", "--json", "--max-time", "300ms", &url]);
        ran.assert_failed(28, "--max-time");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
        assert_eq!(ran.records()[0]["status"].as_u64(), status);
    }
}

#[test]
fn a_failure_ends_the_run() {
    let ran = tfo(&["get", "--json", "-n", "3", &answering(b"")]);
    assert_eq!((ran.code, ran.records().len()), (56, 1), "{ran:?}");
}

#[test]
fn a_file_takes_the_bodies_and_keeps_its_own_if_there_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let path = file.to_str().unwrap();
    fs::write(&file, "something longer than the answer").unwrap();
    let ran = tfo(&["get", "-o", path, &answering(b"")]);
    ran.assert_failed(56, "closed");
    assert_eq!(fs::read_to_string(&file).unwrap(), "something longer than the answer");
    assert_eq!(tfo(&["get", "-o", "-", &answering(HELLO)]).stdout, "hello");
    let ran = tfo(&["get", "-n", "2", "--json", "-o", path, &answering(HELLO)]);
    assert_eq!((ran.code, ran.records().len()), (0, 2), "{ran:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "hellohello");
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let address = server(|mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    for args in [vec!["get"], vec!["get", "--json", "-n", "100000"]] {
        let url = if args.len() == 1 { format!("http://{address}/") } else { answering(HELLO) };
        let mut child = Command::new(TFO)
            .env(NO_STATE.0, NO_STATE.1)
            .args(&args)
            .arg(url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ran = child.wait_with_output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), said.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn times_and_files_that_are_no_use() {
    let url = answering(HELLO);
    for (args, says) in [
        (&["--hedge-delay", "5ms"] as &[_], "10ms or more"),
        (&["--hedge-delay", "0"], "more than 0"),
        (&["--hedge-delay", "soon"], "--hedge-delay"),
        (&["--hedge-delay", "1s", "--no-hedge"], "cannot be used with"),
        (&["--path-memory"], "--path-memory"),
    ] {
        let ran = tfo(&[&["get", &url], args].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(says) && !ran.stderr.contains("panicked"), "{says:?}: {ran:?}");
    }
}

#[test]
fn a_memory_that_cannot_be_used_is_told_of_and_no_request_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("paths.json");
    let name = file.to_str().unwrap();
    let get = |url: &str, name: &str| {
        let ran = tfo(&["get", "--json", "--path-memory", name, url]);
        assert_eq!((ran.code, ran.records()[0]["status"].as_u64()), (0, Some(200)), "{ran:?}");
        ran.stderr
    };
    let url = answering(HELLO);
    for bad in ["", "[section]", "{\"format\":\"something else\",\"version\":1,\"paths\":[]}", "\0\u{7f}"] {
        fs::write(&file, bad).unwrap();
        let said = get(&url, name);
        assert!(said.contains(name) && said.contains("is not a path memory"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(get(&url, name), "", "it was rewritten");
    }
    fs::write(&file, "{\"format\":\"tfo-http path memory\",\"version\":99}").unwrap();
    assert!(get(&url, name).contains("another version"));
    // What is no file is left alone, and said twice: it can be neither read nor written.
    let said = get(&url, directory.path().to_str().unwrap());
    assert!(said.lines().count() == 2 && said.contains("not a regular file"), "{said}");
    assert!(get(&url, "/no/such/directory/paths.json").contains("is not kept"));
    assert_eq!(get(&url, "off"), "");
    assert!(!file.with_file_name("off").exists());
    // The user's own, where nobody has chosen: nothing is said if it cannot be kept.
    let own = |state: &std::path::Path| {
        let ran: Ran =
            Command::new(TFO).env("XDG_STATE_HOME", state).args(["get", &url]).output().unwrap().into();
        assert_eq!((ran.code, ran.stderr.lines().count()), (0, 1), "{ran:?}");
    };
    own(std::path::Path::new("/dev/null"));
    own(&directory.path().join("state"));
    assert!(directory.path().join("state/tfo/paths.json").exists());
}

#[test]
fn help_has_examples() {
    for command in ["demo", "get", "serve"] {
        let ran = tfo(&[command, "--help"]);
        assert_eq!(ran.code, 0);
        let examples =
            ran.stdout.lines().filter(|line| line.starts_with(&format!("  tfo {command}"))).count();
        assert!(examples >= 2, "{}", ran.stdout);
    }
}
