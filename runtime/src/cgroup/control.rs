//! DO: list, signal, freeze and wait for the processes of a cgroup.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::controller::{Controller, Version};
use super::tree::{Cgroup, write_file};
use crate::error::{Context, Error, Kind, Result};

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

    /// Sends `signal` to every process. Processes that come while it runs may be missed unless it is frozen; to be rid
    /// of all of them use [`Cgroup::kill_all`].
    ///
    /// # Errors
    /// `System` for anything but a process that has gone meanwhile.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let signal =
            Signal::try_from(signal).map_err(|_| Error::new(Kind::Invalid, format!("there is no signal {signal}")))?;
        for pid in self.pids()? {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(errno) => return Err(Error::system(format!("signal process {pid}"), errno.into())),
            }
        }
        Ok(())
    }

    /// Kills every process with SIGKILL, forks in flight too, and thaws the cgroup so that they can die.
    ///
    /// `cgroup.kill` (v2, kernel 5.14; hybrids have it too) does it in one step; elsewhere the cgroup is frozen while
    /// the list is worked off, so that nothing can be born behind it. Does not wait: [`Cgroup::delete`] does.
    ///
    /// # Errors
    /// `System`; a cgroup that has gone is no error.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(dir) = self.unified_dir() {
            let file = dir.join("cgroup.kill");
            if file.exists() {
                write_file(&file, "1")?;
            }
        }
        // Whatever is in the v1 trees but never was in the v2 one (or on a kernel without cgroup.kill).
        if !self.pids()?.is_empty() {
            let frozen = self.set_frozen(true, Duration::from_millis(200));
            let killed = self.signal_all(libc::SIGKILL);
            let thawed = self.set_frozen(false, Duration::ZERO);
            // A freezer that hangs must not keep the kill back: without it the list is worked off again below.
            drop(frozen);
            killed.and(thawed)?;
        }
        Ok(())
    }

    /// Stops every process, and waits until all stand still.
    ///
    /// # Errors
    /// `System`, if they do not within two seconds (the cgroup is thawed again then); `Unsupported` without a freezer.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true, Duration::from_secs(2)).inspect_err(|_| {
            // The failure to freeze is what the caller needs to hear of.
            let _ = self.set_frozen(false, Duration::ZERO);
        })
    }

    /// Lets every process run again.
    ///
    /// # Errors
    /// `System`, or `Unsupported` without a freezer.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false, Duration::from_secs(2))
    }

    /// Whether it is frozen, or on its way.
    ///
    /// # Errors
    /// `System`, or `Unsupported` without a freezer.
    pub fn is_frozen(&self) -> Result<bool> {
        let (version, dir) = self.freezer()?;
        let (file, on) = match version {
            Version::V1 => ("freezer.state", "FRO"),
            Version::V2 => ("cgroup.freeze", "1"),
        };
        let text = read(&dir.join(file))?;
        // v1: THAWED, FREEZING, FROZEN.
        Ok(text.starts_with(on) || text.starts_with("FREEZING"))
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

    fn set_frozen(&self, frozen: bool, patience: Duration) -> Result<()> {
        let (version, dir) = self.freezer()?;
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(100);
        loop {
            // v1 has to be asked again: a process that is just being born can leave it FREEZING for ever.
            match version {
                Version::V1 => write_file(&dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })?,
                Version::V2 => write_file(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?,
            }
            let now = match version {
                Version::V1 => read(&dir.join("freezer.state"))?.starts_with("FROZEN"),
                Version::V2 => read(&dir.join("cgroup.events"))?.lines().any(|line| line == "frozen 1"),
            };
            if now == frozen || patience.is_zero() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let verb = if frozen { "freeze" } else { "thaw" };
                return Err(Error::new(Kind::System, format!("{} did not {verb} within {patience:?}", dir.display())));
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).context(|| format!("read {}", path.display()))
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        // ENODEV: removed between open and read.
        Err(why) if why.kind() == io::ErrorKind::NotFound || why.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        // A threaded cgroup lists its processes at the root of its domain.
        Err(why) if why.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        text => text?,
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
