//! Facts on disk: `<root>/<id>/`, 0700.
//!
//! ```text
//! state.json     what the container was made of; written before anything else exists, and again by an update
//! init           pid and start time of the first process (`1234 567890`); written right after the clone
//! exec.fifo.new  the set-up is not finished yet
//! exec.fifo      it is: waits for `start`, which removes it
//! seccomp.bpf    the compiled filter, for exec: flags, then instructions of eight bytes
//! ```
//!
//! The directory itself carries the lock (flock) that keeps operations on one container apart. Files come by write and
//! rename; they are not synced, because they die with the processes that they describe.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{Hooks, LinuxResources, Process};
use serde::{Deserialize, Serialize};

use crate::cgroup::Trees;
use crate::cgroup::systemd::Unit;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Filter, Lasting};
use crate::status::Seen;
use crate::sys::{self, Errno};
use crate::{fault, holder};

/// Version of the record; a newer one is refused.
const FORMAT: u32 = 1;

/// What is known of a container from before its first process existed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Version of this record.
    pub format: u32,
    /// `ociVersion` of its configuration.
    pub oci_version: String,
    /// Name.
    pub id: String,
    /// Directory of `config.json`, absolute.
    pub bundle: PathBuf,
    /// Directory that became its root, absolute.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// Its cgroup, below the mount of every tree.
    pub cgroup: PathBuf,
    /// The trees that it is in and its path in each, where that is not the same path in all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_trees: Option<Trees>,
    /// The unit that this cgroup belongs to, with the systemd driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Its limits and device rules, as configured and as changed by updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<LinuxResources>,
    /// Without a mount namespace: the kernel's number of the mount that the rootfs lies on; what lies above it is the
    /// container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted_on: Option<u64>,
    /// Namespaces that differ from the runtime's, as the kernel's flags.
    pub namespaces: u64,
    /// What exec takes its defaults from.
    pub process: Process,
    /// What of `linux` concerns the later processes, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Box<Lasting>>,
    /// `poststart` and `poststop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Of the configuration.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
}

impl Facts {
    /// The current version of the record.
    pub const fn format() -> u32 {
        FORMAT
    }
}

/// The first process: its number, and the time of its start that tells it from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// Pid in the runtime's namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, clock ticks since boot.
    pub start: u64,
}

/// A container's directory.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    dir: File,
    locked: bool,
}

/// Whether an id may be a directory's name.
///
/// # Errors
/// `Invalid` with what is wrong.
pub fn check_id(id: &str) -> Result<()> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(fits) {
        let what = format!("invalid container id {id:?}: letters, digits and _ + - . are allowed");
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(())
}

