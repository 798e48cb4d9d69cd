//! The resolver that remembers, against a name server that counts.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use support::http::{Runtime, run};
use support::web::Web;
use tfo_http::client::ErrorKind;
use tfo_http::{CachingResolver, Client, ConnInfo, TfoConnector};
use tfo_lab::{Host, Lab, lab_tests};

const RTT: Duration = Duration::from_millis(40);

lab_tests! {
    /// As long as the answer's TTL, and no longer; and the time is told.
    fn a_name_is_asked_for_once_in_its_ttl() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let _web = Web::start(&host, host.addr(80));
        let asked = name_server(&host);
        let (server, ip) = (asked.clone(), host.ipv4());
        run(&client, Runtime::CurrentThread, async move {
            let connector = TfoConnector::new_with_resolver(CachingResolver::new(resolver(ip)));
            let client = Client::builder().connector(connector).pool_max_idle_per_host(0).build().unwrap();
            let mut times = Vec::new();
            for _ in 0..3 {
                times.push(visit(&client).await.dns().unwrap());
            }
            assert_eq!(server.load(Ordering::Relaxed), 1);
            assert!(times[0] >= RTT, "{times:?}");
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert!(visit(&client).await.dns().unwrap() >= RTT);
            assert_eq!(server.load(Ordering::Relaxed), 2);

            let error = client.get("http://missing.test/").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Dns, "{error:?}");
        });
        assert!(asked.load(Ordering::Relaxed) >= 2);
    }
}

async fn visit(client: &Client) -> ConnInfo {
    let answer = client.get("http://name.test/").await.unwrap();
    let info = answer.extensions().get::<ConnInfo>().unwrap().clone();
    assert_eq!(answer.into_body().bytes(5).await.unwrap(), "hello");
    info
}

fn resolver(server: Ipv4Addr) -> TokioResolver {
    let servers = vec![NameServerConfig::udp(server.into())];
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4Only;
    builder.build().unwrap()
}

/// Says that `name.test` is here for two seconds, and that there are no other names (RFC 1035). It
/// counts the questions for the one.
fn name_server(host: &Host) -> Arc<AtomicUsize> {
    let asked = Arc::<AtomicUsize>::default();
    let (count, ip) = (asked.clone(), host.ipv4());
    let socket = host.run(|| UdpSocket::bind(SocketAddr::from((ip, 53)))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    host.spawn(move || {
        let mut packet = [0; 512];
        while let Ok((_, client)) = socket.recv_from(&mut packet) {
            let name_end = 12 + packet[12..].iter().position(|byte| *byte == 0).unwrap();
            let known = &packet[12..name_end] == b"\x04name\x04test";
            count.fetch_add(known.into(), Ordering::Relaxed);
            let mut reply = packet[..name_end + 5].to_vec();
            // A response, recursion there; one question, one answer or NXDOMAIN, nothing else.
            (reply[2], reply[3]) = (0x81, if known { 0x80 } else { 0x83 });
            reply[4..12].copy_from_slice(&[0, 1, 0, known.into(), 0, 0, 0, 0]);
            if known {
                reply.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 2, 0, 4]);
                reply.extend_from_slice(&ip.octets());
            }
            let _ = socket.send_to(&reply, client);
        }
    });
    asked
}
