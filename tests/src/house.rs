//! A scratch host: a name, a directory, and a check at the end that nothing is left of what the test made.
//!
//! Everything that a test creates carries the house's name: its directory, its cgroups and the environment of its
//! processes. That is what lets several tests share a machine, and what lets [`House`]'s drop say exactly whose leak it is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long a drop waits for the kernel to finish what was already asked of it (a reaped process, a lazy unmount).
const SETTLE: Duration = Duration::from_secs(5);

/// A scratch host. Dropping it removes its directory and panics on a leaked process, mount, cgroup, or file descriptor.
#[derive(Debug)]
pub struct House {
    name: String,
    dir: PathBuf,
}

impl House {
    /// Makes a house whose name starts with `gantry-test-` and is unique on this machine.
    #[must_use]
    pub fn new(title: &str) -> Self {
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gantry-test-{title}-{}-{serial}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("a scratch directory can be made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("own directory");
        Self { name, dir }
    }

    /// The house's unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The house's directory; removed by the drop.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below the house's directory.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// What is still there of this house, one line a thing; empty when all is clean.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(processes(&self.name).into_iter().map(|p| format!("process {p}")));
        found.extend(mounts(&self.name).into_iter().map(|m| format!("mount {m}")));
        found.extend(cgroups(&self.name).into_iter().map(|c| format!("cgroup {}", c.display())));
        found.extend(descriptors(&self.name).into_iter().map(|f| format!("descriptor {f}")));
        found
    }

    /// Waits until nothing is left, for at most five seconds.
    ///
    /// # Errors
    /// The leaks that remain.
    pub fn settle(&self) -> Result<(), Vec<String>> {
        let end = Instant::now() + SETTLE;
        loop {
            let leaks = self.leaks();
            if leaks.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(leaks);
            }
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let verdict = self.settle();
        if verdict.is_ok() {
            // Only now: removing through a leaked mount would destroy what is mounted there.
            let _ = fs::remove_dir_all(&self.dir);
        }
        if std::thread::panicking() {
            return;
        }
        if let Err(leaks) = verdict {
            panic!("{} left behind:\n  {}", self.name, leaks.join("\n  "));
        }
    }
}

/// Process ids (other than this one's) that have `name` in their command line, environment, root, cwd or cgroup.
#[must_use]
pub fn pids(name: &str) -> Vec<u32> {
    let own = std::process::id();
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own && belongs(*pid, name).is_some()).collect()
}

/// The same processes, each as `pid: command line`.
#[must_use]
pub fn processes(name: &str) -> Vec<String> {
    pids(name).into_iter().filter_map(|pid| belongs(pid, name)).collect()
}

fn belongs(pid: u32, name: &str) -> Option<String> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let text = |file: &str| {
        let bytes = fs::read(dir.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let link = |file: &str| fs::read_link(dir.join(file)).map(|p| p.display().to_string()).unwrap_or_default();
    let command = text("cmdline");
    let marks = [command.clone(), text("environ"), text("cgroup"), link("root"), link("cwd")];
    // A zombie has no files left to read; it counts as its parent's and goes with it.
    marks.iter().any(|mark| mark.contains(name)).then(|| format!("{pid}: {}", command.trim()))
}

/// Lines of this mount namespace's mountinfo that name the house.
#[must_use]
pub fn mounts(name: &str) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    all.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
}

/// Cgroup directories, in every hierarchy, whose path names the house.
#[must_use]
pub fn cgroups(name: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut queue = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = queue.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(name) {
                    found.insert(entry.path());
                }
                queue.push(entry.path());
            }
        }
    }
    found
}

/// This process's open descriptors that point below the house's directory.
#[must_use]
pub fn descriptors(name: &str) -> Vec<String> {
    let Ok(fds) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.map(|to| to.display().to_string()).filter(|to| to.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_quiet_house_leaves_no_directory() {
        let house = House::new("quiet");
        let dir = house.dir().to_owned();
        fs::write(house.path("file"), "x").unwrap();
        drop(house);
        assert!(!dir.exists());
    }

    #[test]
    fn a_process_left_running_is_found_and_named() {
        let house = House::new("leaky");
        let mut child = Command::new("sleep").arg("60").current_dir(house.dir()).spawn().unwrap();
        let mut leaks = house.leaks();
        // In the middle of its exec a process has no command line for an instant.
        for _ in 0..100 {
            if leaks.iter().all(|leak| leak.contains("sleep 60")) {
                break;
            }
            sleep(Duration::from_millis(10));
            leaks = house.leaks();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(leaks.len(), 1, "{leaks:?}");
        assert!(leaks[0].contains("sleep 60"), "{leaks:?}");
        assert!(house.leaks().is_empty());
    }

    #[test]
    fn an_open_file_below_the_house_is_found() {
        let house = House::new("fd");
        let file = fs::File::create(house.path("open")).unwrap();
        assert_eq!(house.leaks().len(), 1);
        drop(file);
        assert!(house.leaks().is_empty());
    }
}
