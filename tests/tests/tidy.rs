//! The house rules that a compiler does not check, as tests: they read the sources as text and name file and line.

#![allow(clippy::unwrap_used)]

use gantry_tests::tools::repository;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines; a table of data may be longer.
const FILE_LINES: usize = 500;
/// Longest function, in lines.
const FUNCTION_LINES: usize = 70;

/// The complete list of arrows between our crates (ARCHITECTURE.md).
const ARROWS: [(&str, &[&str]); 8] = [
    (
        "gantry",
        &["gantry-control-plane", "gantry-cri", "gantry-cri-api", "gantry-images", "gantry-kubelet", "gantry-runtime"],
    ),
    ("gantry-control-plane", &[]),
    ("gantry-cri", &["gantry-cri-api", "gantry-images", "gantry-runtime"]),
    ("gantry-cri-api", &[]),
    ("gantry-images", &[]),
    ("gantry-kubelet", &["gantry-cri-api"]),
    ("gantry-runtime", &[]),
    ("gantry-tests", &["gantry-cri-api"]),
];

/// The rooms of the root directory; anything else there needs a place in ARCHITECTURE.md first.
const ROOMS: [&str; 25] = [
    ".cargo",
    ".ci",
    ".git",
    ".gitignore",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "STYLE.md",
    "clippy.toml",
    "control-plane",
    "cri",
    "examples",
    "fuzz",
    "images",
    "kubelet",
    "runtime",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "scripts",
    "src",
];

struct Source {
    name: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = repository();
    let mut found = Vec::new();
    let mut queue: Vec<PathBuf> =
        ["src", "runtime", "images", "cri", "kubelet", "control-plane", "tests", "examples", "fuzz"]
            .map(|d| root.join(d))
            .into();
    while let Some(dir) = queue.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                queue.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
                found.push(Source { name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(found.len() > 20, "the sources are where this test looks for them");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn verdict(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_file_says_what_it_is_for() {
    let bare = sources().into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.name);
    verdict("a file opens with `//!`", &bare.collect::<Vec<_>>());
}

/// Where the word `unsafe` begins code: not in a comment, a string, or a lint's name.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    let code = code.split('"').next().unwrap_or("");
    !code.contains("unsafe_")
        && (code.contains("unsafe {")
            || code.contains("unsafe fn")
            || code.contains("unsafe impl")
            || code.contains("unsafe extern"))
}

#[test]
fn unsafe_lives_in_sys_only() {
    let outside =
        sources().into_iter().filter(|s| !s.name.starts_with("runtime/src/sys/") && s.name != "tests/tests/tidy.rs");
    let mut offences = Vec::new();
    for source in outside {
        let lines = source.text.lines().enumerate().filter(|(_, line)| has_unsafe(line));
        offences.extend(lines.map(|(at, _)| format!("{}:{}", source.name, at + 1)));
    }
    verdict("unsafe code lives in runtime/src/sys", &offences);
}

#[test]
fn every_crate_but_the_runtime_forbids_unsafe() {
    let roots = [
        "src/main.rs",
        "images/src/lib.rs",
        "cri/src/lib.rs",
        "kubelet/src/lib.rs",
        "control-plane/src/lib.rs",
        "tests/src/lib.rs",
    ];
    let open = sources()
        .into_iter()
        .filter(|s| roots.contains(&s.name.as_str()) && !s.text.contains("#![forbid(unsafe_code)]"));
    verdict("`#![forbid(unsafe_code)]` stands in the crate's root", &open.map(|s| s.name).collect::<Vec<_>>());
}

/// A file that is one table says so in its header, in these words.
fn is_table(source: &Source) -> bool {
    source.text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.contains("A table"))
}

#[test]
fn files_are_short_enough_to_read() {
    let long = sources().into_iter().filter(|s| !is_table(s) && s.text.lines().count() > FILE_LINES);
    verdict(
        "a file has at most 500 lines",
        &long.map(|s| format!("{}: {}", s.name, s.text.lines().count())).collect::<Vec<_>>(),
    );
}

/// Functions with their first line's number and length, by indentation (rustfmt's work makes that exact).
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let words = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "pub(crate) async fn ",
            "pub(super) async fn ",
            "const fn ",
            "pub const fn ",
        ];
        if !words.iter().any(|w| code.starts_with(w)) || code.ends_with(';') || code.ends_with('}') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[at..].iter().position(|l| *l == close) {
            found.push((at + 1, length + 1));
        }
    }
    found
}