impl Home {
    /// Makes the directory of a new container and locks it.
    ///
    /// # Errors
    /// `Exists` when there is one.
    pub fn claim(root: &Path, id: &str) -> Result<Home> {
        check_id(id)?;
        let path = root.join(id);
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        let made = match make(&path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(root)
                    .context(|| format!("make {}", root.display()))?;
                make(&path)
            }
            made => made,
        };
        match made {
            Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::new(Kind::Exists, format!("container {id} exists already")));
            }
            made => made.context(|| format!("make {}", path.display()))?,
        }
        fault::point(format_args!("directory made"));
        let dir = File::open(&path).context(|| format!("open {}", path.display()))?;
        dir.lock().context(|| format!("lock {}", path.display()))?;
        Ok(Home { path, dir, locked: true })
    }

    /// Opens a container's directory without waiting for anybody.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open(root: &Path, id: &str) -> Result<Home> {
        check_id(id)?;
        let path = root.join(id);
        match File::open(&path) {
            Ok(dir) => Ok(Home { path, dir, locked: false }),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Err(missing(id)),
            Err(why) => Err(why).context(|| format!("open {}", path.display())),
        }
    }

    /// Opens a container's directory and waits, ten seconds at most, until no other operation is going on.
    ///
    /// # Errors
    /// `NotFound`, also when it was deleted meanwhile; `WrongState`, naming the process that holds the lock.
    pub fn lock(root: &Path, id: &str) -> Result<Home> {
        Home::lock_within(root, id, holder::PATIENCE)
    }

    /// As [`Home::lock`], for a caller with less patience.
    pub fn lock_within(root: &Path, id: &str, patience: Duration) -> Result<Home> {
        let mut home = Home::open(root, id)?;
        holder::lock(&home.dir, &home.path, patience)?;
        home.locked = true;
        let same = |now: fs::Metadata| home.dir.metadata().is_ok_and(|held| held.ino() == now.ino());
        if fs::metadata(&home.path).is_ok_and(same) { Ok(home) } else { Err(missing(id)) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the facts.
    pub fn record(&self, facts: &Facts) -> Result<()> {
        let text =
            serde_json::to_vec(facts).map_err(|why| Error::new(Kind::System, format!("write state.json: {why}")))?;
        self.put("state.json", &text)
    }

    /// Reads the facts; `None` for a container that was killed in its first moments.
    pub fn facts(&self) -> Result<Option<Facts>> {
        let Some(text) = self.get("state.json")? else { return Ok(None) };
        let facts: Facts = serde_json::from_slice(&text)
            .map_err(|why| Error::new(Kind::System, format!("{}/state.json: {why}", self.path.display())))?;
        if facts.format > FORMAT {
            let what = format!("{}/state.json: written by a newer version", self.path.display());
            return Err(Error::new(Kind::Unsupported, what));
        }
        Ok(Some(facts))
    }

    /// Writes the first process down.
    pub fn record_init(&self, init: Init) -> Result<()> {
        self.put("init", format!("{} {}\n", init.pid, init.start).as_bytes())
    }

    /// The first process, if there ever was one.
    pub fn init(&self) -> Result<Option<Init>> {
        let Some(text) = self.get("init")? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text);
        let mut words = text.split_whitespace();
        let init = (|| Some(Init { pid: words.next()?.parse().ok()?, start: words.next()?.parse().ok()? }))();
        match init {
            Some(init) => Ok(Some(init)),
            None => Err(Error::new(Kind::System, format!("{}/init: damaged", self.path.display()))),
        }
    }

    /// Makes the exec fifo under its first name, and opens it so that neither side ever blocks in open(2).
    pub fn make_fifo(&self) -> Result<OwnedFd> {
        let path = self.path.join("exec.fifo.new");
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::new(Kind::Invalid, "the path of the state has a zero byte"))?;
        let made = nix::unistd::mkfifo(name.as_c_str(), nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR);
        made.map_err(Errno::from).context(|| format!("make {}", path.display()))?;
        fault::point(format_args!("fifo made"));
        sys::fs::open(&name, libc::O_RDWR).context(|| format!("open {}", path.display()))
    }

    /// Notes that the set-up was finished: the fifo gets its name.
    pub fn finish_fifo(&self) -> Result<()> {
        let made = fs::rename(self.path.join("exec.fifo.new"), self.fifo());
        made.context(|| format!("rename {}", self.fifo().display()))?;
        fault::point(format_args!("fifo renamed"));
        Ok(())
    }

    /// Keeps the compiled filter for exec.
    pub fn record_filter(&self, filter: &Filter) -> Result<()> {
        let mut bytes = filter.flags.to_ne_bytes().to_vec();
        for step in &filter.program {
            bytes.extend(step.code.to_ne_bytes());
            bytes.extend([step.jt, step.jf]);
            bytes.extend(step.k.to_ne_bytes());
        }
        self.put("seccomp.bpf", &bytes)
    }

    /// The compiled filter, if the container has one.
    pub fn filter(&self) -> Result<Option<Filter>> {
        let Some(bytes) = self.get("seccomp.bpf")? else { return Ok(None) };
        let damaged = || Error::new(Kind::System, format!("{}/seccomp.bpf: damaged", self.path.display()));
        let (flags, steps) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        if steps.is_empty() || steps.len() % 8 != 0 {
            return Err(damaged());
        }
        let program = steps
            .chunks_exact(8)
            .map(|step| libc::sock_filter {
                code: u16::from_ne_bytes([step[0], step[1]]),
                jt: step[2],
                jf: step[3],
                k: u32::from_ne_bytes([step[4], step[5], step[6], step[7]]),
            })
            .collect();
        Ok(Some(Filter { program, flags: u32::from_ne_bytes(*flags) }))
    }

    /// Path of the exec fifo.
    pub fn fifo(&self) -> PathBuf {
        self.path.join("exec.fifo")
    }

    /// What can be seen from outside; `frozen` is asked only when the first process lives.
    pub fn look(&self, frozen: impl FnOnce() -> bool) -> Result<(Seen, Option<Init>)> {
        // A damaged record of it tells of no process; its cgroup still does.
        let init = self.init().unwrap_or_default();
        let alive = init.is_some_and(|init| started(init.pid) == Some(init.start));
        Ok((self.seen(init, alive, frozen), init))
    }

    /// As [`Home::look`], where the first process has been looked at.
    pub(crate) fn seen(&self, init: Option<Init>, alive: bool, frozen: impl FnOnce() -> bool) -> Seen {
        Seen {
            recorded: init.is_some(),
            alive,
            locked: !self.locked && self.is_busy(),
            fifo: self.fifo().exists(),
            ready: !self.path.join("exec.fifo.new").exists(),
            frozen: alive && frozen(),
        }
    }

    fn is_busy(&self) -> bool {
        match self.dir.try_lock_shared() {
            Ok(()) => {
                let _ = self.dir.unlock();
                false
            }
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(_)) => false,
        }
    }

    /// Where `restore` shows the rootfs to criu, for as long as it restores.
    pub(crate) fn criu_root(&self) -> PathBuf {
        self.path.join("criu-root")
    }

    /// Removes the directory and all records.
    pub fn remove(self) -> Result<()> {
        // A restore that was killed has left a mount of the rootfs here, whose files are not ours to remove.
        if self.criu_root().exists() {
            let at = CString::new(self.criu_root().as_os_str().as_bytes()).unwrap_or_default();
            match sys::mount::detach(&at) {
                Err(errno) if errno.raw() != libc::EINVAL => {
                    return Err(Error::system(format!("unmount {}", self.criu_root().display()), errno));
                }
                _ => {}
            }
        }
        match fs::remove_dir_all(&self.path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                Err(why).context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace(&self.path.join(name), bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        match sys::fs::read_small(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(why) if why.raw() == libc::ENOENT => Ok(None),
            Err(why) => Err(why).context(|| format!("read {}", path.display())),
        }
    }
}

fn missing(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("container {id} does not exist"))
}

