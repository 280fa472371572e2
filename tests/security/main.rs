//! `make security`: attacks that have worked on OCI runtimes, tried on ours, runc and crun; a table of what came of them.
//!
//! One row an attack, named after its case (the CVEs stand beside each). `cases.rs` runs the same rows against ours, a
//! test each. Everything that is attacked is the test's own: a copy of the runtime's binary, files and directories of
//! a scratch host; where a real file of the kernel is the goal, it is opened and nothing is written. `README.md` says what
//! each defence is and how its test was seen to fail without it.
//!
//! ```text
//! security                            the table
//! security ROW RUNTIME-BINARY NAME    one row; exit code 0: defended or refused, 1: not
//! security attack WHAT ...            what runs inside of the containers, and racers beside them
//! ```
#![forbid(unsafe_code)]

mod attack;
mod case;
mod scene;

use case::ROWS;
use gantry_tests::tools;
use scene::{Runtime, Scene, Verdict};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_] => table(),
        // Inside of a container the program's name is the command.
        ["/attack", ..] => attack::main(&args[1..]).map(|()| true),
        [_, "attack", ..] => attack::main(&args[2..]).map(|()| true),
        [_, row, program, name] => one(row, &Runtime { name: (*name).to_owned(), program: PathBuf::from(program) }),
        _ => Err("usage: security [ROW RUNTIME-BINARY NAME]".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("security: {why}");
            ExitCode::FAILURE
        }
    }
}

/// One row against one runtime.
fn one(row: &str, runtime: &Runtime) -> Result<bool, String> {
    let verdict = match ROWS.iter().find(|known| known.name == row) {
        Some(found) => (found.run)(runtime)?,
        None if row == "plain" => plain(runtime)?,
        None => return Err(format!("there is no row {row}")),
    };
    println!("{verdict}");
    Ok(!matches!(verdict, Verdict::Vulnerable(_)))
}

/// A container that attacks nobody: who cannot run that has not defended itself against anything.
fn plain(runtime: &Runtime) -> Result<Verdict, String> {
    let said = Scene::new("plain", runtime)?.script("echo ran").run()?;
    if said.out == "ran\n" { Ok(Verdict::Defended) } else { Err(said.err) }
}

/// A runtime of the table, and how its rows are started.
struct Column {
    runtime: Runtime,
    /// Words before the command, where it runs only in surroundings of its own.
    within: Vec<String>,
    /// What these are.
    remark: &'static str,
}

impl Column {
    fn try_row(&self, row: &str) -> (bool, String) {
        let own = std::env::current_exe().unwrap_or_default().display().to_string();
        let rest = [own, row.to_owned(), self.runtime.program.display().to_string(), self.runtime.name.clone()];
        let words: Vec<String> = self.within.iter().cloned().chain(rest).collect();
        let said = match Command::new(&words[0]).args(&words[1..]).output() {
            Ok(said) => said,
            Err(why) => return (false, format!("not tried ({why})")),
        };
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let why = || one_line(&String::from_utf8_lossy(&said.stderr));
        (said.status.success(), if text.is_empty() { format!("not tried ({})", why()) } else { one_line(&text) })
    }

    /// The runtime as it is; or without the v2 tree, since crun refuses a host that has controllers on both.
    fn new(name: &str, program: PathBuf) -> Column {
        let runtime = Runtime { name: name.to_owned(), program };
        let column = Column { runtime: runtime.clone(), within: Vec::new(), remark: "" };
        let (runs, said) = column.try_row("plain");
        if runs || !said.contains("hybrid") {
            return column;
        }
        // The trees once more, on a tmpfs of their own: what is below the host's mount is the host's, too.
        let hide = "mount -t tmpfs gantry /mnt && for tree in /sys/fs/cgroup/*; do
            name=${tree##*/}
            if [ -L $tree ]; then cp -d $tree /mnt/; continue; fi
            [ $name = unified ] || { mkdir /mnt/$name && mount --bind $tree /mnt/$name; } || exit
            done && mount --rbind /mnt /sys/fs/cgroup && exec \"$@\"";
        let within = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"].map(str::to_owned);
        Column { runtime, within: within.into(), remark: " (in a mount namespace without the v2 tree)" }
    }
}

/// Every row against every runtime that is installed. Whether ours stands.
fn table() -> Result<bool, String> {
    if !tools::is_root() {
        return Err("needs root".into());
    }
    let ours = tools::ours("gantry-runtime").ok_or("gantry-runtime is not built; `make build` builds it")?;
    let mut columns = vec![Column::new("ours", ours)];
    for name in ["runc", "crun"] {
        match tools::find(name) {
            Some(program) => columns.push(Column::new(name, program)),
            None => eprintln!("security: {name} is not installed (Debian: {name}); its column is missing"),
        }
    }
    println!("{}\n", head(&columns));
    let names: Vec<&str> = columns.iter().map(|column| column.runtime.name.as_str()).collect();
    println!("| case | attack | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(names.len()));
    let runs: Vec<(bool, String)> = columns.iter().map(|column| column.try_row("plain")).collect();
    let mut stands = runs[0].0;
    for row in ROWS {
        let mut cells = Vec::new();
        for (column, (runs, why)) in columns.iter().zip(&runs) {
            let (good, verdict) = if *runs { column.try_row(row.name) } else { (false, why.clone()) };
            stands &= column.runtime.name != "ours" || good;
            cells.push(verdict);
        }
        println!("| {} | {} ({}) | {} |", row.name, row.attack, row.seen_as, cells.join(" | "));
    }
    Ok(stands)
}

/// Versions of the runtimes and of the kernel.
fn head(columns: &[Column]) -> String {
    let version = |column: &Column| {
        let said = Command::new(&column.runtime.program).arg("--version").output().ok();
        let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        format!("{}: {}{}", column.runtime.name, text.lines().next().unwrap_or("unknown"), column.remark)
    };
    let versions: Vec<String> = columns.iter().map(version).collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}; kernel {}", versions.join("; "), kernel.trim())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}
