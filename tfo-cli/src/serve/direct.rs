//! The usual request, answered at once: GET or HEAD, without conditions, of a small file that is in memory.
//!
//! The answer is the one that `ServeDir` gives, to the byte, without the boxes, the stream and the second
//! look at the file that its other answers need. Whatever is not quite usual is left to it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use cap_std::fs::Dir;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use httpdate::HttpDate;
use percent_encoding::percent_decode_str;

use super::cached;
use super::files::{INDEX, Metadata, held, may_be_asked_for};

/// Who sends one of these may want something else than the whole file.
const CONDITIONS: [HeaderName; 6] =
    [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE];
/// Requests that are remembered at most.
const REMEMBERED: usize = 1024;

thread_local! {
    /// What was asked for with GET, and answered at once, by the path as the client writes it. What such a path
    /// leads to is looked up anew each time; how it is to be read is not.
    static ASKED: RefCell<HashMap<Box<str>, Asked>> = RefCell::default();
}

/// What can be said beforehand of the answer to a path.
struct Asked {
    path: PathBuf,
    kind: &'static str,
    /// The head of the last answer, and the file as it was then.
    last: Option<(Metadata, HeaderMap)>,
}

/// The answer, if it can be given at once.
pub(super) fn answer<B>(root: &Dir, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    if request.headers().keys().any(|name| CONDITIONS.contains(name)) {
        return None;
    }
    let (asked, most) = (request.uri().path(), held(request.version()).whole);
    match *request.method() {
        Method::GET => ASKED.with_borrow_mut(|all| {
            if let Some(known) = all.get_mut(asked) {
                let content = cached::again(root, &known.path, most);
                return match content {
                    Some((content, metadata)) => known.response(content, metadata),
                    None => {
                        all.remove(asked);
                        None
                    }
                };
            }
            let mut known = Asked::new(asked)?;
            let (content, metadata) = cached::content(root, &known.path, most)?;
            let response = known.response(content, metadata)?;
            if all.len() >= REMEMBERED {
                all.clear();
            }
            all.insert(asked.into(), known);
            Some(response)
        }),
        Method::HEAD => {
            let mut known = Asked::new(asked)?;
            let metadata = cached::metadata(root, &known.path).filter(|metadata| !metadata.is_dir)?;
            known.response(Vec::new(), metadata)
        }
        _ => None,
    }
}

impl Asked {
    /// For a path that [may be asked for](may_be_asked_for).
    fn new(asked: &str) -> Option<Self> {
        if !may_be_asked_for(asked) {
            return None;
        }
        let decoded = percent_decode_str(asked).decode_utf8().ok()?;
        let mut path = decoded.trim_start_matches('/').to_owned();
        if path.is_empty() || path.ends_with('/') {
            path.push_str(INDEX);
        }
        let kind = mime_guess::from_path(&path).first_raw().unwrap_or("application/octet-stream");
        Some(Self { path: path.into(), kind, last: None })
    }

    fn response(&mut self, content: Vec<u8>, metadata: Metadata) -> Option<Response<Full<Bytes>>> {
        let head = match &mut self.last {
            Some((last, head)) if *last == metadata => head,
            other => &mut other.insert((metadata, head(self.kind, &metadata)?)).1,
        };
        let mut response = Response::new(Full::from(content));
        *response.headers_mut() = head.clone();
        Some(response)
    }
}

fn head(kind: &'static str, metadata: &Metadata) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(modified) = metadata.modified {
        headers.insert(LAST_MODIFIED, written(format_args!("{}", HttpDate::from(modified)))?);
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
        headers.insert(ETAG, written(format_args!("\"{seconds:x}.{nanos:08x}-{:x}\"", metadata.length))?);
    }
    headers.insert(CONTENT_LENGTH, metadata.length.into());
    Some(headers)
}

