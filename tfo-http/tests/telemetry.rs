//! What the `metrics` facade and `tracing` are given, on the loopback of the machine as it is.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tfo_http::metrics::METRIC_NAMES;
use tfo_http::{Client, ConnInfo, TfoMetrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One test: recorder and subscriber are the process's.
#[tokio::test]
async fn the_facade_and_the_spans_say_what_the_snapshot_says() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    tfo_http::metrics::describe();
    let log = Log::default();
    let writer = log.clone();
    let level = tracing::Level::DEBUG;
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    let spans = tracing_subscriber::fmt::format::FmtSpan::CLOSE;
    subscriber.with_span_events(spans).with_writer(move || writer.clone()).init();

    let addr = serve().await;
    let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let mut infos = Vec::new();
    for _ in 0..3 {
        let answer = client.get(format!("http://me:secret@{addr}/path")).await.unwrap();
        infos.push(answer.extensions().get::<ConnInfo>().unwrap().clone());
        assert_eq!(answer.into_body().bytes(5).await.unwrap(), "hello");
    }
    // RFC 6335: port 1 is tcpmux, which nobody has.
    client.get("http://127.0.0.1:1/").await.unwrap_err();
    let metrics = client.metrics();
    assert_eq!(metrics.connections(), 4);

    let told = snapshotter.snapshot().into_vec();
    let sum = |wanted: &str| -> u64 {
        let of_name = told.iter().filter(|(key, ..)| key.key().name() == wanted);
        of_name
            .map(|(_, _, _, value)| match value {
                DebugValue::Counter(count) => *count,
                DebugValue::Histogram(values) => values.len() as u64,
                DebugValue::Gauge(_) => panic!("no gauge is told"),
            })
            .sum()
    };
    let TfoMetrics { hedged, saved_rtts, syn_data_bytes, handshake_rtt, .. } = metrics;
    assert_eq!(sum("tfo_client_connections_total"), metrics.connections());
    assert_eq!(sum("tfo_client_hedged_total"), hedged);
    assert_eq!(sum("tfo_client_saved_round_trips_total"), saved_rtts);
    assert_eq!(sum("tfo_client_saved_seconds"), saved_rtts);
    assert_eq!(sum("tfo_client_syn_data_bytes_total"), syn_data_bytes);
    assert_eq!(sum("tfo_client_handshake_rtt_seconds"), handshake_rtt.count);
    for (key, _, description, _) in &told {
        let metric = METRIC_NAMES.into_iter().find(|metric| metric.name == key.key().name());
        assert_eq!(metric.map(|metric| metric.meaning), description.as_deref(), "{key:?}");
    }

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for info in &infos {
        let line = log.lines().find(|line| {
            line.contains("connection network.transport=\"tcp\"")
                && line.contains(&format!("tfo.outcome=\"{}\"", info.outcome()))
        });
        let line = line.unwrap_or_else(|| panic!("{info:?}\n{log}"));
        assert!(line.contains(&format!("network.peer.port={}", addr.port())), "{line}");
        assert!(line.contains(&format!("tfo.saved.round_trips={}", info.saved_rtts())), "{line}");
    }
    let closed: Vec<_> = log.lines().filter(|line| line.contains(": close ")).collect();
    assert_eq!(closed.len(), 4, "{log}");
    for field in [
        "otel.name=\"GET\"",
        "http.request.method=\"GET\"",
        &format!("url.full=http://***@{addr}/path"),
        "server.address=\"127.0.0.1\"",
        "http.response.status_code=200",
        "network.peer.address=127.0.0.1",
    ] {
        assert!(closed[0].contains(field), "{field}: {}", closed[0]);
    }
    assert!(closed[3].contains("error.type=\"connect\""), "{}", closed[3]);
    assert!(!log.contains("secret"), "{log}");
}

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        }
    });
    addr
}
