//! Visits a server again and again, and prints each second what rode and what it saved.
//!
//! ```sh
//! cargo run -p examples --example simple_server 127.0.0.1:8080 &
//! cargo run -p examples --example watch_stats http://127.0.0.1:8080/ [SECONDS]
//! ```

use std::error::Error;
use std::time::Duration;

use tfo_http::{Client, SynOutcome, TfoMetrics};
use tokio::time::{Instant, interval, sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: watch_stats http://HOST:PORT/ [SECONDS]")?;
    let seconds = arguments.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let end = Instant::now() + Duration::from_secs(seconds);
    // Each visit on a connection of its own: one that is used again has no SYN to ride in.
    let client = Client::builder().pool_max_idle_per_host(0).build()?;
    let visits = client.clone();
    let working = tokio::spawn(async move {
        while Instant::now() < end {
            match visits.get(&url).await {
                Ok(answer) => drop(answer.into_body().bytes(1 << 20).await),
                Err(error) => eprintln!("{error}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    println!("connections   rides  hedged  failed  in SYNs       saved   mean RTT");
    let mut ticks = interval(Duration::from_secs(1));
    while !working.is_finished() {
        ticks.tick().await;
        print(&client.metrics());
    }
    Ok(())
}

fn print(metrics: &TfoMetrics) {
    println!(
        "{:>11} {:>7} {:>7} {:>7} {:>7}B {:>11} {:>10}",
        metrics.connections(),
        metrics.rides(),
        metrics.hedged,
        metrics.outcome(SynOutcome::Failed),
        metrics.syn_data_bytes,
        format!("{:.1?}", metrics.saved),
        format!("{:.1?}", metrics.handshake_rtt.mean().unwrap_or_default()),
    );
}
