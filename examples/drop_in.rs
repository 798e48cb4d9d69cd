//! A `hyper_util` client in which one line has changed: the connector's.
//!
//! ```sh
//! cargo run -p examples --example drop_in http://192.0.2.1:8080/
//! ```

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: drop_in http://HOST:PORT/")?.parse()?;

    // let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
    let mut connector = tfo_http::TfoConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(5)));

    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let response = client.get(uri).await?;
    println!("{}", response.status());
    print!("{}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    Ok(())
}
