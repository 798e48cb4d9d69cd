//! The `tfo` command: requests in the SYN from the shell.

#![forbid(unsafe_code)]

mod args;
mod demo;
mod failure;
mod fetch;
mod get;
mod output;
mod serve;
mod text;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};

fn main() -> ExitCode {
    // Nothing here may start a thread: `demo` begins by entering a namespace.
    let result = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Get(args) => get::run(args),
        Command::Serve(args) => serve::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
