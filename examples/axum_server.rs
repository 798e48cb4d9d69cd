//! axum on a listener that takes requests in the SYN.
//!
//! `GET /` is answered one round trip early; `POST /transfer` reaches its handler only when the
//! client has proven its address, because its bytes are withheld until then; `GET /report` changes
//! something all the same, so its route asks for the proof.
//!
//! ```sh
//! cargo run -p examples --example axum_server 127.0.0.1:8080
//! ```
//!
//! Under systemd it takes the socket that it is handed: `systemd/` has the units.

use std::error::Error;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use tfo_http_server::{AcceptInfo, ProofLayer, TfoListener};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = match TfoListener::builder().from_environment()?.pop() {
        Some(handed_over) => handed_over,
        None => TfoListener::bind(address()?)?,
    };
    println!("listening on http://{}\n{}", listener.local_addr(), listener.effect());
    let app = Router::new()
        .route("/", get(index))
        .route("/transfer", post(|body: String| async move { format!("transferred: {body}\n") }))
        .route("/report", get("reported\n").layer(ProofLayer::every_request()));
    axum::serve(listener, app.into_make_service_with_connect_info::<AcceptInfo>()).await?;
    Ok(())
}

async fn index(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
    format!("in the SYN: {}, proven: {}\n", info.arrived_in_syn(), info.is_proven())
}

fn address() -> Result<SocketAddr, Box<dyn Error>> {
    Ok(std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?)
}
