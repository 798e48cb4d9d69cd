//! Through proxies: hyper-util's connectors around the one under test, and a client that knows of a proxy.
//! What is said to a proxy may not be said twice: such connects are deferred, and their SYNs have no data.

use std::net::SocketAddr;

use hyper::header::HeaderValue;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Error;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::errors::all;
use crate::stage::{EMPTY, NOT_THESE, PlainBody, Stage, Syn, client, get, head, mirror, request, send, soon};
use crate::support::subject::Subject;

const TARGET: &str = "http://192.0.2.7:8080/page";
const NAMED: &str = "http://target.test:8080/page";

pub(crate) fn absolute_form_through_a_proxy<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(mirror);
    let (watched, uri) = (stage.watched().proxied(), stage.uri("/foo/bar"));
    stage.run(async move {
        let head = get(&client(watched), &uri).await;
        assert!(head.starts_with(format!("GET {uri} HTTP/1.1\r\n").as_bytes()), "{head:?}");
    });
    stage.shows(&[Syn::Rode]);
}

pub(crate) fn authority_form_for_connect<C: Subject>() {
    let stage = Stage::<C>::new();
    let _server = stage.serve(|mut stream| async move {
        let head = head(&mut stream).await.unwrap();
        assert!(head.starts_with("CONNECT 10.0.0.2:80 HTTP/1.1\r\n"), "{head}");
        stream.write_all(EMPTY).await.unwrap();
        let _ = stream.read(&mut [0]).await;
    });
    let (watched, uri) =
        (stage.watched().proxied(), "http://10.0.0.2:80/useless/path".parse::<Uri>().unwrap());
    stage.run(async move {
        let connect = Request::connect(uri).body(PlainBody::default()).unwrap();
        assert!(soon(client(watched).request(connect)).await.unwrap().status().is_success());
    });
    stage.shows(&[Syn::DataLess]);
}

/// What a proxy hears and what it says to that.
type Turn<'a> = (&'a [u8], &'a [u8]);

const CONNECTED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const GRANTED: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const TO_NAME: &[u8] = b"\x05\x01\x00\x03\x0btarget.test\x1f\x90";
const TO_V4: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 7, 0x1F, 0x90];

/// A request by way of a proxy that keeps to its part, and is the server as well.
fn through<C: Subject, P>(target: &'static str, wrap: fn(Uri, C) -> P, script: &'static [Turn<'static>])
where
    P: Connect + Clone + Send + Sync + 'static,
{
    let stage = Stage::<C>::new();
    let _proxy = stage.serve(move |mut stream| async move {
        for (hears, says) in script {
            let mut heard = vec![0; hears.len()];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, *hears, "{}", String::from_utf8_lossy(&heard));
            stream.write_all(says).await.unwrap();
        }
        mirror(stream).await;
    });
    let connector = wrap(stage.uri("/"), stage.connector());
    let uri = target.parse().unwrap();
    stage.run(async move {
        let head = get(&client(connector), &uri).await;
        assert!(head.starts_with(b"GET /page HTTP/1.1\r\n"), "{head:?}");
    });
    stage.shows(&[Syn::DataLess]);
}

pub(crate) fn http_connect<C: Subject>() {
    const HEAD: &[u8] = b"CONNECT target.test:8080 HTTP/1.1\r\nHost: target.test:8080\r\n\r\n";
    through(NAMED, Tunnel::<C>::new, &[(HEAD, CONNECTED)]);
}

pub(crate) fn http_connect_with_credentials<C: Subject>() {
    const HEAD: &[u8] = b"CONNECT target.test:8080 HTTP/1.1\r\nHost: target.test:8080\r\n\
                          Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n";
    let wrap = |proxy, connector: C| {
        Tunnel::new(proxy, connector).with_auth(HeaderValue::from_static("Basic dXNlcjpwYXNz"))
    };
    through(NAMED, wrap, &[(HEAD, CONNECTED)]);
}

pub(crate) fn socks_5<C: Subject>() {
    through(TARGET, SocksV5::<C>::new, &[(&[5, 1, 0], &[5, 0]), (TO_V4, GRANTED)]);
}

/// RFC 1929.
pub(crate) fn socks_5_with_a_password<C: Subject>() {
    let wrap = |proxy, connector: C| SocksV5::new(proxy, connector).with_auth("user".into(), "pass".into());
    const LOGIN: &[u8] = b"\x01\x04user\x04pass";
    through(TARGET, wrap, &[(&[5, 1, 2], &[5, 2]), (LOGIN, &[1, 0]), (TO_V4, GRANTED)]);
}

pub(crate) fn socks_5_resolves_at_the_proxy<C: Subject>() {
    through(NAMED, SocksV5::<C>::new, &[(&[5, 1, 0], &[5, 0]), (TO_NAME, GRANTED)]);
}

pub(crate) fn socks_5_resolves_here<C: Subject>() {
    let wrap = |proxy, connector: C| SocksV5::new(proxy, connector).local_dns(true);
    const TO_V4: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 7, 0x1F, 0x90];
    through(TARGET, wrap, &[(&[5, 1, 0], &[5, 0]), (TO_V4, GRANTED)]);
}