/// Writes a file beside the old one and puts it in its place. Never through a link: a pid file may lie in a directory
/// that others write to.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let what = || format!("write {}", path.display());
    let mut file = match File::create_new(&beside) {
        // Left by a writer that was killed, or planted.
        Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => {
            fs::remove_file(&beside).and_then(|()| File::create_new(&beside)).context(what)?
        }
        made => made.context(what)?,
    };
    file.write_all(bytes).context(what)?;
    fault::point(format_args!("written beside {}", path.display()));
    fs::rename(&beside, path).context(what)?;
    fault::point(format_args!("in place {}", path.display()));
    Ok(())
}

/// When the process of this number started; `None` when it is gone or a zombie.
pub fn started(pid: i32) -> Option<u64> {
    Life::of(pid).filter(|life| !life.dead).map(|life| life.start)
}

/// As [`started`], for a child that the caller has not reaped: dead or not, it is there.
pub(crate) fn start_of(pid: i32) -> Result<u64> {
    let found = Life::of(pid).map(|life| life.start);
    found.ok_or_else(|| Error::system(format!("look at process {pid}"), Errno::from_raw(libc::ESRCH)))
}

/// Whether this is a process of the runtime that has not become its program yet: a clone that never called execve, of
/// this very binary. The second, because a restored process never called execve either.
pub(crate) fn is_setting_up(pid: i32) -> bool {
    Life::of(pid).is_some_and(|life| life.is_setting_up(pid))
}

