//! Measures, and writes `results.json` and a page that shows it.
//!
//! ```text
//! cargo build --profile dist -p tfo-cli                         # `tfo serve` is measured too
//! cargo run --profile dist -p benches --bin report -- --quick   # under two minutes
//! cargo run --profile dist -p benches --bin report -- --full    # everything
//! cargo run --profile dist -p benches --bin report -- --from docs/results/FILE.json --markdown docs/results.md
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use benches::result::{Entry, Results, Set};
use benches::run::{Effort, Progress};
use benches::{
    cost, hostile, instructions, latency, load, machine, markdown, memory, micro, page, restart, server,
};
use clap::{Args, Parser, Subcommand, ValueEnum as _};

/// Measures what TCP Fast Open costs and what it saves; writes results.json and report.html.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Command {
    #[command(flatten)]
    report: Report,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Args)]
struct Report {
    /// A part of everything, in under two minutes (default).
    #[arg(long)]
    quick: bool,
    /// Everything, in about half an hour.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// As little as shows that everything works: no figure to rely on.
    #[arg(long, conflicts_with_all = ["quick", "full"], hide = true)]
    smoke: bool,
    /// Only these sets, with a comma between.
    #[arg(long = "set", value_name = "SET", value_delimiter = ',')]
    sets: Vec<Set>,
    /// Where the files go.
    #[arg(long, value_name = "DIR", default_value = "target/report")]
    out: PathBuf,
    /// Measures nothing, and shows a result file instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "full", "smoke", "sets"])]
    from: Option<PathBuf>,
    /// Writes the page for docs/ too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Server(server::ServerArgs),
    #[command(hide = true)]
    Client {
        #[arg(long)]
        kind: load::Kind,
    },
}

fn main() -> ExitCode {
    if instructions::run_if_asked() {
        return ExitCode::SUCCESS;
    }
    let command = Command::parse();
    let done = match command.role {
        Some(Role::Server(args)) => server::run(&args),
        Some(Role::Client { kind }) => load::run(kind),
        None => report(&command.report),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &Report) -> Result<(), Box<dyn Error>> {
    // Before there is a second thread.
    let results = match &args.from {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => measure(args),
    };
    std::fs::create_dir_all(&args.out)?;
    if args.from.is_none() {
        let json = args.out.join("results.json");
        std::fs::write(&json, serde_json::to_string_pretty(&results)? + "\n")?;
        println!("{}", json.display());
    }
    let html = args.out.join("report.html");
    std::fs::write(&html, page::html(&results)?)?;
    println!("{}", html.display());
    if let Some(file) = &args.markdown {
        let name = args.from.as_ref().and_then(|from| from.file_name()).unwrap_or_default();
        std::fs::write(file, markdown::page(&results, &name.to_string_lossy()))?;
        println!("{}", file.display());
    }
    Ok(())
}

fn measure(args: &Report) -> Results {
    let effort = match (args.full, args.smoke) {
        (true, _) => Effort::Full,
        (_, true) => Effort::Smoke,
        _ => Effort::Quick,
    };
    // Where it is not possible, each set says so in the place of its figures.
    let _ = tfo_lab::enter_user_namespace();
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let (begun, load) = (Instant::now(), machine::load());
    // Files may change during a long run; what is measured does not.
    let (machine, peers) = (machine::this(), machine::peers());
    let progress = Progress::new();
    let wanted = |set: &Set| args.sets.is_empty() || args.sets.contains(set);
    let entries: Vec<Entry> = Set::value_variants()
        .iter()
        .filter(|set| wanted(set))
        .flat_map(|set| match set {
            Set::RequestLatency => latency::run(effort, &progress),
            Set::ConnectionCost => cost::run(effort, &progress),
            Set::Hostile => hostile::run(effort, &progress),
            Set::Restart => restart::run(effort, &progress),
            Set::Memory => memory::run(effort, &progress),
            Set::Micro => micro::run(effort, &progress),
        })
        .collect();
    progress.end();
    Results {
        version: Results::VERSION,
        date,
        command: std::iter::once("report".to_owned())
            .chain(std::env::args().skip(1))
            .chain(machine::profile().map(|profile| format!("(profile {profile})")))
            .collect::<Vec<_>>()
            .join(" "),
        seconds: begun.elapsed().as_secs_f64().round(),
        machine,
        load: [load, machine::load()],
        peers,
        entries,
    }
}
