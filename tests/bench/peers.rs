//! The contestants: ours, the peers that are installed, and the floor.

use crate::compare::{Contestant, timed};
use gantry_tests::{bundle, tools};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One runtime with a state root of its own.
#[derive(Clone)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    root: PathBuf,
}

/// Everything that takes part, and the bundles that it is given.
pub(crate) struct Field {
    /// Ours first.
    pub(crate) all: Vec<Runtime>,
    /// The kernel's bare work.
    pub(crate) floor: PathBuf,
    /// `/bin/true` with the default specification.
    pub(crate) plain: PathBuf,
    /// The same with Docker's seccomp profile and limits of memory, pids and cpu.
    pub(crate) limited: PathBuf,
    /// A container that stays.
    pub(crate) sleeper: PathBuf,
}

impl Field {
    /// Finds the contestants and lays their bundles out below `dir`.
    ///
    /// # Errors
    /// Ours or the floor is not built; a bundle could not be made.
    pub(crate) fn new(dir: &Path) -> Result<Field, String> {
        let ours = tools::ours("gantry-runtime").ok_or("gantry-runtime is not built; `make build` builds it")?;
        let floor = ours.with_file_name("examples").join("bench-floor");
        if !floor.is_file() {
            return Err(format!("{} is not built; `make bench` builds it", floor.display()));
        }
        let runtime = |name: &str, program| Runtime { name: name.to_owned(), program, root: dir.join(name) };
        let mut all = vec![runtime("gantry-runtime", ours.clone())];
        // A crun that is newer than Debian's, where there is one: it is never built here.
        let newest = std::env::var_os("CRUN_NEWEST").map(PathBuf::from).or_else(|| tools::find("crun-newest"));
        all.extend(newest.map(|program| runtime("crun-newest", program)));
        for name in ["crun", "runc"] {
            match tools::find(name) {
                Some(program) => all.push(runtime(name, program)),
                None => eprintln!("bench: {name} is not installed (Debian: {name}); its column is missing"),
            }
        }
        let field =
            Field { all, floor, plain: dir.join("plain"), limited: dir.join("limited"), sleeper: dir.join("sleeper") };
        bundle::bundle(&field.plain, &ours, &["/bin/true"])?;
        bundle::bundle(&field.sleeper, &ours, &["/bin/sleep", "600"])?;
        bundle::bundle(&field.limited, &ours, &["/bin/true"])?;
        let profile = tools::output(&text(&field.floor), &["profile"])?;
        let profile: serde_json::Value = serde_json::from_str(&profile).map_err(|why| format!("profile: {why}"))?;
        bundle::edit(&field.limited, |spec| {
            spec["linux"]["seccomp"] = profile;
            spec["linux"]["resources"] = json!({
                "memory": {"limit": 64 << 20},
                "pids": {"limit": 64},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
            });
        })?;
        Ok(field)
    }

    /// Every runtime doing the same once.
    pub(crate) fn turns<'a>(
        &'a self,
        once: impl Fn(&Runtime) -> Result<(), String> + Copy + 'a,
    ) -> Vec<Contestant<'a>> {
        let contestant = |runtime: &'a Runtime| Contestant {
            name: runtime.name.clone(),
            once: Box::new(move || timed(|| once(runtime))),
        };
        self.all.iter().map(contestant).collect()
    }

    /// The floor as a contestant.
    pub(crate) fn floor<'a>(&'a self, args: &'a [String]) -> Contestant<'a> {
        let run = move || {
            let mut command = Command::new(&self.floor);
            timed(|| end(command.args(args).stdin(Stdio::null()).stdout(Stdio::null()), "bench-floor"))
        };
        Contestant { name: "floor".into(), once: Box::new(run) }
    }

    /// Ours alone.
    pub(crate) fn ours(&self) -> &Runtime {
        &self.all[0]
    }
}

impl Runtime {
    /// A container's name that is this contestant's alone: by default it is the name of the cgroup, too.
    pub(crate) fn id(&self, what: &str) -> String {
        format!("gantry-bench-{what}-{}", self.name)
    }

    /// The command line of `run` for a container of this name.
    pub(crate) fn run_line(&self, bundle: &Path, id: &str) -> Vec<String> {
        let words = ["--root", &text(&self.root), "run", "--bundle", &text(bundle), id];
        words.map(str::to_owned).into()
    }

    /// A container from its start to its end.
    pub(crate) fn run(&self, bundle: &Path) -> Result<(), String> {
        self.call(&["run", "--bundle", &text(bundle), &self.id("run")])
    }

    /// One that stays.
    pub(crate) fn stay(&self, bundle: &Path, id: &str) -> Result<(), String> {
        self.call(&["run", "--detach", "--bundle", &text(bundle), id])
    }

    /// Any command, to its end.
    pub(crate) fn call(&self, args: &[&str]) -> Result<(), String> {
        let what = format!("{} {}", self.name, args.join(" "));
        end(self.command(args).stderr(Stdio::inherit()), &what)
    }

    /// Any command, not started yet and quiet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn end(command: &mut Command, what: &str) -> Result<(), String> {
    let status = command.status().map_err(|why| format!("start {what}: {why}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}")) }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
