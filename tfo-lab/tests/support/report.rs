//! The full tier, and what it writes: `docs/results/hostile-<date>.md`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Whether everything is asked for: `TFO_HOSTILE=full`.
pub(crate) fn full() -> bool {
    std::env::var_os("TFO_HOSTILE").is_some_and(|tier| tier == "full")
}

/// Does all the work, so many pieces at once: what has to wait does not hold up the rest. The results, in the
/// order of the work.
pub(crate) fn at_once<W: Sync, T: Send>(threads: usize, work: &[W], job: impl Fn(&W) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads.min(work.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = work.get(at) else { break };
                    let result = job(piece);
                    done.lock().expect("no job panicked").push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no job panicked");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Writes a section of the report, in place of what it was: in the full tier only.
pub(crate) fn section(title: &str, body: &str) {
    if !full() {
        return;
    }
    let file =
        repository().join("docs/results").join(format!("hostile-{}.md", output("date", &["-u", "+%F"])));
    let before = fs::read_to_string(&file).unwrap_or_default();
    let mut sections: Vec<String> =
        before.split("\n## ").skip(1).map(|text| text.trim_end().to_owned()).collect();
    let text = format!("{title}\n\n{}", body.trim_end());
    match sections.iter_mut().find(|known| known.starts_with(&format!("{title}\n"))) {
        Some(known) => *known = text,
        None => sections.push(text),
    }
    let all: String = sections.iter().map(|section| format!("\n## {section}\n")).collect();
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    fs::write(&file, format!("{}{all}", head())).expect("the report");
}

fn head() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!(
        "# The client on hostile paths\n\n\
         Written by the tests; measured, not edited. Again by:\n\n\
         ```\nTFO_HOSTILE=full TFO_LAB=require cargo test -p tfo-lab --test hostile --test losses\n```\n\n\
         Machine: {} × {}; Linux {}; {}; {build} build; {}; load average \
         {} at the end. Times are from the packet tap, from the first SYN \
         to the first byte of the answer.\n",
        thread::available_parallelism().map_or(1, usize::from),
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        output("rustc", &["--version"]),
        output("date", &["-u", "+%F"]),
        read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
    )
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
