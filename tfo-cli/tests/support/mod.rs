//! The real binary, and small servers for it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod http2;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::Value;

pub(crate) const TFO: &str = env!("CARGO_BIN_EXE_tfo");
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a run of `tfo` came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("an exit code, not a signal"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// Where `tfo` finds no memory of paths, and can leave none.
pub(crate) const NO_STATE: (&str, &str) = ("XDG_STATE_HOME", "/dev/null");

/// Runs `tfo` on this machine.
pub(crate) fn tfo(args: &[&str]) -> Ran {
    Command::new(TFO).env(NO_STATE.0, NO_STATE.1).args(args).output().expect("tfo runs").into()
}

impl Ran {
    /// It failed with this code, and said why in one line.
    pub(crate) fn assert_failed(&self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<_> = self.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("tfo: ") && lines[0].contains(says),
            "{says:?}: {self:?}"
        );
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }

    /// Standard output as JSON, a line each, checked against the schema.
    pub(crate) fn records(&self) -> Vec<Value> {
        let schema = schema(include_str!("../../schemas/get.json"));
        let parse = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            check(&schema, &value);
            value
        };
        self.stdout.lines().map(parse).collect()
    }

    /// Standard output as the demo's JSON, checked against the schema.
    pub(crate) fn demo(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).expect("JSON");
        check(&schema(include_str!("../../schemas/demo.json")), &value);
        value
    }
}

fn schema(text: &str) -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a schema")
}

fn check(schema: &jsonschema::Validator, value: &Value) {
    let errors: Vec<_> =
        schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {value}");
}

/// A server on loopback that does the same for each connection, in a thread each. It lives as long as
/// the process.
pub(crate) fn server(handle: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    address
}

/// A server that reads the head of each request and answers the bytes; then it closes.
pub(crate) fn answering(answer: &'static [u8]) -> String {
    let address = server(move |mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(answer);
    });
    format!("http://{address}/")
}

/// A request's bytes, to the end of its head and whatever came with it.
pub(crate) fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let (mut request, mut part) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(length @ 1..) => request.extend_from_slice(&part[..length]),
            _ => break,
        }
    }
    request
}
