//! DO: list, signal, freeze and wait for the processes of a cgroup.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::controller::{Controller, Version};
use super::tree::{Cgroup, put, write_file};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::read_text;

/// How long a freeze may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same where one that does not come about does little harm.
const BRIEF: Duration = Duration::from_millis(200);

/// How often the processes of a cgroup that does not freeze are listed and killed.
const KILL_ROUNDS: u32 = 10;

/// v1: after how many tries to freeze everything may move for a moment.
const THAW_EVERY: u32 = 50;

impl Cgroup {
    /// Every process in the cgroup and in those that the container made below it, in no order; empty once it has gone.
    ///
    /// # Errors
    /// `System`, if a list cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        let Some(dir) = self.dir(Controller::Freezer).or_else(|| self.dirs().next().map(|(_, dir)| dir)) else {
            return Ok(pids);
        };
        collect(&dir, &mut pids).context(|| format!("list the processes of {}", dir.display()))?;
        Ok(pids)
    }

    /// Sends `signal` to every process, and to none twice: the cgroup stands still meanwhile, where it can be made to.
    /// One that was frozen before stays so. To be rid of all of them use [`Cgroup::kill_all`].
    ///
    /// # Errors
    /// `System` for anything but a process that has gone meanwhile.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let signal =
            Signal::try_from(signal).map_err(|_| Error::new(Kind::Invalid, format!("there is no signal {signal}")))?;
        let frozen = self.is_frozen().unwrap_or(true);
        if !frozen {
            // Where it does not come about, one that is born meanwhile may be missed, as with every list.
            let _ = self.set_frozen(BRIEF);
        }
        let sent = self.pids().and_then(|pids| pids.into_iter().try_for_each(|pid| send(pid, signal)));
        if !frozen { sent.and(unless_gone(self.thaw())) } else { sent }
    }

    /// Kills every process with SIGKILL, forks in flight too, and thaws what is frozen so that they can die.
    ///
    /// `cgroup.kill` (v2, kernel 5.14; hybrids have it too) does it in one step; elsewhere the cgroup is frozen while
    /// the list is worked off, so that nothing can be born behind it. Does not wait: [`Cgroup::delete`] does.
    ///
    /// # Errors
    /// `System`; a cgroup that has gone is no error.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(dir) = self.unified_dir() {
            let file = dir.join("cgroup.kill");
            unless_gone(put(&file, "1").context(|| format!("write 1 to {}", file.display())))?;
        }
        // Whatever is in the v1 trees but never was in the v2 one (or on a kernel without cgroup.kill).
        for _ in 0..KILL_ROUNDS {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            // A freezer that hangs must not keep the kill back: then what was born meanwhile is found in the next round.
            let still = self.set_frozen(BRIEF).is_ok();
            let killed = self.pids()?.into_iter().try_for_each(|pid| send(pid, Signal::SIGKILL));
            unless_gone(self.thaw_below())?;
            killed?;
            if still {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Stops every process, and waits until all stand still; bounded also where new ones keep coming.
    ///
    /// # Errors
    /// `System`, if they do not within ten seconds (the cgroup is thawed again then, and a process that waits
    /// uninterruptibly, for a disk, is named); `Unsupported` without a freezer.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(PATIENCE).inspect_err(|_| {
            // The failure to freeze is what the caller needs to hear of.
            let _ = self.thaw();
        })
    }

    /// Lets every process run again.
    ///
    /// # Errors
    /// `System`, or `Unsupported` without a freezer.
    pub fn thaw(&self) -> Result<()> {
        let (version, dir) = self.freezer()?;
        match version {
            Version::V1 => write_file(&dir.join("freezer.state"), "THAWED"),
            Version::V2 => write_file(&dir.join("cgroup.freeze"), "0"),
        }
    }

    /// Whether it is frozen itself, or on its way; one above it does not count.
    ///
    /// # Errors
    /// `System`, or `Unsupported` without a freezer.
    pub fn is_frozen(&self) -> Result<bool> {
        let (version, dir) = self.freezer()?;
        let file = match version {
            Version::V1 => "freezer.self_freezing",
            Version::V2 => "cgroup.freeze",
        };
        Ok(read(&dir.join(file))?.starts_with('1'))
    }

    /// Whether any process is in it or below; `false` once it has gone.
    ///
    /// # Errors
    /// `System`, if it cannot be read.
    pub fn is_populated(&self) -> Result<bool> {
        Ok(!self.pids()?.is_empty())
    }

    fn freezer(&self) -> Result<(Version, std::path::PathBuf)> {
        let version = self.version_of(Controller::Freezer);
        match (version, self.dir(Controller::Freezer)) {
            (Some(version), Some(dir)) => Ok((version, dir)),
            _ => Err(Error::new(Kind::Unsupported, "this host has no freezer cgroup controller and no cgroup v2")),
        }
    }

    /// Thaws it and what the container has frozen below it: on v1 a frozen process cannot even be killed.
    fn thaw_below(&self) -> Result<()> {
        self.thaw()?;
        match self.freezer()? {
            (Version::V1, dir) => {
                thaw_inner(&dir);
                Ok(())
            }
            (Version::V2, _) => Ok(()),
        }
    }

    fn set_frozen(&self, patience: Duration) -> Result<()> {
        let (version, dir) = self.freezer()?;
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(100);
        for round in 1.. {
            // v1 has to be asked again: a process that is just being born can leave it FREEZING for ever; and, as runc
            // found, to thaw now and then helps where new ones keep coming.
            let now = match version {
                Version::V1 => {
                    let state = dir.join("freezer.state");
                    if round % THAW_EVERY == 0 {
                        write_file(&state, "THAWED")?;
                    }
                    write_file(&state, "FROZEN")?;
                    read(&state)?.starts_with("FROZEN")
                }
                Version::V2 => {
                    if round == 1 {
                        write_file(&dir.join("cgroup.freeze"), "1")?;
                    }
                    read(&dir.join("cgroup.events"))?.lines().any(|line| line == "frozen 1")
                }
            };
            if now {
                break;
            }
            if Instant::now() >= deadline {
                let waiting = uninterruptible(&self.pids()?);
                let what = format!("{} did not freeze within {patience:?}{waiting}", dir.display());
                return Err(Error::new(Kind::System, what));
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(Error::system(format!("signal process {pid}"), errno.into())),
    }
}

/// Those of the processes that wait for something that no signal interrupts, as a sentence's end.
fn uninterruptible(pids: &[i32]) -> String {
    let stat = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let stuck: Vec<String> = pids.iter().filter(|pid| waits(&stat(pid))).take(5).map(ToString::to_string).collect();
    if stuck.is_empty() { String::new() } else { format!(": process {} waits uninterruptibly", stuck.join(", ")) }
}

/// State `D` in the text of `/proc/<pid>/stat`; a name may have anything in it.
fn waits(stat: &str) -> bool {
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}

/// Whatever cannot be thawed shows itself when the cgroup cannot be removed.
fn thaw_inner(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::write(entry.path().join("freezer.state"), "THAWED");
            thaw_inner(&entry.path());
        }
    }
}

