//! `tfo demo`: what TCP Fast Open saves, shown on this machine's kernel.

mod evidence;
mod network;
mod report;
mod visits;

use std::io::{self, Write as _};

use tfo_lab::{Lab, LabError, enter_user_namespace};

use crate::args::DemoArgs;
use crate::failure::{Code, Failure, chain};
use network::{Network, Place};
use report::Report;

/// Runs the command. There must be no second thread yet.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let (network, place) = match lab(args) {
        Ok(lab) => (Network::Lab(lab), Place::Lab { rtt: args.rtt }),
        Err(why) => (Network::Loopback, Place::Loopback { why: chain(&why) }),
    };
    if let (Place::Loopback { why }, false) = (&place, args.json) {
        let _ = writeln!(io::stderr(), "no private network could be made, so this runs on loopback: {why}\n");
    }
    let wait = place.rtt().unwrap_or_default() * 3;
    let mut visits = visits::run(&network, args.requests, wait)?;
    network.add_packets(&mut visits)?;
    let report = Report::new(&place, &visits);
    let text = match args.json {
        true => {
            report.json().map_err(|error| Failure::because(Code::General, "cannot write JSON", &error))?
        }
        false => report.page(),
    };
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::output("standard output", &error))?;
    match report.doubt() {
        None => Ok(()),
        Some(doubt) => Err(Failure::new(Code::General, doubt)),
    }
}

fn lab(args: &DemoArgs) -> Result<Lab, LabError> {
    enter_user_namespace()?;
    Lab::builder().rtt(args.rtt).build()
}