/// A short value.
fn written(text: std::fmt::Arguments<'_>) -> Option<HeaderValue> {
    let mut room = [0; 64];
    let mut rest = &mut room[..];
    rest.write_fmt(text).ok()?;
    let left = rest.len();
    HeaderValue::from_bytes(&room[..room.len() - left]).ok()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;
    use std::future::Future;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::Duration;

    use http::Version;
    use http_body_util::{BodyExt as _, Empty};

    use super::super::files::{Answer, Body, Files, YEAR_10000};
    use super::*;

    /// The whole of an answer: what HTTP makes of it, without the date.
    async fn told(answer: Result<Response<Body>, Infallible>) -> (String, Vec<u8>) {
        let (head, body) = answer.unwrap().into_parts();
        let headers: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        (
            format!("{}\n{}\n", head.status, headers.join("\n")),
            body.collect().await.unwrap().to_bytes().to_vec(),
        )
    }

    fn request(method: &str, path: &str) -> Request<Empty<Bytes>> {
        Request::builder().method(method).uri(path).body(Empty::new()).unwrap()
    }

    /// What is answered, if it is the same as what `ServeDir` answers, and whether at once.
    async fn asked(files: &Files, method: &str, path: &str) -> (bool, String, Vec<u8>) {
        let answer = files.answer(request(method, path));
        let at_once = matches!(answer, Answer::Now(_));
        let answer = told(answer.await).await;
        if may_be_asked_for(request(method, path).uri().path()) {
            let theirs = told(files.ask_serve_dir(request(method, path)).await).await;
            assert_eq!(answer, theirs, "{method} {path}");
        }
        (at_once, answer.0, answer.1)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn what_is_answered_at_once_is_what_serve_dir_answers() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["dir", "dir/deeper", "empty", "dir.html"] {
            fs::create_dir(at(name)).unwrap();
        }
        let names = [
            "index.html",
            "dir/index.html",
            "dir/deeper/a.css",
            "a",
            "a.",
            "a.TXT",
            "a.tar.gz",
            "a.html.gz",
            "a.js",
            "a.mjs",
            "a.wasm",
            "a.JPEG",
            "a.nothing",
            "a b+c.txt",
            "ä.svg",
            "ä.ä",
            "100%.json",
            "a?b.xml",
            "a#b.pdf",
            "a:b.md",
            "~a.c",
            "dir/a.woff2",
            "dir/no dot/x",
        ];
        fs::create_dir(at("dir/no dot")).unwrap();
        for (index, name) in names.iter().enumerate() {
            fs::write(at(name), "x".repeat(index)).unwrap();
        }
        for (name, length) in [("most", 65_536), ("less", 65_535), ("more", 65_537)] {
            fs::write(at(name), (0..length).map(|at| at as u8).collect::<Vec<_>>()).unwrap();
        }
        // Not to root.
        fs::write(at("unreadable"), "secret").unwrap();
        fs::set_permissions(at("unreadable"), fs::Permissions::from_mode(0o000)).unwrap();
        symlink("a.js", at("link")).unwrap();
        symlink("dir", at("linked")).unwrap();
        symlink("../a.js", at("empty/index.html")).unwrap();
        fs::write(at(".hidden"), "secret").unwrap();
        symlink(".hidden", at("shown")).unwrap();
        let files = Files::open(directory.path()).unwrap();
        run(async {
            for method in ["GET", "HEAD"] {
                for name in names {
                    for path in [name.replace('%', "%25").replace('?', "%3F").replace('#', "%23"), {
                        name.bytes()
                            .map(|byte| if byte == b'/' { "/".into() } else { format!("%{byte:02x}") })
                            .collect()
                    }] {
                        let path = format!("/{}?query/%ff", path.replace(' ', "%20").replace('ä', "%C3%A4"));
                        let (at_once, head, _) = asked(&files, method, &path).await;
                        assert!(at_once && head.starts_with("200 "), "{method} {path}: {head}");
                    }
                }
                for (path, now, status) in [
                    ("/", true, 200),
                    ("/?q", true, 200),
                    ("/dir/", true, 200),
                    ("/dir", false, 307),
                    ("/dir?q", false, 307),
                    ("/most", true, 200),
                    ("/less", true, 200),
                    ("/more", method == "HEAD", 200),
                    // Whoever follows a link may have to wait.
                    ("/link", false, 200),
                    ("/linked/", false, 200),
                    ("/linked/index.html", false, 200),
                    ("/linked", false, 307),
                    ("/empty/", false, 200),
                    ("/shown", false, 404),
                    ("/nothing", false, 404),
                    ("/dir.html", false, 404),
                    ("/dir.html/", false, 404),
                    ("/a.js/", false, 404),
                    ("/a.js/index.html", false, 404),
                    ("/index.html/", false, 404),
                    ("/.hidden", true, 404),
                    ("/dir/../a.js", true, 404),
                    ("/%2ehidden", true, 404),
                ] {
                    let (at_once, head, _) = asked(&files, method, path).await;
                    assert!(head.starts_with(&status.to_string()), "{method} {path}: {head}");
                    assert_eq!(at_once, now, "{method} {path}");
                }
            }
            // A client of HTTP/2 has many answers at a time.
            fs::write(at("part"), [0; 16_384]).unwrap();
            fs::write(at("parts"), [0; 16_385]).unwrap();
            for (path, now) in [("/part", true), ("/parts", false), ("/most", false)] {
                let mut request = request("GET", path);
                *request.version_mut() = Version::HTTP_2;
                assert_eq!(matches!(files.answer(request), Answer::Now(_)), now, "{path}");
            }
            let (get, head) =
                (asked(&files, "GET", "/unreadable").await, asked(&files, "HEAD", "/unreadable").await);
            assert_eq!(get.1, head.1);
            for method in ["POST", "PUT", "get", "OPTIONS"] {
                let (at_once, head, _) = asked(&files, method, "/").await;
                assert!(!at_once && head.starts_with("405 "), "{method}: {head}");
            }
            for (name, value) in [
                ("Range", "bytes=0-1"),
                ("If-Range", "\"a\""),
                ("If-Match", "*"),
                ("If-None-Match", "*"),
                ("If-Modified-Since", "nonsense"),
                ("If-Unmodified-Since", "nonsense"),
            ] {
                let mut request = request("GET", "/most");
                request.headers_mut().insert(name, HeaderValue::from_static(value));
                assert!(matches!(files.answer(request), Answer::Later(_)), "{name}");
            }
        });
    }

    #[test]
    fn every_change_of_a_file_is_seen_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "old").unwrap();
        let files = Files::open(directory.path()).unwrap();
        run(async {
            let (now, before, body) = asked(&files, "GET", "/file").await;
            assert!(now && body == b"old");
            fs::write(at("file"), "longer").unwrap();
            assert_eq!(asked(&files, "GET", "/file").await.2, b"longer");
            fs::write(at("other"), "new").unwrap();
            fs::rename(at("other"), at("file")).unwrap();
            let (now, after, body) = asked(&files, "GET", "/file").await;
            assert!(now && body == b"new" && after != before, "{before} {after}");
            fs::remove_file(at("file")).unwrap();
            assert!(asked(&files, "GET", "/file").await.1.starts_with("404 "));
            symlink("file2", at("file")).unwrap();
            fs::write(at("file2"), "linked").unwrap();
            assert_eq!(asked(&files, "GET", "/file").await.2, b"linked");
            // The length that is said is that of the body, whatever happens meanwhile.
            let writer = {
                let (root, versions) = (directory.path().to_owned(), [10, 60_000]);
                std::thread::spawn(move || {
                    for turn in 0..400 {
                        fs::write(root.join("next"), vec![b'x'; versions[turn % 2]]).unwrap();
                        fs::rename(root.join("next"), root.join("turning")).unwrap();
                    }
                })
            };
            while !writer.is_finished() {
                let answer = files.answer(request("GET", "/turning"));
                if !matches!(answer, Answer::Now(_)) {
                    continue;
                }
                let (head, body) = told(answer.await).await;
                assert!(head.contains(&format!("content-length: \"{}\"", body.len())), "{head}");
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_file_of_a_time_that_http_has_no_date_for_is_served_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "content").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let files = Files::open(directory.path()).unwrap();
        let epoch = SystemTime::UNIX_EPOCH;
        run(async {
            for (time, dated) in [
                (epoch, true),
                (epoch - Duration::from_nanos(1), false),
                (epoch - Duration::from_secs(1), false),
                (epoch + YEAR_10000 - Duration::from_nanos(1), true),
                (epoch + YEAR_10000, false),
            ] {
                // Not all file systems have such times.
                if file.set_modified(time).is_err() || path.metadata().unwrap().modified().unwrap() != time {
                    continue;
                }
                for method in [Method::GET, Method::HEAD] {
                    let (_, head, _) = asked(&files, method.as_str(), "/file").await;
                    assert!(head.starts_with("200 "), "{time:?}: {head}");
                    assert_eq!(head.contains("last-modified"), dated, "{time:?}: {head}");
                }
            }
        });
    }
}
