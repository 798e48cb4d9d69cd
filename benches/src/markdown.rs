//! The page for `docs/`.

use std::fmt::Write as _;

use crate::claims::claims;
use crate::result::Results;
use crate::tables::{Table, sections};

/// `docs/results.md`, from the result file of that name in `docs/results/`.
pub fn page(results: &Results, file: &str) -> String {
    let machine = &results.machine;
    let peers: Vec<_> = results.peers.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut page = format!(
        "# Results\n\n\
         Generated from [results/{file}](results/{file}) by `report --from`; not to be edited. What was not measured in that\n\
         run is not here, and what could not be measured says why in the place of its number.\n\n\
         | | |\n|---|---|\n\
         | machine | {}, {} processors, {} MiB |\n| kernel | {} |\n| date | {} |\n| command | `{}`, {} s |\n\
         | revision | {}, {} |\n| load | {} at the begin, {} at the end |\n| peers | {} |\n",
        machine.cpu,
        machine.cpus,
        machine.memory_mib,
        machine.kernel,
        results.date,
        results.command,
        results.seconds,
        machine.revision,
        machine.rustc,
        results.load[0],
        results.load[1],
        peers.join(", "),
    );
    let promises = claims(results);
    if !promises.is_empty() {
        page.push_str("\n## What is promised\n\n| | at most | measured | kept |\n|---|---|---|---|\n");
        for claim in promises {
            let row = [claim.text, &claim.bound(), &claim.shown(), claim.verdict()].map(cell);
            let _ = writeln!(page, "| {} |", row.join(" | "));
        }
    }
    for section in sections(results) {
        let _ = write!(page, "\n## {}\n\n{}\n", section.title, section.intro);
        for table in &section.tables {
            write_table(&mut page, table);
        }
    }
    page
}

fn write_table(page: &mut String, table: &Table) {
    let _ = write!(page, "\n### {}\n\n|", table.caption);
    for name in &table.header {
        let _ = write!(page, " {} |", cell(name));
    }
    page.push_str("\n|");
    for _ in &table.header {
        page.push_str("---|");
    }
    page.push('\n');
    for row in &table.rows {
        page.push('|');
        for value in row {
            let _ = write!(page, " {} |", cell(value));
        }
        page.push('\n');
    }
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