#[test]
fn functions_are_short_enough_to_read() {
    let mut offences = Vec::new();
    for source in sources().into_iter().filter(|s| !is_table(s)) {
        let long = functions(&source.text).into_iter().filter(|(_, length)| *length > FUNCTION_LINES);
        offences.extend(long.map(|(at, length)| format!("{}:{at}: {length} lines", source.name)));
    }
    verdict("a function has at most 70 lines", &offences);
}

#[test]
fn a_todo_has_an_owner() {
    let mut offences = Vec::new();
    for source in sources().into_iter().filter(|s| s.name != "tests/tests/tidy.rs") {
        let open = source
            .text
            .lines()
            .enumerate()
            .filter(|(_, l)| (l.contains("TODO") && !l.contains("TODO(")) || l.contains("FIXME"));
        offences.extend(open.map(|(at, _)| format!("{}:{}", source.name, at + 1)));
    }
    verdict("`TODO(owner)`, or no TODO", &offences);
}

/// The names of our crates among the `[dependencies]` of a Cargo.toml.
fn own_dependencies(manifest: &Path) -> (String, Vec<String>) {
    let text = fs::read_to_string(manifest).unwrap();
    let (mut section, mut name, mut needs) = (String::new(), String::new(), Vec::new());
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if section == "[package]" && line.starts_with("name = ") {
            name = line.trim_start_matches("name = ").trim_matches('"').to_owned();
        } else if section == "[dependencies]" && line.starts_with("gantry-") {
            needs.push(line.split(['.', ' ', '=']).next().unwrap_or("").to_owned());
        }
    }
    (name, needs)
}

#[test]
fn the_arrows_between_crates_are_the_listed_ones() {
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let root = repository();
    let mut offences = Vec::new();
    for dir in [".", "runtime", "images", "cri", "cri/api", "kubelet", "control-plane", "tests"] {
        let (name, needs) = own_dependencies(&root.join(dir).join("Cargo.toml"));
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the list of arrows"));
        offences.extend(needs.iter().filter(|n| !may.contains(&n.as_str())).map(|n| format!("{name} -> {n}")));
    }
    verdict("the list of arrows in ARCHITECTURE.md is complete", &offences);
}

#[test]
fn the_root_holds_the_rooms_and_nothing_else() {
    let said = gantry_tests::tools::output("git", &["-C", &repository().display().to_string(), "ls-files"]);
    let Ok(said) = said else {
        eprintln!("SKIPPED: not a git checkout");
        return;
    };
    let mut strangers: Vec<String> = said
        .lines()
        .filter_map(|l| l.split('/').next())
        .filter(|n| !ROOMS.contains(n) && *n != "tests")
        .map(str::to_owned)
        .collect();
    strangers.dedup();
    verdict("the root listing is the architecture", &strangers);
}

#[test]
fn the_function_counter_counts() {
    let text = "impl A {\n    pub fn one(\n        &self,\n    ) {\n        x();\n    }\n}\nfn two() {\n}\n";
    assert_eq!(functions(text), [(2, 5), (8, 2)]);
}

#[test]
fn the_unsafe_finder_finds() {
    assert!(has_unsafe("    let x = unsafe { f() };"));
    assert!(!has_unsafe("// unsafe { f() }"));
    assert!(!has_unsafe("#![forbid(unsafe_code)]"));
}
