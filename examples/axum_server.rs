//! axum on a listener that takes requests in the SYN.
//!
//! `GET /` is answered one round trip early; `POST /transfer` reaches its handler only when the
//! client has proven its address, because its bytes are withheld until then; `GET /report` changes
//! something all the same, so its route asks for the proof. Ctrl-C ends it when the requests under way are
//! answered, those too that are still withheld.
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
    let stats = listener.stats();
    let stopped = async move {
        let _ = tokio::signal::ctrl_c().await;
        // A request that is still withheld is one under way, which axum cannot know.
        stats.settled().await;
    };
    let app = Router::new()
        .route("/", get(index))
        .route("/transfer", post(|body: String| async move { format!("transferred: {body}\n") }))
        .route("/report", get("reported\n").layer(ProofLayer::every_request()));
    let app = app.into_make_service_with_connect_info::<AcceptInfo>();
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(())
}

async fn index(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
    format!("in the SYN: {}, proven: {}\n", info.arrived_in_syn(), info.is_proven())
}

fn address() -> Result<SocketAddr, Box<dyn Error>> {
    Ok(std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?)
}
