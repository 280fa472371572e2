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

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::SOCKET;
use super::event_loop::Monitor;
use super::journal::{Journal, Level};
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
    let lock = lock(&dir)?;
    let listener = listen(&dir)?;
    let (mut ready, says) = std::io::pipe().context(|| "make a pipe")?;
    let alone = Solo::prove()?;
    match clone3(&alone, 0, None).context(|| "clone the monitor")? {
        Side::Parent(_, _) => {
            drop(says);
            let mut byte = [0];
            let told = ready.read(&mut byte).context(|| "wait for the monitor")?;
            match told {
                1 => Ok(()),
                _ => Err(Error::new(Kind::System, "the monitor ended before it was ready (see monitor.log)")),
            }
        }
        Side::Child => {
            drop(ready);
            let journal = Journal::new(&dir, config.level);
            let code = i32::from(serve(&dir, &root, listener, says, journal).is_err());
            drop(lock);
            process::leave(code)
        }
    }
}

/// The life of the monitor.
fn serve(
    dir: &Path,
    root: &Path,
    listener: UnixListener,
    mut says: std::io::PipeWriter,
    journal: Journal,
) -> Result<()> {
    let mut early = Journal::new(dir, Level::Warn);
    let ran = detach(dir).and_then(|signals| {
        let mut monitor = Monitor::new(dir, root, listener, signals, journal)?;
        // Nobody hears it any more: the starter was killed, which is no reason to end.
        let _ = says.write_all(b"1");
        drop(says);
        monitor.run()
    });
    if let Err(why) = &ran {
        early.warn(&format!("the monitor ends: {why}"));
    }
    // So that nobody takes the pid for a living monitor; the records stay.
    let _ = fs::remove_file(dir.join(SOCKET));
    let _ = fs::remove_file(dir.join("monitor.pid"));
    ran
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

/// One monitor a directory, for as long as it lives.
fn lock(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join("monitor.lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| Error::new(Kind::Exists, format!("a monitor lives in {} already", dir.display())))
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

/// Leaves the session, the terminal and the signals of the starter behind, and says who this is.
fn detach(dir: &Path) -> Result<SignalFd> {
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
    write_pid(dir)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context(|| "open /dev/null")?;
    for number in 0..3 {
        process::place_fd(null.as_fd(), number).context(|| "let go of the standard streams")?;
    }
    Ok(signals)
}

/// Pid and start time, since a pid alone may be another process by the time that it is read.
fn write_pid(dir: &Path) -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat").context(|| "read /proc/self/stat")?;
    // The name in field 2 may hold anything, so fields are counted from the last parenthesis: 22 is the 20th after it.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or("0");
    let (path, new) = (dir.join("monitor.pid"), dir.join("monitor.pid.new"));
    let written = fs::write(&new, format!("{} {start}\n", std::process::id())).and_then(|()| fs::rename(&new, &path));
    written.context(|| format!("write {}", path.display()))
}
