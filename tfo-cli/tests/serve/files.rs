//! What is served, and what is not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Child, Command};
use std::time::Duration;

use crate::running::{ANY, Serve, site};
use crate::support::PATIENCE;
use crate::support::http2::Http2;

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

/// Nor is it a reason not to begin.
#[test]
fn an_index_that_leads_outside_is_not_found() {
    let site = site();
    let root = site.path().join("root");
    fs::remove_file(root.join("index.html")).unwrap();
    symlink("../outside/secret", root.join("index.html")).unwrap();
    let serve = Serve::start(&root, ANY);
    assert_eq!([serve.status("/"), serve.status("/a%20b.txt")], [404, 200]);
}

/// Who has said all that it will say waits for its answer still.
#[test]
fn who_shuts_down_its_side_is_answered() {
    let site = site();
    let root = site.path().join("root");
    fs::write(root.join("large"), vec![b'x'; 3_000_000]).unwrap();
    let serve = Serve::start(&root, ANY);
    for (path, length) in [("/", 5), ("/large", 3_000_000), ("/inside.txt", 10), ("/nothing", 10)] {
        for close in ["", "Connection: close\r\n"] {
            for _ in 0..5 {
                let mut stream = TcpStream::connect(serve.address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream
                    .write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{close}\r\n").as_bytes())
                    .unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
                assert_eq!(head.map(|head| answer.len() - head - 4), Some(length), "{path} {close}");
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
    // With HTTP/1 there is one answer, and what hyper takes of it beforehand.
    fs::write(root.join("file"), vec![b'x'; 20_000_000]).unwrap();
    let serve = Serve::start(&root, ANY);
    let before = resident(&serve.process);
    let mut clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = TcpStream::connect(serve.address).unwrap();
            client.write_all(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            client
        })
        .collect();
    // The kernel's buffers are full then, too.
    std::thread::sleep(Duration::from_secs(1));
    let more = resident(&serve.process) - before;
    assert!(more < 100 * 256, "{more} KiB");
    clients.iter_mut().for_each(|client| assert_eq!(client.read(&mut [0; 1]).unwrap(), 1));
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