pub(crate) fn socks_5_to_ipv6<C: Subject>() {
    const TO_V6: &[u8] = &[5, 1, 0, 4, 0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x1F, 0x90];
    through("http://[2001:db8::7]:8080/page", SocksV5::<C>::new, &[(&[5, 1, 0], &[5, 0]), (TO_V6, GRANTED)]);
}

/// Greeting and request in one flight.
pub(crate) fn socks_5_all_at_once<C: Subject>() {
    let wrap = |proxy, connector: C| SocksV5::new(proxy, connector).send_optimistically(true);
    const BOTH: &[u8] = &[5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 7, 0x1F, 0x90];
    const ANSWERS: &[u8] = &[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    through(TARGET, wrap, &[(BOTH, ANSWERS)]);
}

const SOCKS_4_GRANTED: &[u8] = &[0, 90, 0, 0, 0, 0, 0, 0];

pub(crate) fn socks_4<C: Subject>() {
    const ASK: &[u8] = &[4, 1, 0x1F, 0x90, 192, 0, 2, 7, 0];
    through(TARGET, SocksV4::<C>::new, &[(ASK, SOCKS_4_GRANTED)]);
}

pub(crate) fn socks_4_resolves_at_the_proxy<C: Subject>() {
    const ASK: &[u8] = b"\x04\x01\x1f\x90\x00\x00\x00\xff\x00target.test\x00";
    through(NAMED, SocksV4::<C>::new, &[(ASK, SOCKS_4_GRANTED)]);
}

/// It has no words for it, and says so; the proxy itself was reached.
pub(crate) fn socks_4_cannot_ipv6<C: Subject>() {
    let stage = Stage::<C>::new();
    let _proxy = stage.serve(mirror);
    let (connector, direct) = (SocksV4::new(stage.uri("/"), stage.connector()), stage.connector());
    let (uri, own) = ("http://[2001:db8::7]:8080/page".parse().unwrap(), stage.uri("/"));
    stage.run(async move {
        let error = soon(send(&client(connector), request(&uri))).await.unwrap_err();
        assert!(error.is_connect() && all(&error).contains("SOCKS"), "{}", all(&error));
        get(&client(direct), &own).await;
    });
    let last = stage.flows().last().map(Syn::of).unwrap();
    assert!(!C::DEFERS || last == Syn::Rode, "{NOT_THESE}{last:?}");
}

/// As the environment does: a proxy for all but one, with credentials.
pub(crate) fn a_matcher_decides<C: Subject>() {
    let stage = Stage::<C>::new();
    let _proxy = stage.serve(|mut stream| async move {
        let mut first = [0; 4];
        stream.peek(&mut first).await.unwrap();
        if &first == b"CONN" {
            let head = head(&mut stream).await.unwrap();
            assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"), "{head}");
            stream.write_all(CONNECTED).await.unwrap();
        }
        mirror(stream).await;
    });
    let matcher = Matcher::builder().all("http://user:pass@10.0.0.2:80").no("server.v4.test").build();
    let connector = stage.connector();
    stage.run(async move {
        for uri in [NAMED, "http://server.v4.test/page"] {
            let uri: Uri = uri.parse().unwrap();
            let head = match matcher.intercept(&uri) {
                Some(proxy) => {
                    assert_eq!(uri, NAMED);
                    let auth = proxy.basic_auth().unwrap().clone();
                    let tunnel = Tunnel::new(proxy.uri().clone(), connector.clone()).with_auth(auth);
                    get(&client(tunnel), &uri).await
                }
                None => get(&client(connector.clone()), &uri).await,
            };
            assert!(head.starts_with(b"GET /page HTTP/1.1\r\n"), "{head:?}");
        }
    });
    stage.shows(&[Syn::DataLess, Syn::Rode]);
}

/// Each is told by a typed error, in which the reason can be found, and none hangs.
pub(crate) fn proxies_that_refuse_or_talk_nonsense_or_hang_up<C: Subject>() {
    const ENDLESS: &[u8] = &[b'x'; 20_000];
    let tunnels: [(&[u8], &str); 5] = [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "unsuccessful"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "authorization required"),
        (b"220 mail.test ESMTP\r\n\r\n", "unsuccessful"),
        (ENDLESS, "unsuccessful"),
        (b"", "unexpected end of file"),
    ];
    for (says, why) in tunnels {
        bad::<C, _>(says, why, Tunnel::new);
    }
    for (says, why) in
        [(&[5, 0xFF][..], "auth"), (&[4, 0], ""), (b"HTTP/1.1 400 Bad Request\r\n\r\n", ""), (b"", "")]
    {
        bad::<C, _>(says, why, SocksV5::new);
    }
}

