//! What may ride in the SYN is the caller's choice: four of them, each with two visits or more.
//!
//! Against a server of your own (`simple_server`, or `tfo serve`; with `--no-cookie` for the last):
//!
//! ```sh
//! cargo run -p examples --example policies http://192.0.2.1:8080/
//! ```

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tfo_http::{ConnInfo, Ride, SynData, TfoConnector, connect_error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri: Uri = std::env::args().nth(1).ok_or("usage: policies http://HOST:PORT/")?.parse()?;

    // Fetch a cookie ahead: then the first request rides as well.
    let connector = TfoConnector::new();
    println!("warm: {:?}", connector.warm(uri.clone()).await?);
    visit("a GET by default", &connector, Method::GET, &uri).await?;
    visit("a POST by default", &connector, Method::POST, &uri).await?;

    // A rule: this service knows its idempotency keys, so these requests may come twice.
    let mut by_rule = TfoConnector::new();
    by_rule.set_syn_data(SynData::rule(|head| {
        let known = head.method.is_safe() || head.headers.contains_key("idempotency-key");
        if known { Ride::Repeatable } else { Ride::No }
    }));
    visit("a POST by a rule", &by_rule, Method::POST, &uri).await?;

    // Everything, and nothing is repeated by this side. For requests that may be executed twice.
    let mut danger = TfoConnector::new();
    danger.set_syn_data(SynData::DangerEverything);
    visit("a POST with danger", &danger, Method::POST, &uri).await?;

    // Without a cookie, in a network where nobody can forge an address: the first visit rides too.
    let mut private = TfoConnector::new();
    private.set_no_cookie(["10.0.0.0/8".parse()?, "fd00::/8".parse()?]);
    visit("a GET without a cookie, in private networks", &private, Method::GET, &uri).await?;
    Ok(())
}

async fn visit(
    what: &str,
    connector: &TfoConnector,
    method: Method,
    uri: &Uri,
) -> Result<(), Box<dyn Error>> {
    let client = Client::builder(TokioExecutor::new()).build(connector.clone());
    let request = Request::builder().method(method).uri(uri).header("idempotency-key", "8e03978e");
    let response = match client.request(request.body(Full::<Bytes>::default())?).await {
        Ok(response) => response,
        Err(error) => {
            // The difference that matters to whoever wants to try again.
            let maybe_executed = connect_error(&error).is_some_and(|error| error.maybe_executed());
            return Err(format!("{what}: {error} (maybe executed: {maybe_executed})").into());
        }
    };
    let info = response.extensions().get::<ConnInfo>().cloned();
    response.into_body().collect().await?;
    let Some(info) = info else { return Ok(()) };
    print!("{what}: {}, {} bytes in the SYN", info.outcome(), info.syn_data_bytes());
    match info.reason() {
        None => println!(", {} round trip saved", info.saved_rtts()),
        Some(reason) => println!(" ({reason})"),
    }
    Ok(())
}