/// systemd removes the cgroup of a scope as soon as its last process has gone.
fn unless_gone(done: Result<()>) -> Result<()> {
    let gone = |why: &Error| why.errno().is_some_and(|errno| matches!(errno.raw(), libc::ENOENT | libc::ENODEV));
    match done {
        Err(why) if gone(&why) => Ok(()),
        done => done,
    }
}

fn read(path: &Path) -> Result<String> {
    read_text(path).context(|| format!("read {}", path.display()))
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match read_text(&dir.join("cgroup.procs")) {
        // ENODEV: removed between open and read.
        Err(why) if matches!(why.raw(), libc::ENOENT | libc::ENODEV) => return Ok(()),
        // A threaded cgroup lists its processes at the root of its domain.
        Err(why) if why.raw() == libc::EOPNOTSUPP => String::new(),
        text => text.map_err(|why| io::Error::from_raw_os_error(why.raw()))?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    let entries = match fs::read_dir(dir) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::host::{Scratch, put};
    use super::super::layout::Layout;
    use super::*;

    /// A cgroup of which the kernel says that it never stands still.
    fn restless(scratch: &Scratch, version: Version, files: &[(&str, &str)]) -> Cgroup {
        for (file, text) in files {
            put(&scratch.0.join("tree/web").join(file), text);
        }
        let layout = Layout::of(vec![scratch.tree("tree", version, &[Controller::Freezer])]);
        Cgroup::at(&layout, Path::new("web")).unwrap()
    }

    #[test]
    fn a_freeze_that_does_not_come_about_ends_with_a_sentence() {
        let scratch = Scratch::new("restless");
        let files = [("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 0\n"), ("cgroup.procs", "")];
        let web = restless(&scratch, Version::V2, &files);
        let said = web.set_frozen(Duration::from_millis(5)).unwrap_err().to_string();
        assert!(said.ends_with("tree/web did not freeze within 5ms"), "{said}");
        // A signal reaches its processes all the same, and leaves it thawed.
        web.thaw().unwrap();
        web.signal_all(libc::SIGTERM).unwrap();
        assert_eq!(fs::read_to_string(scratch.0.join("tree/web/cgroup.freeze")).unwrap(), "0");
    }

    #[test]
    fn who_waits_uninterruptibly_is_told_by_the_state_behind_the_name() {
        assert!(waits("12 (dd) D 1 12"));
        assert!(waits("12 (a) R 1) D 1 12"));
        assert!(!waits("12 (D) S 1 12") && !waits("12 (x) ") && !waits(""));
        assert_eq!(uninterruptible(&[i32::MAX]), "");
    }
}
