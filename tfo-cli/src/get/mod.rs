//! `tfo get`: requests, one after the other, and what each did and saved.

mod memory;
mod record;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use tfo_http::{ConnInfo, Hedge, PathMemory, SynData};

use crate::args::{GetArgs, Policy, Tfo};
use crate::failure::{Code, Failure};
use crate::fetch::{Fetcher, Settings};
use crate::output::Output;
use memory::Memory;
use record::Record;

/// Runs the command.
pub(crate) fn run(args: GetArgs) -> Result<(), Failure> {
    let request = request(&args)?;
    // Nothing is remembered of paths on which nothing was tried.
    let memory = match args.tfo {
        Tfo::Auto => Memory::open(args.path_memory.as_deref()),
        Tfo::Off => Memory::none(),
    };
    let paths = memory.paths();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Code::General, "cannot start", &error))?;
    let result = runtime.block_on(async {
        // A task of its own: the runtime polls its root future more often than it is woken.
        let requests = tokio::spawn(all(args, request, paths));
        requests
            .await
            .unwrap_or_else(|error| Err(Failure::because(Code::General, "a request failed", &error)))
    });
    // A name that is still being looked up must not keep anybody waiting.
    runtime.shutdown_background();
    memory.save();
    result
}

/// The request, as it goes out each time.
fn request(args: &GetArgs) -> Result<Request<Full<Bytes>>, Failure> {
    if args.url.scheme() != "http" {
        let message = format!("unsupported protocol {:?}: only http:// for now", args.url.scheme());
        return Err(Failure::new(Code::General, message));
    }
    let mut url = args.url.clone();
    url.set_fragment(None);
    let uri: Uri = url.as_str().parse().map_err(|error| {
        Failure::because(Code::Usage, format_args!("the URL {url} cannot be used"), &error)
    })?;
    let data = args.data.as_deref().map(data).transpose()?;
    let default = if data.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(Full::from(data.clone().unwrap_or_default()));
    *request.method_mut() = args.method.clone().unwrap_or(default);
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    for (name, value) in &args.headers {
        headers.append(name, value.clone());
    }
    let mut defaults = vec![(USER_AGENT, concat!("tfo/", env!("CARGO_PKG_VERSION"))), (ACCEPT, "*/*")];
    if data.is_some() {
        defaults.push((CONTENT_TYPE, "application/x-www-form-urlencoded"));
    }
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    Ok(request)
}

/// `DATA`, `@FILE` or `@-`.
fn data(text: &str) -> Result<Bytes, Failure> {
    let Some(file) = text.strip_prefix('@') else { return Ok(Bytes::copy_from_slice(text.as_bytes())) };
    let (name, read) = match file {
        "-" => {
            let mut bytes = Vec::new();
            ("standard input", io::stdin().read_to_end(&mut bytes).map(|_| bytes))
        }
        file => (file, fs::read(file)),
    };
    read.map(Bytes::from)
        .map_err(|error| Failure::because(Code::Usage, format_args!("cannot read {name:?} for -d"), &error))
}

async fn all(args: GetArgs, request: Request<Full<Bytes>>, memory: PathMemory) -> Result<(), Failure> {
    let fetcher = Fetcher::new(Settings {
        syn_data: match (args.tfo, args.syn_data) {
            (Tfo::Off, _) | (_, Policy::Never) => SynData::Never,
            (_, Policy::Safe) => SynData::SafeMethods,
            (_, Policy::Idempotent) => SynData::IdempotentMethods,
            (_, Policy::All) => SynData::DangerEverything,
        },
        hedge: match args.hedge_delay {
            _ if args.no_hedge => Hedge::Never,
            None => Hedge::Auto,
            Some(delay) => Hedge::After(delay),
        },
        memory,
        no_cookie: args.no_cookie.clone(),
        http2: args.http2,
        reuse: args.reuse,
        connect_timeout: args.connect_timeout,
        max_time: args.max_time,
    });
    let mut stdout = Output::stdout();
    // As everywhere, `-` is standard output.
    let file = args.output.as_deref().filter(|file| *file != Path::new("-"));
    let mut file = file.map(Output::file).transpose()?;
    let mut earlier = Earlier::default();
    let mut cookieless = Cookieless::default();
    for number in 1..=args.number {
        let body = match &mut file {
            Some(file) => Some(file),
            None if args.json => None,
            None => Some(&mut stdout),
        };
        let fetched = fetcher.fetch(request.clone(), body).await;
        let (record, failure) = match fetched {
            Ok(answer) => (Record::answered(&answer, earlier.carried(answer.info.as_ref())), None),
            Err(unanswered) => {
                let reused = earlier.carried(unanswered.info.as_ref());
                (Record::unanswered(&unanswered, reused), Some(unanswered.failure))
            }
        };
        if let Some(file) = &mut file {
            file.flush().await?;
        }
        if args.json {
            let mut line = serde_json::to_vec(&record)
                .map_err(|error| Failure::because(Code::General, "cannot write JSON", &error))?;
            line.push(b'\n');
            stdout.write(&line).await?;
        }
        stdout.flush().await?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !args.json {
            let number = (args.number > 1).then_some(number);
            // Who closes standard error does not want to know.
            let hint = if cookieless.seen(&record) { HINT } else { "" };
            let _ = writeln!(io::stderr(), "{}{hint}", record.line(number));
        }
        if args.reuse {
            settle().await;
        }
    }
    Ok(())
}

/// Behind a line about a server that was asked for a cookie before, and gave none.
const HINT: &str = ", again: the server may have TCP Fast Open off";

/// The address that was last asked for a cookie.
#[derive(Default)]
struct Cookieless(Option<SocketAddr>);

impl Cookieless {
    /// Whether the request before was without a cookie to the same address as this one.
    fn seen(&mut self, record: &Record) -> bool {
        let now = record.without_cookie();
        let before = std::mem::replace(&mut self.0, now);
        now.is_some() && now == before
    }
}

/// Lets the connection go back to the pool: it does so in tasks of its own, and the next request
/// would not wait for it.
async fn settle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// The connections of the requests before: the last few, of which only idle ones can come again.
#[derive(Default)]
struct Earlier(Vec<ConnInfo>);

impl Earlier {
    /// Whether the connection carried a request before. It has carried one now.
    fn carried(&mut self, info: Option<&ConnInfo>) -> bool {
        let Some(info) = info else { return false };
        let carried = self.0.iter().any(|other| other.same_connection(info));
        if !carried {
            self.0.insert(0, info.clone());
            self.0.truncate(8);
        }
        carried
    }
}
