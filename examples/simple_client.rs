//! Two visits, each on a new connection, and what each did and saved.
//!
//! The first asks the server for a cookie, the second sends its request in the SYN. Against a server
//! of your own (`simple_server`, or `tfo serve`) and the kernel as it is set:
//!
//! ```sh
//! cargo run -p examples --example simple_client http://192.0.2.1:8080/
//! ```

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tfo_http::{ConnInfo, TfoConnector};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri: hyper::Uri = std::env::args().nth(1).ok_or("usage: simple_client http://HOST:PORT/")?.parse()?;
    for visit in 1..=2 {
        // A client of its own for each visit, so that no connection is used twice.
        let client: Client<_, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).build(TfoConnector::new());
        let response = client.get(uri.clone()).await?;
        let (status, info) = (response.status(), response.extensions().get::<ConnInfo>().cloned());
        let body = response.into_body().collect().await?.to_bytes();
        println!("visit {visit}: {status}, {} bytes", body.len());

        let Some(info) = info else { continue };
        print!("  {}: {} bytes in the SYN", info.outcome(), info.syn_data_bytes());
        match info.reason() {
            None => println!(", {} round trip ({:.1?}) saved", info.saved_rtts(), info.saved()),
            Some(reason) => println!(", nothing saved: {reason}"),
        }
    }
    Ok(())
}
