//! Becoming a monitor: a process of its own session without a terminal, which listens before its starter goes on.
//!
//! ```text
//! starter ── exec ──> lock DIR, listen ── clone ──> new session, no streams, monitor.pid ──> event loop
//!                        '<── one byte: ready ────────'
//!                        exit 0: the starter goes on; the monitor is now init's child
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::event_loop::Monitor;
use super::journal::{Journal, Level};
use super::{PID, SOCKET};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::clone::{Side, clone3};
use crate::sys::{Solo, process};

/// What a monitor is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pod's directory; made with 0700 if it is not there.
    pub dir: PathBuf,
    /// The runtime's state root; `DIR/runtime` by default.
    pub root: Option<PathBuf>,
    /// What goes to `DIR/monitor.log`.
    pub level: Level,
}

/// Starts a monitor in the background and returns in the process that was called, once the monitor listens.
///
/// Call it early in a process of one thread that has nothing else open: the monitor inherits what there is.
///
/// # Errors
/// `Exists`, if one lives in the directory; `System` otherwise.
pub fn start(config: &Config) -> Result<()> {
    let dir = prepare(&config.dir)?;
    let root = config.root.clone().unwrap_or_else(|| dir.join("runtime"));
    let root = std::path::absolute(&root).context(|| format!("find {}", root.display()))?;
    let (mut hears, says) = std::io::pipe().context(|| "make a pipe")?;
    let alone = Solo::prove()?;
    match clone3(&alone, 0, None).context(|| "clone the monitor")? {
        Side::Parent(_, _) => {
            drop(says);
            let mut told = String::new();
            hears.read_to_string(&mut told).context(|| "wait for the monitor")?;
            match told.as_str() {
                READY => Ok(()),
                "" => Err(Error::new(Kind::System, "the monitor ended before it was ready")),
                why => Err(Error::new(Kind::System, why)),
            }
        }
        Side::Child => {
            drop(hears);
            let journal = Journal::new(&dir, config.level);
            process::leave(i32::from(serve(&dir, &root, says, journal).is_err()))
        }
    }
}

/// What the monitor says to its starter when it listens; anything else is why it does not.
const READY: &str = "ready";

/// The life of the monitor.
fn serve(dir: &Path, root: &Path, mut says: std::io::PipeWriter, journal: Journal) -> Result<()> {
    let mut monitor = match settle(dir, root, journal) {
        Ok(monitor) => monitor,
        Err(why) => {
            let _ = says.write_all(why.to_string().as_bytes());
            return Err(why);
        }
    };
    // Nobody hears it any more: the starter was killed, which is no reason to end.
    let _ = says.write_all(READY.as_bytes());
    drop(says);
    let ran = monitor.run();
    if let Err(why) = &ran {
        monitor.journal.warn(&format!("the monitor ends: {why}"));
    }
    // So that nobody takes the pid for a living monitor; the records stay.
    let _ = fs::remove_file(dir.join(SOCKET));
    let _ = fs::remove_file(dir.join(PID));
    ran
}

/// Everything between the clone and the first turn of the loop. Listening comes last: who connects finds the rest done.
fn settle(dir: &Path, root: &Path, journal: Journal) -> Result<Monitor> {
    // Kept open, and with it locked, until the process ends.
    let lock = lock(dir)?;
    let signals = detach()?;
    write_pid(dir)?;
    Monitor::new(dir, root, lock, listen(dir)?, signals, journal)
}

/// The directory as an absolute path, there and for root only.
fn prepare(dir: &Path) -> Result<PathBuf> {
    let dir = std::path::absolute(dir).context(|| format!("find {}", dir.display()))?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&dir).context(|| format!("create {}", dir.display()))?;
    let containers = dir.join("containers");
    builder.create(&containers).context(|| format!("create {}", containers.display()))?;
    Ok(dir)
}

/// One monitor a directory, for as long as it lives. A lock of the process, which its children do not inherit.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("monitor.lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.context(|| format!("open {}", path.display()))?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_SETLK(&whole)) {
        Ok(_) => Ok(file),
        Err(Errno::EACCES | Errno::EAGAIN) => {
            Err(Error::new(Kind::Exists, format!("a monitor lives in {} already", dir.display())))
        }
        Err(errno) => Err(Error::system(format!("lock {}", path.display()), errno.into())),
    }
}

/// Listens on a socket that is for root only from its first moment: it is bound under another name.
fn listen(dir: &Path) -> Result<UnixListener> {
    let (path, new) = (dir.join(SOCKET), dir.join("monitor.sock.new"));
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new).context(|| format!("listen on {}", new.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).context(|| format!("protect {}", new.display()))?;
    fs::rename(&new, &path).context(|| format!("listen on {}", path.display()))?;
    Ok(listener)
}

/// Leaves the session, the terminal and the signals of the starter behind.
fn detach() -> Result<SignalFd> {
    process::setsid().context(|| "begin a session")?;
    process::become_subreaper().context(|| "become a subreaper")?;
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCHLD);
    awaited.add(Signal::SIGTERM);
    let mut blocked = awaited;
    // Not ignored but blocked, and never looked at: containers get every signal at its default either way.
    for signal in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        blocked.add(signal);
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)
        .map_err(|errno| Error::system("block signals", errno.into()))?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| Error::system("open a signalfd", errno.into()))?;
    nix::unistd::chdir("/").map_err(|errno| Error::system("change to /", errno.into()))?;
    let _ = nix::sys::prctl::set_name(c"gantry-monitor");
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context(|| "open /dev/null")?;
    for number in 0..3 {
        process::place_fd(null.as_fd(), number).context(|| "let go of the standard streams")?;
    }
    Ok(signals)
}

/// Pid and start time, since a pid alone may be another process by the time that it is read.
fn write_pid(dir: &Path) -> Result<()> {
    let pid = std::process::id().cast_signed();
    let start = start_time(pid).ok_or_else(|| Error::new(Kind::System, "read the own start time"))?;
    let (path, new) = (dir.join(PID), dir.join("monitor.pid.new"));
    let written = fs::write(&new, format!("{pid} {start}\n")).and_then(|()| fs::rename(&new, &path));
    written.context(|| format!("write {}", path.display()))
}

/// When a process was started, in ticks since boot; `None` once it is gone, or is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, so fields are counted from the last parenthesis: the state is the next, 22
    // the 20th.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

/// Whether the monitor that wrote `DIR/monitor.pid` lives.
///
/// That somebody holds its socket open is not enough: a container in its first moments is a clone of the monitor.
pub(super) fn lives(dir: &Path) -> bool {
    let Ok(text) = fs::read_to_string(dir.join(PID)) else { return false };
    let mut fields = text.split_whitespace();
    let pid = fields.next().and_then(|pid| pid.parse().ok());
    let start = fields.next().and_then(|start| start.parse().ok());
    pid.is_some_and(|pid| start.is_some() && start_time(pid) == start)
}
