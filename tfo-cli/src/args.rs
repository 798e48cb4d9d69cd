//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method};
use tfo_http::IpNet;
use url::Url;

/// HTTP in the first packet: TCP Fast Open, on and measured.
///
/// On a repeat visit the request rides in the SYN, and its answer comes back one round trip earlier.
#[derive(Debug, Parser)]
#[command(
    name = "tfo",
    version,
    arg_required_else_help = true,
    after_help = "\
Begin with `tfo demo`: it shows the effect on this machine's kernel, and changes nothing on it."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Get(GetArgs),
    Serve(ServeArgs),
}

/// Show what TCP Fast Open saves: a private network on this kernel, plain TCP beside TCP Fast Open.
///
/// A client and a server in network namespaces of their own, a wire with a delay between them, and a
/// tap that sees every packet. Works as root, and as an ordinary user where user namespaces are
/// allowed. No setting of the machine is changed.
///
/// Exit codes: 0 shown; 1 the kernel's report and the packets disagree, or nothing was saved; 2 bad
/// arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tfo demo                           six visits, 50 ms away
  tfo demo --rtt 120ms --requests 20 --json")]
pub(crate) struct DemoArgs {
    /// The round-trip time of the private network, with its unit: 1ms to 900ms.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_rtt)]
    pub(crate) rtt: Duration,
    /// How many repeat visits follow the first one, of each kind, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) requests: u32,
    /// One JSON object instead of the table (schemas/demo.json).
    #[arg(long)]
    pub(crate) json: bool,
}

/// Send HTTP requests, and tell what rode in the SYN and what it saved.
///
/// Each request goes on a new connection. GET, HEAD, OPTIONS and TRACE without a body may ride in the
/// SYN once a visit before has brought a cookie; the kernel keeps cookies, so the next `tfo get` rides
/// too. The body goes to standard output, one line about each request to standard error. TFO_HTTP=off in
/// the environment switches TCP Fast Open off.
///
/// Exit codes, as curl's: 0 an HTTP answer, whatever its status; 1 unsupported protocol; 2 bad
/// arguments; 6 name not resolved; 7 no connection; 23 output not written; 28 timed out; 56 the answer
/// was broken or cut off. After a failure no further request is sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tfo get -n 3 -o /dev/null http://192.0.2.1:8080/
  tfo get --json -H 'Accept: text/html' --max-time 2s http://example.com/ | jq .saved_us")]
pub(crate) struct GetArgs {
    /// Whether requests may ride in the SYN.
    #[arg(long, value_enum, default_value_t = Tfo::Auto, value_name = "auto|off", hide_possible_values = true)]
    pub(crate) tfo: Tfo,
    /// Which requests may ride: safe (GET, HEAD, OPTIONS, TRACE), idempotent (PUT and DELETE too), never,
    /// or all, which may execute a request twice if the network repeats a packet.
    #[arg(long, value_enum, default_value_t = Policy::Safe, value_name = "safe|idempotent|never|all",
          hide_possible_values = true)]
    pub(crate) syn_data: Policy,
    /// Send data without a cookie to servers in this network, on the first visit too; may be repeated.
    #[arg(long, value_name = "CIDR")]
    pub(crate) no_cookie: Vec<IpNet>,
    /// Speak HTTP/2, without asking the server first.
    #[arg(long)]
    pub(crate) http2: bool,
    /// The request method (default: GET, or POST with -d).
    #[arg(short = 'X', long = "request", value_name = "METHOD", value_parser = parse_method)]
    pub(crate) method: Option<Method>,
    /// A header line; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "'K: V'", value_parser = parse_header)]
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The request body, as it is, or with @ the content of a file (@- is standard input).
    #[arg(short = 'd', long = "data", value_name = "DATA|@FILE", allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// How many requests, one after the other.
    #[arg(short = 'n', long = "number", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) number: u32,
    /// Keep the connection for the next request, instead of a new one for each.
    #[arg(long)]
    pub(crate) reuse: bool,
    /// How long the name may take, and then the connection: 300ms, 2s, or a number of seconds.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_patience)]
    pub(crate) connect_timeout: Duration,
    /// How long a SYN with TCP Fast Open may stay unanswered before a plain connection is tried beside
    /// it, 10ms or more (default: a little more than two round trips, if
    /// they are known, else 250ms).
    #[arg(long, value_name = "TIME", value_parser = parse_hedge, conflicts_with = "no_hedge")]
    pub(crate) hedge_delay: Option<Duration>,
    /// Try no plain connection beside it: where SYNs with TCP Fast Open are dropped, the kernel's second
    /// is waited for.
    #[arg(long)]
    pub(crate) no_hedge: bool,
    /// Where to remember on which paths TCP Fast Open works, from one run to the next, or off (default:
    /// tfo/paths.json in $XDG_STATE_HOME or ~/.local/state). The addresses that were visited are in it.
    #[arg(long, value_name = "FILE|off")]
    pub(crate) path_memory: Option<PathBuf>,
    /// How long each request may take as a whole (default: no limit).
    #[arg(long, short = 'm', value_name = "TIME", value_parser = parse_patience)]
    pub(crate) max_time: Option<Duration>,
    /// One JSON object a line for each request (schemas/get.json), and no body.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the bodies to a file, one after the other, instead of to standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What to ask for; without a scheme, http://.
    #[arg(value_name = "URL", value_parser = parse_url)]
    pub(crate) url: Url,
}

