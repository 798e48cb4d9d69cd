//! Two visits by HTTPS, and what the ClientHello did.
//!
//! rustls' default hello is safe against quantum computers and too large for a SYN: it saves nothing.
//! With `--classical` it fits, and rides; that is weaker against who records now and decrypts later, so
//! it is the caller's choice.
//!
//! ```sh
//! cargo run -p examples --example https_client -- https://example.com/ [--classical]
//! ```

use std::error::Error;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use tfo_http::{Client, ConnInfo};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (flags, urls): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let url = urls.first().ok_or("usage: https_client https://HOST/ [--classical]")?;
    // Each visit on a connection of its own.
    let mut builder = Client::builder().pool_max_idle_per_host(0);
    if flags.iter().any(|flag| flag == "--classical") {
        builder = builder.tls_config(classical()?);
    }
    let client = builder.build()?;
    for visit in 1..=2 {
        let answer = client.get(url).await?;
        let (status, info) = (answer.status(), answer.extensions().get::<ConnInfo>().cloned());
        let body = answer.into_body().bytes(10 << 20).await?;
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

fn classical() -> Result<rustls::ClientConfig, Box<dyn Error>> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1];
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
