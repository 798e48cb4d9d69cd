//! Ten thousand connections, most of them given up halfway: no descriptor and no task stays behind.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::http::{RUNTIMES, run};
use support::tcp::{GET, TcpServer, dial, fetch_cookie, phase, uri};
use tfo_http::{ConnectErrorKind, SynData, TfoConnector, connect_error};
use tfo_lab::{Lab, Packet, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tower_service::Service as _;

const OPEN: u16 = 80;
const REFUSED: u16 = 81;
const SILENT: u16 = 82;
/// Connections for each end and runtime, in rounds: 2 × 8 × 7 × 90 are 10,080.
const ROUNDS: usize = 7;
const AT_ONCE: usize = 90;
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Dropped before anything was written.
    Idle,
    /// Dropped with a first flight that was not sent.
    Corked,
    /// Dropped with its SYN on the way.
    SynSent,
    Refused,
    TimedOut,
    /// The connector's future was dropped, its SYN on the way.
    Cancelled,
    /// Dropped by a reader and a writer in two tasks, aborted.
    Aborted,
    /// A request and its answer.
    Answered,
}

const ENDS: [End; 8] = [
    End::Idle,
    End::Corked,
    End::SynSent,
    End::Refused,
    End::TimedOut,
    End::Cancelled,
    End::Aborted,
    End::Answered,
];

lab_tests! {
    fn ten_thousand_connections_leave_nothing_behind() {
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(Duration::from_millis(4)).tap_limit(0).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            client.set_sysctl("net.ipv4.ip_local_port_range", "1024 65000").unwrap();
            client.set_sysctl("net.ipv4.tcp_max_tw_buckets", 100).unwrap();
            lab.middlebox(|packet: &Packet| match packet.dst().map(|to| to.port()) {
                Some(SILENT) => Verdict::Drop,
                _ => Verdict::Pass,
            });
            let open = Arc::new(AtomicUsize::new(0));
            let served = open.clone();
            let _server = TcpServer::start(&server, server.addr(OPEN), move |mut stream: TcpStream| {
                let served = served.clone();
                served.fetch_add(1, Ordering::SeqCst);
                async move {
                    let mut bytes = [0; 1000];
                    if let Ok(count @ 1..) = stream.read(&mut bytes).await {
                        let _ = stream.write_all(&bytes[..count]).await;
                        let _ = stream.read(&mut bytes).await;
                    }
                    drop(stream);
                    served.fetch_sub(1, Ordering::SeqCst);
                }
            });
            let ports = [OPEN, REFUSED, SILENT].map(|port| server.addr(port));
            run(&client, runtime, async move {
                fetch_cookie(ports[0]).await;
                settled(&open, usize::MAX).await;
                let before = (descriptors(), Handle::current().metrics().num_alive_tasks());
                for end in ENDS {
                    for _ in 0..ROUNDS {
                        let tasks: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(one(ports, end))).collect();
                        for task in tasks {
                            task.await.unwrap();
                        }
                    }
                    // The test counts what it means to count.
                    let after = settled(&open, before.0).await;
                    assert_eq!(after, before.0, "descriptors after {end:?}");
                    let tasks = Handle::current().metrics().num_alive_tasks();
                    assert_eq!(tasks, before.1, "tasks after {end:?}");
                }
                let kept = dial(&TfoConnector::new(), ports[0]).await;
                assert_eq!(descriptors(), before.0 + 1, "one would be seen");
                drop(kept);
            });
        }
    }
}

async fn one([open, refused, silent]: [SocketAddr; 3], end: End) {
    let mut connector = TfoConnector::new();
    match end {
        End::Idle => {
            let mut stream = dial(&connector, open).await;
            let mut bytes = [0];
            let read = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut bytes));
            read.await.expect_err("it waits");
            assert_eq!(phase(&stream), "Idle");
        }
        End::Corked => {
            let mut stream = dial(&connector, open).await;
            stream.write_all(GET).await.unwrap();
            assert_eq!(phase(&stream), "Corked");
        }
        End::SynSent => {
            let mut stream = dial(&connector, open).await;
            stream.write_all(GET).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(phase(&stream), "SynSent");
        }
        End::Refused => {
            let mut stream = dial(&connector, refused).await;
            stream.write_all(GET).await.unwrap();
            let error = stream.read(&mut [0]).await.unwrap_err();
            assert_eq!(connect_error(&error).unwrap().kind(), ConnectErrorKind::Connect);
        }
        End::TimedOut => {
            connector.set_connect_timeout(Some(Duration::from_millis(20)));
            let mut stream = dial(&connector, silent).await;
            stream.write_all(GET).await.unwrap();
            let error = stream.read(&mut [0]).await.unwrap_err();
            assert_eq!(connect_error(&error).unwrap().kind(), ConnectErrorKind::TimedOut);
        }
        End::Cancelled => {
            connector.set_syn_data(SynData::Never);
            let connecting = connector.call(uri(silent));
            let waited = tokio::time::timeout(Duration::from_millis(5), connecting).await;
            waited.expect_err("nobody answers");
        }
        End::Aborted => {
            let stream = dial(&connector, open).await;
            let (mut read, mut write) = tokio::io::split(stream);
            let reader = tokio::spawn(async move { read.read(&mut [0; 2000]).await.map(drop) });
            let writer = tokio::spawn(async move {
                write.write_all(GET).await?;
                write.flush().await?;
                std::future::pending::<std::io::Result<()>>().await
            });
            tokio::task::yield_now().await;
            reader.abort();
            writer.abort();
            let _ = (reader.await, writer.await);
        }
        End::Answered => {
            let mut stream = dial(&connector, open).await;
            stream.write_all(GET).await.unwrap();
            let mut echo = vec![0; GET.len()];
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(stream.conn_info().saved_rtts(), 1);
        }
    }
}

/// The descriptors of the process when the server has none of its connections any more, and there are
/// not more than before; at the latest after a while.
async fn settled(open: &AtomicUsize, before: usize) -> usize {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = descriptors();
        if open.load(Ordering::SeqCst) == 0 && now <= before || begun.elapsed() > PATIENCE {
            return now;
        }
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
