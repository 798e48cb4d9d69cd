//! `tfo serve`: the files of a directory, with TCP Fast Open.

mod files;
pub(crate) mod http;
mod keys;
mod patient;
mod signals;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::service::service_fn;
use tfo_http_server::{BindError, BindStep, Keys, TfoListener};

use crate::args::ServeArgs;
use crate::failure::{Code, Failure};
use files::Files;
use signals::Signals;

/// The port where none was asked for.
const PORT: u16 = 8080;

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    check(args)?;
    let files = Files::open(&args.root)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Code::General, "cannot start", &error))?;
    let result = runtime.block_on(serve(args, files));
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

async fn serve(args: &ServeArgs, files: Files) -> Result<(), Failure> {
    let signals = Signals::new()
        .map_err(|error| Failure::because(Code::General, "cannot watch for signals", &error))?;
    let keys =
        keys::open(args).map_err(|error| Failure::new(Code::General, crate::failure::chain(&error)))?;
    // From now on SIGHUP is no reason to end.
    let hang_ups = keys::watch(&keys)
        .map_err(|error| Failure::because(Code::General, "cannot watch for signals", &error))?;
    let listener =
        bind(args, &keys).map_err(|error| Failure::new(Code::General, crate::failure::chain(&error)))?;
    announce(args, &listener);
    tokio::spawn(keys.run());
    tokio::spawn(hang_ups);
    let service = service_fn(move |request| {
        let files = files.clone();
        async move { files.answer(request).await }
    });
    http::serve(listener, move |_| service.clone(), signals.first()).await;
    Ok(())
}

fn bind(args: &ServeArgs, keys: &Keys) -> Result<TfoListener, BindError> {
    let bind = |address| {
        let builder = TfoListener::builder().no_cookie(args.no_cookie).keys(keys.clone());
        match args.fastopen_queue {
            0 => builder.fastopen(false).bind(address),
            queue => builder.fastopen_queue(queue).bind(address),
        }
    };
    if let Some(address) = args.listen {
        return bind(address);
    }
    match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))) {
        Err(error) if lacks_ipv6(&error) => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))),
        result => result,
    }
}

/// Without the address family there is no socket; with it switched off there is no address.
fn lacks_ipv6(error: &BindError) -> bool {
    error.step() == BindStep::Socket || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The address on standard output, for programs too; the rest on standard error. Nobody has to read it.
fn announce(args: &ServeArgs, listener: &TfoListener) {
    let effect = listener.effect();
    let _ = writeln!(io::stderr(), "{effect}");
    if args.no_cookie && effect.is_cookie_less() && !effect.answers_unproven() {
        let _ = writeln!(
            io::stderr(),
            "  --no-cookie where strangers may reach the server: whoever forges an address has a GET carried \
             out, but not answered, and riding saves no round trip; meant for a private address (--listen)"
        );
    }
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "listening on http://{}", listener.local_addr());
    let _ = stdout.flush();
}
