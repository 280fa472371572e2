//! Programs of the machine that tests, harness and benchmarks call, and lines of progress for people.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The absolute path of a program in `PATH` or the system directories.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain(system);
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Runs a program to its end and returns its standard output; its standard error goes to ours.
///
/// # Errors
/// The program could not start, or ended with another code than 0.
pub fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let run = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let run = run.map_err(|e| format!("start {program}: {e}"))?;
    if !run.status.success() {
        return Err(format!("{program} {}: {}", args.join(" "), run.status));
    }
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is below the root").to_owned()
}

/// Cargo's target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// A built program of ours: the one in `GANTRY_BIN_DIR`, else whichever build is the newest.
#[must_use]
pub fn ours(name: &str) -> Option<PathBuf> {
    let target = target_dir();
    let musl = target.join("x86_64-unknown-linux-musl");
    let named = std::env::var_os("GANTRY_BIN_DIR").map(PathBuf::from);
    let built = match name {
        "gantry-runtime" => vec![musl.join("runtime"), musl.join("debug")],
        _ => vec![target.join("release"), target.join("debug")],
    };
    if let Some(dir) = named {
        return Some(dir.join(name)).filter(|path| path.is_file());
    }
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    built.into_iter().map(|dir| dir.join(name)).filter(|path| path.is_file()).max_by_key(age)
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// One step of a longer job: says what it does when it starts, and how long it took when it is done.
#[derive(Debug)]
pub struct Step {
    title: String,
    start: Instant,
}

impl Step {
    /// Starts a step.
    #[must_use]
    pub fn new(title: &str) -> Self {
        println!("==> {title}");
        Self { title: title.to_owned(), start: Instant::now() }
    }

    /// Ends it with a remark.
    pub fn done(self, remark: &str) {
        println!("    {} done in {:.1} s: {remark}", self.title, self.start.elapsed().as_secs_f64());
    }
}
