//! One line for each request. A thread of its own writes them: nobody is kept waiting by whoever reads them.

use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::SystemTime;

use tfo_http_server::server::RequestRecord;

/// Lines that wait to be written; further ones are lost.
const WAITING: usize = 8192;

/// What is to be called for each request.
pub(super) fn start() -> impl Fn(&RequestRecord) + Send + Sync + 'static {
    let (lines, to_write) = sync_channel(WAITING);
    thread::spawn(move || write(&to_write));
    move |record| {
        let _ = lines.try_send(line(record));
    }
}

/// The client, when, what, and how it went: in the order of the common log format, then what is ours.
fn line(record: &RequestRecord) -> String {
    let status = record.status.map_or(0, |status| status.as_u16());
    // What came in the SYN has saved its client a round trip.
    let way = if record.connection.arrived_in_syn() { "syn" } else { "plain" };
    format!(
        "{} [{}] \"{} {} {:?}\" {status} {} {way} {:?}\n",
        record.connection.remote_addr(),
        humantime::format_rfc3339_millis(SystemTime::now()),
        record.method,
        // As nginx does: a quote in a path ends nothing.
        record.uri.to_string().replace('\\', "\\x5C").replace('"', "\\x22"),
        record.version,
        record.body_bytes,
        record.duration,
    )
}

fn write(lines: &Receiver<String>) {
    while let Ok(line) = lines.recv() {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}
