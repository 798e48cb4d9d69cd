//! axum on a listener that takes requests in the SYN.
//!
//! `GET /` is answered one round trip early; `POST /transfer` reaches its handler only when the
//! client has proven its address, because its bytes are withheld until then; `GET /report` changes
//! something all the same, and waits for the proof itself.
//!
//! ```sh
//! cargo run -p examples --example axum_server 127.0.0.1:8080
//! ```

use std::error::Error;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tfo_http_server::{AcceptInfo, TfoListener};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let listener = TfoListener::bind(addr)?;
    println!("listening on http://{}\n{}", listener.local_addr(), listener.effect());
    let app = Router::new()
        .route("/", get(index))
        .route("/transfer", post(|body: String| async move { format!("transferred: {body}\n") }))
        .route("/report", get(report));
    axum::serve(listener, app.into_make_service_with_connect_info::<AcceptInfo>()).await?;
    Ok(())
}

async fn index(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
    format!("in the SYN: {}, proven: {}\n", info.arrived_in_syn(), info.is_proven())
}

async fn report(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> Result<&'static str, StatusCode> {
    info.proven().await.map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok("reported\n")
}
