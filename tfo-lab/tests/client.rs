//! The connector end to end: requests that ride, and what becomes of those that may not.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{Until, flows, serve};
use tfo_http::{ConnInfo, TfoConnector};
use tfo_lab::{Lab, lab_tests};

lab_tests! {
    fn repeat_visits_ride() {
        let lab = Lab::builder().rtt(Duration::from_millis(20)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let served = serve(&server, server.addr(80), Until::EmptyLine, 3);
        let uri: hyper::Uri = format!("http://{}/", server.addr(80)).parse().unwrap();
        let infos = client.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(TfoConnector::new());
                let mut infos = Vec::new();
                for _ in 0..3 {
                    let response = http.get(uri.clone()).await.unwrap();
                    let info = response.extensions().get::<ConnInfo>().unwrap().clone();
                    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
                    infos.push(info);
                }
                infos
            })
        });
        let accepted = served.join().unwrap();
        let flows = flows(&lab, 80);
        for (info, flow) in infos.iter().zip(&flows) {
            println!("{info:?}\n{flow}");
        }
        drop(accepted);
    }
}