/// What `/proc/<pid>/stat` tells of a process (proc_pid_stat(5), fields 3, 9 and 22).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// Gone but for its number.
    pub(crate) dead: bool,
    /// Clock ticks since boot.
    pub(crate) start: u64,
    /// `PF_FORKNOEXEC`: a clone that never called execve.
    cloned: bool,
}

impl Life {
    /// Reads it; `None` where there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Life> {
        const PF_FORKNOEXEC: u64 = 0x40;
        let stat = sys::fs::read_text(format!("/proc/{pid}/stat").as_ref()).ok()?;
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let dead = matches!(fields.next()?, "Z" | "X");
        let flags: u64 = fields.nth(5)?.parse().ok()?;
        Some(Life { dead, start: fields.nth(12)?.parse().ok()?, cloned: flags & PF_FORKNOEXEC != 0 })
    }

    /// As [`is_setting_up`].
    pub(crate) fn is_setting_up(self, pid: i32) -> bool {
        let binary = |of: &str| fs::metadata(format!("/proc/{of}/exe")).map(|exe| (exe.dev(), exe.ino())).ok();
        self.cloned && binary(&pid.to_string()) == binary("self")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            Scratch(std::env::temp_dir().join(format!("gantry-state-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn ids_are_names_of_directories() {
        for id in ["", ".", "..", "a/b", "a b", "\n", "ü"] {
            assert_eq!(check_id(id).unwrap_err().kind(), Kind::Invalid, "{id:?}");
        }
        check_id("Web_1.2+x-y").unwrap();
    }

    #[test]
    fn one_container_a_name() {
        let root = Scratch::new("claim");
        let home = Home::claim(&root.0, "web").unwrap();
        assert_eq!(fs::metadata(home.path()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(Home::claim(&root.0, "web").unwrap_err().kind(), Kind::Exists);
        assert_eq!(Home::open(&root.0, "other").unwrap_err().kind(), Kind::NotFound);
        assert!(Home::open(&root.0, "web").unwrap().is_busy());
        home.remove().unwrap();
        assert_eq!(Home::open(&root.0, "web").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_name_that_was_deleted_and_made_again_is_not_locked_by_the_old_handle() {
        let root = Scratch::new("again");
        let first = Home::claim(&root.0, "web").unwrap();
        let waiting = std::thread::spawn({
            let root = root.0.clone();
            move || Home::lock(&root, "web").map(drop)
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::remove_dir_all(first.path()).unwrap();
        drop(first);
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_filter_survives_the_disk() {
        let root = Scratch::new("filter");
        let home = Home::claim(&root.0, "web").unwrap();
        assert!(home.filter().unwrap().is_none());
        let step = libc::sock_filter { code: 0x15, jt: 3, jf: 4, k: 0xdead_beef };
        home.record_filter(&Filter { program: vec![step; 3], flags: 2 }).unwrap();
        let back = home.filter().unwrap().unwrap();
        assert_eq!((back.flags, back.program.len(), back.program[2].k, back.program[1].jf), (2, 3, 0xdead_beef, 4));
        fs::write(home.path().join("seccomp.bpf"), b"short").unwrap();
        assert!(home.filter().is_err());
    }

    #[test]
    fn this_process_has_started_and_a_gone_one_has_not() {
        assert!(started(std::process::id() as i32).is_some());
        assert_eq!(started(i32::MAX), None);
    }
}
