//! What a run needs: memory, size on disk, system calls.

use crate::compare::figures;
use crate::peers::{Field, Runtime, text};
use gantry_tests::{bundle, tools};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Measures and prints memory, sizes and counts.
///
/// # Errors
/// A program could not be run.
pub(crate) fn measure(field: &Field, dir: &Path) -> Result<(), String> {
    println!("| footprint | gantry-runtime |{}", " against |".repeat(field.all.len() - 1));
    println!("|---|---|{}", "---|".repeat(field.all.len() - 1));
    let each = |of: &dyn Fn(&Runtime) -> Result<u64, String>| -> Result<Vec<(String, u64)>, String> {
        field.all.iter().map(|runtime| Ok((runtime.name.clone(), of(runtime)?))).collect()
    };
    figures("peak memory of a run, its largest process", "KiB", &each(&|r| peak(field, r, &field.plain))?);
    figures("the same with seccomp and limits", "KiB", &each(&|r| peak(field, r, &field.limited))?);
    let small = dir.join("small");
    bundle::bundle(&small, &field.ours().program, &["/bin/true"])?;
    figures("smallest memory limit under which /bin/true runs", "KiB", &each(&|r| smallest(r, &small))?);
    figures("binary with its shared libraries", "KiB", &each(&|r| Ok(size(&r.program) / 1024))?);
    let Some(strace) = tools::find("strace") else {
        eprintln!("bench: strace is not installed (Debian: strace); the counts of system calls are missing\n");
        return Ok(());
    };
    let mut counts = Vec::new();
    for runtime in &field.all {
        counts.push((runtime.name.clone(), calls(&strace, runtime, &field.plain)?));
    }
    let total = |list: &BTreeMap<String, u64>| list.values().sum::<u64>();
    let named = |list: &BTreeMap<String, u64>, names: &[&str]| names.iter().filter_map(|name| list.get(*name)).sum();
    let count = |of: &dyn Fn(&BTreeMap<String, u64>) -> u64| -> Vec<(String, u64)> {
        counts.iter().map(|(name, list)| (name.clone(), of(list))).collect()
    };
    figures("system calls of a run, with those of /bin/true", "", &count(&total));
    let clones = ["clone", "clone3", "fork", "vfork"];
    figures("processes and threads made", "", &count(&|list| named(list, &clones)));
    figures("programs executed, with /bin/true", "", &count(&|list| named(list, &["execve", "execveat"])));
    println!("\nSystem calls of our run, by count:\n");
    let mut list: Vec<(&String, &u64)> = counts[0].1.iter().collect();
    list.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let words: Vec<String> = list.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{}.\n", words.join(", "));
    Ok(())
}

/// Peak resident memory of a run, the largest of its processes, in KiB (getrusage(2) of the children).
fn peak(field: &Field, runtime: &Runtime, bundle: &Path) -> Result<u64, String> {
    let program = text(&runtime.program);
    let line = runtime.run_line(bundle, &runtime.id("rss"));
    let mut words = vec!["rss", &program];
    words.extend(line.iter().map(String::as_str));
    let said = tools::output(&text(&field.floor), &words)?;
    said.trim().parse().map_err(|why| format!("{said:?}: {why}"))
}

/// The smallest limit, in steps of 32 KiB, under which three runs in a row succeed.
fn smallest(runtime: &Runtime, bundle: &Path) -> Result<u64, String> {
    let step: u64 = 32;
    let fits = |steps: u64| -> Result<bool, String> {
        bundle::edit(bundle, |spec| {
            spec["linux"]["resources"]["memory"] = json!({ "limit": steps * step * 1024 });
        })?;
        for _ in 0..3 {
            let id = runtime.id("small");
            let ran = runtime.command(&["run", "--bundle", &text(bundle), &id]).status();
            // One that was killed half-way may leave something behind.
            let _ = runtime.command(&["delete", "--force", &id]).status();
            if !ran.map_err(|why| format!("start {}: {why}", runtime.name))?.success() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let (mut below, mut above) = (0_u64, 1024_u64);
    while above - below > 1 {
        let middle = below.midpoint(above);
        if fits(middle)? { above = middle } else { below = middle }
    }
    Ok(above * step)
}

/// Size of a program and of every shared library that it loads, in bytes.
fn size(program: &Path) -> u64 {
    let said = Command::new("ldd").arg(program).stderr(Stdio::null()).output();
    let said = said.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let files: BTreeSet<PathBuf> =
        libraries.chain([program.to_owned()]).filter_map(|p| p.canonicalize().ok()).collect();
    files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|about| about.len()).sum()
}

/// Every system call of a run and how often it is made (`strace -f -c`).
fn calls(strace: &Path, runtime: &Runtime, bundle: &Path) -> Result<BTreeMap<String, u64>, String> {
    let out = bundle.with_file_name(format!("strace-{}", runtime.name));
    let line = runtime.run_line(bundle, &runtime.id("strace"));
    let mut command = Command::new(strace);
    command.args(["-f", "-c", "-o"]).arg(&out).arg(&runtime.program).args(line);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.map_err(|why| format!("start strace: {why}"))?;
    if !status.success() {
        return Err(format!("strace of {}: {status}", runtime.name));
    }
    let table = std::fs::read_to_string(&out).map_err(|why| format!("read {}: {why}", out.display()))?;
    Ok(counts(&table))
}

/// The columns `calls` and `syscall` of strace's summary.
fn counts(table: &str) -> BTreeMap<String, u64> {
    let count = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = *words.last()?;
        let calls = words.get(3)?.parse().ok()?;
        (name != "total").then(|| (name.to_owned(), calls))
    };
    table.lines().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn the_summary_of_strace() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n  \
                     9.09    0.000001           0       131         7 openat2\n  \
                     0.00    0.000000           0         2           execve\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000011           0       133         7 total\n";
        let found = counts(table);
        assert_eq!(found.get("openat2"), Some(&131));
        assert_eq!(found.get("execve"), Some(&2));
        assert_eq!(found.len(), 2);
    }
}