/// Whether requests may ride in the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tfo {
    /// Where it is safe.
    Auto,
    /// Never, and no cookie is asked for.
    Off,
}

/// Which requests may ride in the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    Safe,
    Idempotent,
    Never,
    All,
}

/// Serve the files of a directory over HTTP/1.1 and HTTP/2 (prior knowledge), with TCP Fast Open.
///
/// Content types, ranges and conditional requests are supported. Dot files, and whatever lies outside
/// of the directory, are not found, also behind symbolic links; a directory without index.html is not
/// found either. SIGINT (Ctrl-C) and SIGTERM end it when the requests under way are answered, at most
/// 10 s later, or about 20 s where one came in the SYN of a client that has yet to complete its handshake.
/// With a file of keys or a secret, SIGHUP reads it again. SIGUSR2 starts the program anew, hands the listener
/// over, and ends this process: no connection is lost. Listeners that systemd has opened (LISTEN_FDS) are
/// served instead of --listen.
///
/// Exit codes: 0 ended by a signal; 1 could not begin; 2 bad arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tfo serve --root public            every address of this host, port 8080
  tfo serve --listen 127.0.0.1:0     this host only, a free port
  tfo serve --key-secret-file /run/secrets/tfo
                                     cookies shared by all who have the secret, a new key every day")]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free one (default: `[::]:8080`, which is IPv6 and IPv4, or
    /// 0.0.0.0:8080 on a host without IPv6).
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// The directory to serve.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) root: PathBuf,
    /// How many connections may wait for the end of their handshake with data from the SYN; 0 turns TCP
    /// Fast Open off.
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true)]
    pub(crate) fastopen_queue: u32,
    /// How many threads serve, each with a listener of its own (default: one a core).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) workers: Option<u16>,
    /// How many connections may be open at a time; further ones are answered with 503.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: u32,
    /// How long a client may take for the head of a request.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_patience)]
    pub(crate) header_timeout: Duration,
    /// How long a client may take for 16 KiB of an answer.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_patience)]
    pub(crate) write_timeout: Duration,
    /// Close each HTTP/1 connection after its answer.
    #[arg(long)]
    pub(crate) no_keep_alive: bool,
    /// One line for each request, on standard output.
    #[arg(long)]
    pub(crate) access_log: bool,
    /// Answer /metrics (Prometheus) and /healthz at this address.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Make cookies with the keys in this file, one or two with a comma between, in the form of
    /// net.ipv4.tcp_fastopen_key. It is watched; SIGHUP reads it at once (default: the system's key).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key_secret_file", "no_cookie"])]
    pub(crate) key_file: Option<PathBuf>,
    /// Make cookies with keys derived from the secret in this file, 32 bytes or more, and from the time.
    /// Servers with the same secret and epoch have the same keys. Watched as --key-file.
    #[arg(long, value_name = "FILE", conflicts_with = "no_cookie")]
    pub(crate) key_secret_file: Option<PathBuf>,
    /// How often the derived key changes (default: 24h): 1s to 100 years.
    #[arg(long, value_name = "TIME", requires = "key_secret_file", conflicts_with = "key_file",
          value_parser = parse_epoch)]
    pub(crate) key_epoch: Option<Duration>,
    /// Take data in a SYN without a cookie: any sender address may be forged. For trusted networks; on
    /// an address that strangers may reach nothing is answered before the handshake is complete.
    #[arg(long)]
    pub(crate) no_cookie: bool,
}