fn bad<C: Subject, P>(says: &'static [u8], why: &str, wrap: fn(Uri, C) -> P)
where
    P: Connect + Clone + Send + Sync + 'static,
{
    let stage = Stage::<C>::new();
    let _proxy = stage.serve(move |mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(says).await;
        if !says.is_empty() {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let connector = wrap(stage.uri("/"), stage.connector());
    let error: Error = stage.run(async move {
        soon(send(&client(connector), request(&NAMED.parse().unwrap()))).await.unwrap_err()
    });
    assert!(error.is_connect(), "{error:?}");
    assert!(all(&error).contains(why), "{:?}: {}", String::from_utf8_lossy(says), all(&error));
    stage.shows(&[Syn::DataLess]);
}

pub(crate) fn a_proxy_that_is_not_there<C: Subject>() {
    let stage = Stage::<C>::new();
    let (tunnel, socks) = (
        Tunnel::new(stage.uri("/"), stage.connector()),
        SocksV5::new(
            Uri::try_from(format!("http://{}/", SocketAddr::from((stage.addr().ip(), 81)))).unwrap(),
            stage.connector(),
        ),
    );
    stage.run(async move {
        let uri: Uri = NAMED.parse().unwrap();
        for error in [
            soon(send(&client(tunnel), request(&uri))).await.unwrap_err(),
            soon(send(&client(socks), request(&uri))).await.unwrap_err(),
        ] {
            assert!(error.is_connect() && tfo_http::is_connect_error(&error), "{error:?}");
            // hyper-util's error of SOCKS does not tell its source.
            let told = all(&error);
            assert!(told.contains("SOCKS") || told.contains("refused"), "{told}");
        }
    });
    let first = stage.flows().first().map(Syn::of).unwrap();
    assert!(!C::DEFERS || first == Syn::DataLess, "{NOT_THESE}{first:?}");
}
