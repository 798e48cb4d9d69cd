//! Instructions per operation against the committed numbers: more than 5 % above them is a failure.
//!
//! ```text
//! cargo run --release -p benches --bin gate              # compares
//! cargo run --release -p benches --bin gate -- --write   # takes the present numbers as the new ones
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use benches::instructions::{self, Committed, Comparison};
use benches::machine;
use benches::ops::Op;
use clap::Parser;

/// Compares instructions per operation with committed numbers.
#[derive(Debug, Parser)]
struct Args {
    /// The committed numbers.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json"))]
    committed: PathBuf,
    /// Writes that file anew instead.
    #[arg(long)]
    write: bool,
    /// Only this operation.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

fn main() -> ExitCode {
    if instructions::run_if_asked() {
        return ExitCode::SUCCESS;
    }
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| format!("no path of this program: {error}"))?;
    let mut counted = Vec::new();
    for op in Op::ALL.into_iter().filter(|op| args.only.as_deref().is_none_or(|only| only == op.name())) {
        counted.push((op, instructions::count(&program, op)?));
    }
    let file = args.committed.display();
    if args.write {
        let instructions = counted.iter().map(|(op, count)| (op.name().to_owned(), *count)).collect();
        let committed = Committed { rustc: machine::rustc(), instructions };
        let text = serde_json::to_string_pretty(&committed).map_err(|error| error.to_string())?;
        std::fs::write(&args.committed, text + "\n").map_err(|error| format!("{file}: {error}"))?;
        println!("written: {file}");
        return Ok(true);
    }
    let text = std::fs::read_to_string(&args.committed).map_err(|error| format!("{file}: {error}"))?;
    let committed: Committed = serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
    let mut holds = true;
    for (op, count) in counted {
        let comparison = Comparison::new(op, count, &committed);
        println!("{comparison}");
        holds &= comparison.holds();
    }
    if committed.rustc != machine::rustc() {
        println!("note: the committed numbers are of {}, these of {}", committed.rustc, machine::rustc());
    }
    if !holds {
        println!("if this is meant: cargo run --release -p benches --bin gate -- --write");
    }
    Ok(holds)
}
