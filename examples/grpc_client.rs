//! gRPC with tonic, whose calls ride in the SYN.
//!
//! A gRPC call is a POST: by default it waits for the handshake. A rule says which calls the server may see twice,
//! and those ride: preface, settings, head and message in one packet. With `tonic_server` as the server:
//!
//! ```sh
//! cargo run -p examples --example grpc_client http://127.0.0.1:50051
//! ```

use std::error::Error;

use tfo_http::{Ride, SynData, TfoConnector};
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    let endpoint = Endpoint::from_shared(server.clone())?;

    let mut connector = TfoConnector::new();
    connector.set_nodelay(true);
    connector.set_syn_data(SynData::rule(|head| match head.uri.path() {
        "/hello.Greeter/Hello" => Ride::Repeatable, // it reads only
        _ => Ride::No,
    }));
    // A cookie ahead, so that the first call rides.
    println!("warm: {:?}", connector.warm(server.parse()?).await?);

    // Lazily: the connection is made when there is a call to send. An eager one would send its preface alone.
    let channel = endpoint.connect_with_connector_lazy(connector);
    println!("by a rule:  {}", hello(channel).await?);
    let channel = endpoint.connect_with_connector_lazy(TfoConnector::new());
    println!("by default: {}", hello(channel).await?);
    Ok(())
}

/// What a generated client does.
async fn hello(channel: Channel) -> Result<String, Box<dyn Error>> {
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let method = PathAndQuery::from_static("/hello.Greeter/Hello");
    let call = Request::new("world".to_owned());
    let answer = client.unary(call, method, ProstCodec::<String, String>::default()).await?;
    Ok(answer.into_inner())
}
