//! tonic over the connector: with a cookie, the preface, SETTINGS and what tonic has queued by then may ride.
//! A gRPC call is a POST and does not, unless the caller says that it may be repeated.
//!
//! ```sh
//! cargo run -p examples --example tonic_client http://127.0.0.1:50051
//! ```

use std::error::Error;

use tfo_http::TfoConnector;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    // Lazily: the connection is made when there is a call to send.
    let channel = Endpoint::from_shared(server)?.connect_with_connector_lazy(TfoConnector::new());
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let method = PathAndQuery::from_static("/hello.Greeter/Hello");
    let call = Request::new("world".to_owned());
    let answer = client.unary(call, method, ProstCodec::<String, String>::default()).await?;
    println!("{}", answer.get_ref());
    Ok(())
}
