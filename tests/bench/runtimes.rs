//! Ours against crun and runc: the same bundle, the same order of commands.

use crate::compare::{Contestant, row, timed};
use gantry_tests::{bundle, tools};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Turns of each contestant in a hot row and in a cold one.
const HOT: usize = 60;
const COLD: usize = 20;
/// What a node's runtime sees: the machine has done nothing for a moment.
const IDLE: Duration = Duration::from_millis(250);

#[derive(Clone)]
struct Runtime {
    name: &'static str,
    program: PathBuf,
    root: PathBuf,
}

impl Runtime {
    /// A container's name that is this contestant's alone: by default it is the name of the cgroup, too.
    fn id(&self, what: &str) -> String {
        format!("gantry-bench-{what}-{}", self.name)
    }
}

/// Measures and prints the rows of the runtime.
///
/// # Errors
/// A program is missing or a container failed.
pub(crate) fn measure() -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("gantry-bench-{}", std::process::id()));
    let outcome = rows(&dir);
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn rows(dir: &Path) -> Result<(), String> {
    let ours = tools::ours("gantry-runtime").ok_or("gantry-runtime is not built; `make build` builds it")?;
    let mut all = vec![Runtime { name: "gantry-runtime", program: ours.clone(), root: dir.join("state-ours") }];
    for name in ["crun", "runc"] {
        match tools::find(name) {
            Some(program) => all.push(Runtime { name, program, root: dir.join(format!("state-{name}")) }),
            None => eprintln!("bench: {name} is not installed (Debian: {name}); its column is missing"),
        }
    }
    let plain = dir.join("plain");
    bundle::bundle(&plain, &ours, &["/bin/true"])?;
    let sleeper = dir.join("sleeper");
    bundle::bundle(&sleeper, &ours, &["/bin/sleep", "600"])?;

    println!("| runtime | gantry-runtime | against | against |\n|---|---|---|---|");
    row("run /bin/true, hot", HOT, Duration::ZERO, &mut turns(&all, |r| run(r, &plain)))?;
    row("run /bin/true after 250 ms idle", COLD, IDLE, &mut turns(&all, |r| run(r, &plain)))?;
    row("create + start + exit + delete", HOT / 2, Duration::ZERO, &mut turns(&all, |r| lifecycle(r, &plain)))?;
    for runtime in &all {
        call(runtime, &["run", "--detach", "--bundle", &text(&sleeper), &runtime.id("sleeper")])?;
    }
    row(
        "exec /bin/true, hot",
        HOT,
        Duration::ZERO,
        &mut turns(&all, |r| call(r, &["exec", &r.id("sleeper"), "/bin/true"])),
    )?;
    row(
        "exec /bin/true after 250 ms idle",
        COLD,
        IDLE,
        &mut turns(&all, |r| call(r, &["exec", &r.id("sleeper"), "/bin/true"])),
    )?;
    row("state", HOT, Duration::ZERO, &mut turns(&all, |r| call(r, &["state", &r.id("sleeper")])))?;
    for runtime in &all {
        call(runtime, &["delete", "--force", &runtime.id("sleeper")])?;
    }
    println!();
    Ok(())
}

fn turns<'a>(all: &'a [Runtime], once: impl Fn(&Runtime) -> Result<(), String> + Copy + 'a) -> Vec<Contestant<'a>> {
    let contestant = |runtime: &'a Runtime| Contestant {
        name: runtime.name.to_owned(),
        once: Box::new(move || timed(|| once(runtime))),
    };
    all.iter().map(contestant).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(runtime: &Runtime, bundle: &Path) -> Result<(), String> {
    call(runtime, &["run", "--bundle", &text(bundle), &runtime.id("run")])
}

fn lifecycle(runtime: &Runtime, bundle: &Path) -> Result<(), String> {
    call(runtime, &["create", "--bundle", &text(bundle), &runtime.id("life")])?;
    call(runtime, &["start", &runtime.id("life")])?;
    // Deleting needs the end of `/bin/true`: forced, so that no contestant waits for it in a loop of its own.
    call(runtime, &["delete", "--force", &runtime.id("life")])
}

fn call(runtime: &Runtime, args: &[&str]) -> Result<(), String> {
    let mut command = Command::new(&runtime.program);
    command
        .arg("--root")
        .arg(&runtime.root)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let status = command.status().map_err(|e| format!("start {}: {e}", runtime.program.display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} {}: {status}", runtime.name, args.join(" "))) }
}
