//! tonic on a listener that takes data in the SYN. Every gRPC call is a POST, so a call in the SYN waits
//! for the ACK: what is saved is that it is there with it, behind no further packet.
//!
//! ```sh
//! cargo run -p examples --example tonic_server 127.0.0.1:50051
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tfo_http_server::{AcceptInfo, TfoListener};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned()).parse()?;
    let listener = TfoListener::bind(addr)?;
    println!("listening on {}\n{}", listener.local_addr(), listener.effect());
    Server::builder().serve_with_incoming(Greeter, listener.into_incoming()).await?;
    Ok(())
}

/// What a generated service is, without protoc: one method, `/hello.Greeter/Hello`, from a name to a greeting.
#[derive(Clone, Copy)]
struct Greeter;

impl UnaryService<String> for Greeter {
    type Response = String;
    type Future = Ready<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        // In generated services too: what the listener knows of the connection.
        let info = request.extensions().get::<AcceptInfo>();
        let in_syn = info.is_some_and(AcceptInfo::arrived_in_syn);
        ready(Ok(Response::new(format!("hello {}, in the SYN: {in_syn}", request.get_ref()))))
    }
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != "/hello.Greeter/Hello" {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            Ok(Grpc::new(ProstCodec::<String, String>::default()).unary(Self, request).await)
        })
    }
}
