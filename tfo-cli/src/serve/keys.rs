//! The keys that cookies are made with: from files, followed while serving.

use std::fmt;
use std::future::Future;
use std::io::{self, Write as _};

use tfo_http_server::Keys;
use tfo_http_server::keys::{KeyError, Rotation};
use tokio::task::spawn_blocking;

use crate::args::ServeArgs;

/// The keys that were asked for; the system's if none were. Which are in force is said from now on.
pub(super) fn open(args: &ServeArgs) -> Result<Keys, KeyError> {
    let keys = match (&args.key_file, &args.key_secret_file) {
        (Some(path), _) => Keys::file(path)?,
        (None, Some(path)) => {
            let rotation = args.key_epoch.map_or_else(|| Ok(Rotation::default()), Rotation::every)?;
            Keys::derived_file(path, rotation)?
        }
        (None, None) => Keys::system(),
    };
    keys.on_event(|event| say(event));
    Ok(keys)
}

/// Reads the file again at each SIGHUP, from this call on: to be spawned. Without a file SIGHUP ends the
/// process, as ever.
pub(super) fn watch(keys: &Keys) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let keys = keys.clone();
    #[cfg(unix)]
    let hang_ups = match keys.is_system() {
        true => None,
        false => Some(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?),
    };
    Ok(async move {
        #[cfg(unix)]
        if let Some(mut hang_ups) = hang_ups {
            while hang_ups.recv().await.is_some() {
                reload(keys.clone()).await;
            }
        }
        #[cfg(not(unix))]
        drop(keys);
    })
}

/// Whoever sent the signal wants to know what came of it, also when nothing has changed.
#[cfg_attr(not(unix), expect(dead_code, reason = "there is no SIGHUP"))]
async fn reload(keys: Keys) {
    // What is wrong with the file, and what has changed, the event tells.
    if let Ok(Ok(())) = spawn_blocking(move || keys.reload()).await {
        say("read again");
    }
}

fn say(what: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "cookie keys: {what}");
}
