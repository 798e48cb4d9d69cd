//! A restart by SIGUSR2: the program is started anew, and gets the listeners.

use std::future::Future;
use std::io;

use tfo_http_server::server::ServerHandle;

/// In the environment of whoever is to take over from a server that is still there.
const SUCCESSOR: &str = "TFO_SERVE_SUCCESSOR";

/// Whether this process is one.
pub(super) fn is_successor() -> bool {
    std::env::var_os(SUCCESSOR).is_some()
}

/// Hands over at each SIGUSR2, until it went well: to be spawned.
#[cfg(unix)]
pub(super) fn watch(
    server: ServerHandle,
    admin: Option<ServerHandle>,
) -> io::Result<impl Future<Output = ()> + Send> {
    use std::io::Write as _;
    use std::process::Command;
    use std::time::Duration;

    use tokio::signal::unix::{SignalKind, signal};

    /// How long the successor may take until it serves.
    const PATIENCE: Duration = Duration::from_secs(30);

    let mut asked = signal(SignalKind::user_defined2())?;
    Ok(async move {
        while asked.recv().await.is_some() {
            // As it was called: a newer version at the same place is what a restart is for.
            let Some(program) = std::env::args_os().next() else { return };
            let mut successor = Command::new(program);
            successor.args(std::env::args_os().skip(1)).env(SUCCESSOR, "1");
            let said = match server.hand_over(successor, PATIENCE).await {
                Ok(child) => {
                    // The successor has its own at the same address.
                    admin.iter().for_each(ServerHandle::shutdown);
                    format!("handed over to process {}", child.id())
                }
                Err(error) => format!("not handed over: {}", crate::failure::chain(&error)),
            };
            let _ = writeln!(io::stderr(), "{said}");
        }
    })
}

#[cfg(not(unix))]
pub(super) fn watch(_: ServerHandle, _: Option<ServerHandle>) -> io::Result<impl Future<Output = ()> + Send> {
    Ok(std::future::pending())
}
