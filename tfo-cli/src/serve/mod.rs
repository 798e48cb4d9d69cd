//! `tfo serve`: the files of a directory, with TCP Fast Open.

mod access_log;
mod admin;
#[cfg(target_os = "linux")]
mod cached;
mod descriptors;
#[cfg(target_os = "linux")]
mod direct;
mod files;
mod keys;
mod restart;
mod signals;

use std::error::Error;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use tfo_http_server::server::{Limits, Server, ServerError};
use tfo_http_server::{BindError, BindStep, Keys, TfoListener};

use crate::args::ServeArgs;
use crate::failure::{Code, Failure};
use descriptors::Room;
use files::Files;
use signals::Signals;

/// The port where none was asked for.
const PORT: u16 = 8080;
/// How long requests under way have when it ends.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    check(args)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.workers.map_or(cores, usize::from);
    let room = descriptors::make_room(args.max_connections, workers)?;
    let files = Files::open(&args.root)?.at_most(room.files);
    // The workers have their own; this one is for keys, signals, and the administrator.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Code::General, "cannot start", &error))?;
    let result = runtime.block_on(serve(args, files, &room));
    // A file on a dead network mount must not keep anybody waiting.
    runtime.shutdown_background();
    result
}

/// What says something of cookies, where there will be none.
fn check(args: &ServeArgs) -> Result<(), Failure> {
    let moot = [
        ("--key-file", args.key_file.is_some()),
        ("--key-secret-file", args.key_secret_file.is_some()),
        ("--no-cookie", args.no_cookie),
    ];
    match moot.into_iter().find(|(_, given)| *given && args.fastopen_queue == 0) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::new(
            Code::Usage,
            format!(
                "{option} has no meaning with --fastopen-queue 0, which turns TCP Fast Open off: leave one out"
            ),
        )),
    }
}

async fn serve(args: &ServeArgs, files: Files, room: &Room) -> Result<(), Failure> {
    let no_signals = |error| Failure::because(Code::General, "cannot watch for signals", &error);
    let signals = Signals::new().map_err(no_signals)?;
    let keys = keys::open(args).map_err(failed)?;
    // From now on SIGHUP is no reason to end.
    let hang_ups = keys::watch(&keys).map_err(no_signals)?;
    let server = bind(args, &keys, room).map_err(failed)?;
    let handle = server.handle();
    let mut admin_handle = None;
    if let Some(address) = args.admin {
        let admin = admin::bind(address, restart::is_successor()).map_err(failed)?;
        let _ = writeln!(io::stderr(), "metrics on http://{}/metrics", admin.local_addr());
        admin_handle = Some(admin.handle());
        tokio::spawn(admin::serve(admin, handle.clone()));
    }
    // Before anybody knows of it: unwatched, the signal would end it.
    tokio::spawn(restart::watch(handle, admin_handle).map_err(no_signals)?);
    announce(args, &server);
    tokio::spawn(keys.run());
    tokio::spawn(hang_ups);
    let files = Arc::new(files);
    let service = service_fn(move |request| files.answer(request));
    let ended = server.shutdown_on(signals.first()).serve(service).await.map_err(failed)?;
    if ended.cut_off > 0 {
        let cut = ended.cut_off;
        let _ = writeln!(io::stderr(), "connections cut off, as they were not over in {DEADLINE:?}: {cut}");
    }
    Ok(())
}

fn failed(error: impl Error + 'static) -> Failure {
    Failure::new(Code::General, crate::failure::chain(&error))
}

fn bind(args: &ServeArgs, keys: &Keys, room: &Room) -> Result<Server, ServerError> {
    let listener = TfoListener::builder().no_cookie(args.no_cookie).keys(keys.clone());
    let listener = match args.fastopen_queue {
        0 => listener.fastopen(false),
        queue => listener.fastopen_queue(queue),
    };
    let limits = Limits::default()
        .connections(room.connections)
        .header_timeout(args.header_timeout)
        .write_timeout(args.write_timeout);
    let mut builder = Server::builder()
        .listener(listener)
        .limits(limits)
        .keep_alive(!args.no_keep_alive)
        .half_close(true)
        .shutdown_deadline(DEADLINE)
        .workers(room.workers);
    if args.access_log {
        builder = builder.on_request(access_log::start());
    }
    if let Some(address) = args.listen {
        return builder.inherit_or_bind(address);
    }
    match builder.clone().inherit_or_bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))) {
        Err(ServerError::Bind(error)) if lacks_ipv6(&error) => {
            builder.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))
        }
        result => result,
    }
}

/// Without the address family there is no socket; with it switched off there is no address.
fn lacks_ipv6(error: &BindError) -> bool {
    error.step() == BindStep::Socket || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The address on standard output, for programs too; the rest on standard error. Nobody has to read it.
fn announce(args: &ServeArgs, server: &Server) {
    let effect = server.effect();
    let _ = writeln!(io::stderr(), "{effect}");
    if args.no_cookie && effect.is_cookie_less() && !effect.answers_unproven() {
        let _ = writeln!(
            io::stderr(),
            "  --no-cookie where strangers may reach the server: whoever forges an address has a GET carried \
             out, but not answered, and riding saves no round trip; meant for a private address (--listen)"
        );
    }
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "listening on http://{}", server.local_addr());
    let _ = stdout.flush();
}
