//! A hyper server whose requests may arrive in the SYN, and which acts on nothing it could be made
//! to repeat.
//!
//! ```sh
//! cargo run -p examples --example simple_server 127.0.0.1:8080
//! ```

use std::convert::Infallible;
use std::error::Error;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tfo_http_server::{AcceptInfo, TfoListener};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let listener = TfoListener::bind(addr)?;
    println!("listening on http://{}", listener.local_addr());
    println!("{}", listener.effect()); // whether TCP Fast Open works here, and if not, the fix
    loop {
        let (stream, _) = listener.accept_next().await;
        let info = stream.info();
        tokio::spawn(async move {
            let hello = service_fn(|request| hello(request, &info));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), hello).await {
                eprintln!("{}: {error}", info.remote_addr());
            }
        });
    }
}

async fn hello(request: Request<Incoming>, info: &AcceptInfo) -> Result<Response<Full<Bytes>>, Infallible> {
    let how = if info.arrived_in_syn() { "in the SYN" } else { "behind an ordinary handshake" };
    let text = format!("{} {} arrived {how}\n", request.method(), request.uri().path());
    Ok(Response::new(Full::from(text)))
}
