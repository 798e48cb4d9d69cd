//! What is committed is what the programs write: result files, and the page that is made of them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use benches::claims::claims;
use benches::markdown;
use benches::result::{Entry, Results, SCHEMA, Set};
use benches::stats::Figure;
use serde_json::Value;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The committed result files, oldest first.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(docs().join("results")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Beside them are the pages of the hostile paths.
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "no result file is committed");
    files
}

fn read(file: &Path) -> Results {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The file that `docs/results.md` says it is made of.
fn shown() -> (PathBuf, String) {
    let page = fs::read_to_string(docs().join("results.md")).unwrap();
    let name = page.split_once("(results/").unwrap().1.split_once(')').unwrap().0;
    (docs().join("results").join(name), page)
}

#[test]
fn the_committed_page_is_what_its_result_file_generates() {
    let (file, page) = shown();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        markdown::page(&read(&file), &name),
        page,
        "report --from {} --markdown docs/results.md",
        file.display()
    );
    assert!(files().contains(&file));
}

#[test]
fn another_figure_makes_another_page() {
    let (file, page) = shown();
    let mut results = read(&file);
    let measured = results.entries.iter_mut().find_map(|entry| match &mut entry.value {
        Figure::Measured(summary) => Some(summary),
        Figure::Missing { .. } => None,
    });
    measured.unwrap().median *= 2.0;
    assert_ne!(markdown::page(&results, file.file_name().unwrap().to_str().unwrap()), page);
}

#[test]
fn nothing_failed_is_no_verdict_where_nothing_was_tried() {
    let mut results = read(&shown().0);
    let mut verdict = |requests: [f64; 2], rode: f64, failed: f64| {
        results.entries.clear();
        let counts = [("requests", requests), ("in the SYN", [0.0, rode]), ("failed", [0.0, failed])];
        for (what, counts) in counts {
            for (who, count) in ["plain", "TFO"].into_iter().zip(counts) {
                let count = Figure::of(&[count], f64::INFINITY);
                results.entries.push(Entry::new(Set::Restart, what, who, "requests", count));
            }
        }
        claims(&results)[0].verdict()
    };
    assert_eq!(verdict([9.0, 9.0], 8.0, 0.0), "yes");
    assert_eq!(verdict([9.0, 9.0], 8.0, 1.0), "no");
    for (requests, rode) in [([0.0, 9.0], 8.0), ([9.0, 0.0], 0.0), ([9.0, 9.0], 0.0)] {
        assert_eq!(verdict(requests, rode, 0.0), "not measured", "{requests:?} {rode}");
    }
}

#[test]
fn committed_files_keep_to_the_schema() {
    let schema = jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap();
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<_> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", file.display());
        // Nothing is lost between the file and the program.
        assert_eq!(serde_json::to_string_pretty(&read(&file)).unwrap() + "\n", text, "{}", file.display());
    }
}

#[test]
fn the_schema_refuses_what_is_no_figure() {
    let schema = jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap();
    let (file, _) = shown();
    let good = serde_json::to_value(read(&file)).unwrap();
    assert!(schema.is_valid(&good));
    for bad in [
        serde_json::json!({}),
        serde_json::json!({"median": 1.0}),
        serde_json::json!({"not_measured": ""}),
        serde_json::json!({"n": 0, "median": 1.0, "p99": 1.0, "spread": 0.0}),
        serde_json::json!(1.0),
    ] {
        let mut doctored = good.clone();
        doctored["entries"][0]["value"] = bad.clone();
        assert!(!schema.is_valid(&doctored), "{bad}");
    }
}