fn parse_rtt(text: &str) -> Result<Duration, String> {
    let rtt = humantime::parse_duration(text).map_err(|error| match text.parse::<f64>() {
        Ok(_) => format!("it needs a unit: {text}ms"),
        Err(_) => error.to_string(),
    })?;
    // The kernel repeats a SYN after 1 s: beyond that it is no longer one round trip that is measured.
    match (Duration::from_millis(1)..=Duration::from_millis(900)).contains(&rtt) {
        true => Ok(rtt),
        false => Err("it must be between 1ms and 900ms (the kernel repeats a SYN after a second)".into()),
    }
}

/// Which epochs are sane the library knows.
fn parse_epoch(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// `50ms`, `2s`, or seconds as curl takes them: `2`, `0.5`.
fn parse_patience(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string())?,
    };
    if time.is_zero() {
        return Err("it must be more than 0".into());
    }
    // Timers have an end, and so has everybody's patience.
    Ok(time.min(Duration::from_secs(365 * 24 * 3600)))
}

/// As a patience, and not so short that every answer would be too late.
fn parse_hedge(text: &str) -> Result<Duration, String> {
    match parse_patience(text)? {
        delay if delay < Duration::from_millis(10) => Err("it must be 10ms or more".into()),
        delay => Ok(delay),
    }
}

fn parse_method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT) => Err("CONNECT is for proxies, and not supported".into()),
        Ok(method) => Ok(method),
        Err(_) => Err("it is not an HTTP method".into()),
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("there is no colon: write 'Name: value'")?;
    let name = name.trim().parse::<HeaderName>().map_err(|error| error.to_string())?;
    if [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING].contains(&name) {
        return Err(format!("{name} follows from the body, and cannot be set"));
    }
    let value = HeaderValue::from_str(value.trim())
        .map_err(|_| "the value has characters that no header may have")?;
    Ok((name, value))
}

fn parse_url(text: &str) -> Result<Url, String> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&whole).map_err(|error| error.to_string())?;
    if !url.has_host() {
        return Err("there is no host in it".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("user and password in a URL are not supported: use -H 'Authorization: …'".into());
    }
    if url.port() == Some(0) {
        return Err("port 0 cannot be connected to".into());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(parse_patience("2").unwrap(), Duration::from_secs(2));
        assert_eq!(parse_patience("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_patience("1m 2s").unwrap(), Duration::from_secs(62));
        for bad in ["0", "0s", "-1", "NaN", "inf", "1e300", "", "soon", "99999999999999999999999s"] {
            assert!(parse_patience(bad).is_err(), "{bad:?}: {:?}", parse_patience(bad));
        }
        assert_eq!(parse_rtt("50ms").unwrap(), Duration::from_millis(50));
        assert_eq!(parse_rtt("50").unwrap_err(), "it needs a unit: 50ms");
        for bad in ["0", "0s", "999us", "901ms", "1h", "50", "-5ms", ""] {
            assert!(parse_rtt(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hedges() {
        assert_eq!(parse_hedge("10ms").unwrap(), Duration::from_millis(10));
        for bad in ["9ms", "0", "-1", "soon", ""] {
            assert!(parse_hedge(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn urls() {
        assert_eq!(parse_url("localhost:8080/x").unwrap().as_str(), "http://localhost:8080/x");
        assert_eq!(parse_url("http://[::1]:8/?q#f").unwrap().as_str(), "http://[::1]:8/?q#f");
        assert_eq!(parse_url("https://host").unwrap().scheme(), "https");
        for bad in
            ["", "http://", "http://[::1", "http://a b/", "http://h:99999/", "http://u:p@h/", "file:///x"]
        {
            assert!(parse_url(bad).is_err(), "{bad:?}: {:?}", parse_url(bad));
        }
    }

    #[test]
    fn headers() {
        assert_eq!(
            parse_header("X-A:  b: c ").unwrap(),
            ("x-a".parse().unwrap(), HeaderValue::from_static("b: c"))
        );
        for bad in ["none", "a b: c", ": v", "K: a\nb", "Content-Length: 3"] {
            assert!(parse_header(bad).is_err(), "{bad:?}");
        }
    }
}
