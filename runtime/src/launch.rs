//! The parent's half of a plan: open what is to be opened, clone, listen to the child.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::cgroup::Doors;
use crate::create::Stdio;
use crate::error::{Context, Error, Kind, Result};
use crate::init::{self, Ground};
use crate::plan::{Around, Open, Plan, Step, namespace_names};
use crate::sys::clone::{self, Reap, Side, flags};
use crate::sys::{Errno, Solo, fs, process};
use crate::talk::{self, End, Word};
use crate::{explain, fault, trace, userns};

const PROC_MAGIC: i64 = 0x9fa0;

/// A cloned process, and the conversation with it.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) talk: End,
    /// What was left out so far.
    pub(crate) warnings: Vec<String>,
}

/// Opens a procfs and makes sure that it is one.
pub(crate) fn procfs() -> Result<OwnedFd> {
    let proc = fs::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY).context(|| "open /proc")?;
    match fs::magic(proc.as_fd()).context(|| "look at /proc")? {
        PROC_MAGIC => Ok(proc),
        _ => Err(Error::new(Kind::Unsupported, "/proc is not a procfs")),
    }
}

/// Opens everything that the child will need. Slots below `given` have been opened by the caller.
pub(crate) fn ground(
    plan: &Plan,
    given: Vec<OwnedFd>,
    doors: &mut Doors,
    stdio: &Stdio<'_>,
    alone: &Solo,
) -> Result<Ground> {
    let mut slots = given;
    for open in plan.opens.list() {
        slots.push(match open {
            Open::Namespace(of, path) => namespace(*of, path, plan.guards_network)?,
            Open::Tree(wanted) => userns::tree(wanted, &slots)?,
            Open::Mapping(maps) => userns::of_maps(maps, alone)?,
        });
    }
    Ok(Ground {
        proc: procfs()?,
        streams: streams(stdio)?,
        doors: std::mem::take(&mut doors.tasks),
        later: std::mem::take(&mut doors.later),
        slots,
        fifo: None,
        hooks: None,
    })
}

fn namespace(of: u64, path: &std::ffi::CStr, guards_network: bool) -> Result<OwnedFd> {
    let name = || format!("open the {} namespace {}", namespace_names(of), path.to_string_lossy());
    let opened = fs::open(path, libc::O_RDONLY).context(name)?;
    if of == flags::NETWORK && guards_network {
        let own = fs::open(c"/proc/self/ns/net", libc::O_RDONLY).context(|| "open /proc/self/ns/net")?;
        let number = |fd: &OwnedFd| fs::fstat(fd.as_fd()).map(|about| (about.st_dev, about.st_ino));
        if number(&own).context(name)? == number(&opened).context(name)? {
            let what = "linux.sysctl: net.* would change the host, whose network namespace this container has";
            return Err(Error::new(Kind::Invalid, what));
        }
    }
    Ok(opened)
}

/// The three streams, none of them numbered below 3, so that placing one does not overwrite another.
pub(crate) fn streams(stdio: &Stdio<'_>) -> Result<Option<[OwnedFd; 3]>> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(None) };
    let lift = |given: &Option<BorrowedFd<'_>>| {
        let null;
        let fd = match given {
            Some(fd) => *fd,
            None => {
                null = fs::open(c"/dev/null", libc::O_RDWR).context(|| "open /dev/null")?;
                null.as_fd()
            }
        };
        process::dup_above_streams(fd).context(|| "duplicate a standard stream")
    };
    Ok(Some([lift(stdin)?, lift(stdout)?, lift(stderr)?]))
}

/// Clones the child into its namespaces; the child never comes back from here.
pub(crate) fn launch(
    plan: Plan,
    ground: Ground,
    cgroup: Option<BorrowedFd<'_>>,
    alone: &Solo,
) -> Result<(Launched, Words)> {
    crate::plan::check_size(&plan)?;
    let (ours, theirs) = talk::pair()?;
    let keep = ground.keep(&theirs, preserved(&plan));
    let last = ground.keep_last(&theirs, preserved(&plan));
    plan.steps.iter().enumerate().for_each(|(at, step)| trace::say(|| format!("planned step {at}: {step}")));
    let mut restore = Vec::new();
    let stood = stand_around(&plan, &ground, &mut restore);
    let side = match stood {
        Ok(()) => clone::clone3(alone, plan.cloned, cgroup).map_err(|errno| explain::not_cloned(&plan, errno)),
        Err(why) => Err(why),
    };
    if let Ok(Side::Child) = side {
        init::run(plan, &ground, &theirs, &keep, &last);
    }
    let restored = restore.iter().try_for_each(|(of, fd): &(u64, OwnedFd)| clone::setns(fd.as_fd(), *of));
    let Side::Parent(pid, pidfd) = side? else { process::leave(1) };
    drop(theirs);
    let launched = Launched { pid, pidfd, talk: ours, warnings: Vec::new() };
    fault::point(format_args!("cloned"));
    trace::say(|| format!("cloned process {pid} into new namespaces: {}", namespace_names(plan.cloned)));
    if let Err(errno) = restored {
        clone::kill_and_reap(launched.pidfd.as_fd());
        return Err(Error::system("return to the own namespaces", errno));
    }
    let words = Words { first: 0, steps: plan.steps };
    match words.steps.iter().any(|step| matches!(step, Step::Hop(_))) {
        true => Ok((hopped(launched, &words)?, words)),
        false => Ok((launched, words)),
    }
}

/// Waits for the sibling that goes on in the child's place, and reaps the child.
fn hopped(child: Launched, words: &Words) -> Result<Launched> {
    let mut warnings = Vec::new();
    let next = loop {
        match child.talk.hear().context(|| "hear from the container's first process") {
            Ok(Some((Word::Hopped(pid), Some(pidfd)))) => break Ok((pid, pidfd)),
            Ok(Some((Word::Warned(step, errno), _))) => warnings.push(words.warn(step, errno)),
            Ok(Some((Word::Failed(step, errno), _))) => break Err(words.explain(step, errno)),
            Ok(_) => break Err(talk::lost()),
            Err(why) => break Err(why),
        }
    };
    if next.is_err() {
        let _ = clone::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    }
    clone::wait(child.pidfd.as_fd(), Reap::Yes).context(|| "wait for the process that joined the namespaces")?;
    let (pid, pidfd) = next?;
    speak(&child.talk, Word::Known)?;
    Ok(Launched { pid, pidfd, talk: child.talk, warnings })
}

/// How many descriptors from 3 on the program inherits.
fn preserved(plan: &Plan) -> u32 {
    let counts =
        plan.steps.iter().filter_map(|step| if let Step::CloseOthers(count) = step { Some(*count) } else { None });
    counts.max().unwrap_or(0)
}

/// Enters what the child is to be born into; `restore` gets the way back.
fn stand_around(plan: &Plan, ground: &Ground, restore: &mut Vec<(u64, OwnedFd)>) -> Result<()> {
    for around in &plan.around {
        match around {
            Around::Join(of, slot) => {
                remember(*of, restore)?;
                let fd = ground.slots.get(*slot).ok_or_else(|| Error::new(Kind::System, "a slot is empty"))?;
                clone::setns(fd.as_fd(), *of).context(|| format!("join the {} namespace", namespace_names(*of)))?;
            }
            Around::NewTime(offsets) => {
                remember(flags::TIME, restore)?;
                clone::unshare(flags::TIME).context(|| "unshare the time namespace")?;
                std::fs::write("/proc/self/timens_offsets", offsets).context(|| "linux.timeOffsets")?;
            }
        }
    }
    Ok(())
}

fn remember(of: u64, restore: &mut Vec<(u64, OwnedFd)>) -> Result<()> {
    let names = [
        (flags::PID, c"/proc/self/ns/pid"),
        (flags::TIME, c"/proc/self/ns/time"),
        (flags::NETWORK, c"/proc/self/ns/net"),
        (flags::UTS, c"/proc/self/ns/uts"),
        (flags::IPC, c"/proc/self/ns/ipc"),
        (flags::CGROUP, c"/proc/self/ns/cgroup"),
    ];
    for (flag, path) in names.into_iter().filter(|(flag, _)| of & flag != 0) {
        restore.push((flag, fs::open(path, libc::O_RDONLY).context(|| "open an own namespace")?));
    }
    Ok(())
}

/// The steps of a plan, kept by the parent for their words.
#[derive(Debug)]
pub(crate) struct Words {
    first: usize,
    steps: Vec<Step>,
}

impl Words {
    /// Keeps only what can still fail once the child is ready: a monitor lives as long as its containers.
    pub(crate) fn forget_done(&mut self) {
        let done = self.steps.iter().position(|step| matches!(step, Step::Say(Word::Ready)));
        let done = done.unwrap_or(self.steps.len());
        self.steps = self.steps.split_off(done);
        self.steps.shrink_to_fit();
        self.first += done;
    }

    fn get(&self, step: u16) -> Option<&Step> {
        self.steps.get(usize::from(step).checked_sub(self.first)?)
    }

    /// The sentence for a failure that the child reported.
    pub(crate) fn explain(&self, step: u16, errno: Errno) -> Error {
        let Some(step) = self.get(step) else {
            return Error::system(format!("step {step}"), errno);
        };
        explain::failed(step, errno)
    }

    /// The sentence for a wish that could not be met.
    pub(crate) fn warn(&self, step: u16, errno: Errno) -> String {
        let step = self.get(step).map(ToString::to_string).unwrap_or_default();
        format!("{step}: {errno}; left as it is")
    }
}

/// What the child said on its way.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The master of its terminal.
    pub(crate) console: Option<OwnedFd>,
    /// Sentences.
    pub(crate) warnings: Vec<String>,
}

/// What a child asks its parent to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Run the runtime hooks.
    Hooks,
    /// Move network devices into its namespace.
    Devices,
    /// Take this descriptor, a seccomp listener, and say so.
    Listener(i32),
}

/// Nothing that this child could ask for.
pub(crate) fn nothing(asked: Asked) -> Result<()> {
    Err(Error::new(Kind::System, format!("unexpected {asked:?} from the child")))
}

/// Listens until the child is ready, or has become the program. `answer` does what the child asks for.
pub(crate) fn listen(talk: &End, words: &Words, mut answer: impl FnMut(Asked) -> Result<()>) -> Result<Heard> {
    let mut heard = Heard::default();
    loop {
        let said = talk.hear().context(|| "hear from the container's first process")?;
        trace::say(|| {
            said.as_ref().map_or("the child has closed".into(), |(word, _)| format!("the child says {word:?}"))
        });
        fault::point(format_args!("heard {:?}", said.as_ref().map(|(word, _)| word)));
        match said {
            None | Some((Word::Ready, _)) => return Ok(heard),
            Some((Word::Console, fd)) => heard.console = fd,
            Some((Word::Warned(step, errno), _)) => heard.warnings.push(words.warn(step, errno)),
            Some((Word::Failed(step, errno), _)) => return Err(words.explain(step, errno)),
            Some((Word::Hooks, _)) => {
                answer(Asked::Hooks)?;
                speak(talk, Word::Hooked)?;
            }
            Some((Word::Devices, _)) => {
                answer(Asked::Devices)?;
                speak(talk, Word::Moved)?;
            }
            Some((Word::Listener(number), _)) => answer(Asked::Listener(number))?,
            Some((word, _)) => return Err(Error::new(Kind::System, format!("unexpected {word:?} from the child"))),
        }
    }
}

/// Says a word. A child that has gone says why by itself: the next word heard is its failure, or its end.
pub(crate) fn speak(talk: &End, word: Word) -> Result<()> {
    match talk.say(word) {
        // A reset: it left words of ours unread.
        Err(errno) if matches!(errno.raw(), libc::EPIPE | libc::ECONNRESET) => {}
        said => said.context(|| "speak to the container's process")?,
    }
    fault::point(format_args!("said {word:?}"));
    Ok(())
}

/// Refuses to hand down descriptors that are not open.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for number in 3..3 + count {
        if process::is_open(number as i32) {
            continue;
        }
        let what = format!("--preserve-fds {count}: descriptor {number} is not open");
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(())
}

/// Who outside of the container gets something of a new process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outsiders<'a> {
    pub(crate) stdio: Stdio<'a>,
    pub(crate) pidfd_socket: Option<&'a Path>,
    pub(crate) pid_file: Option<&'a Path>,
}

impl Outsiders<'_> {
    /// Hands each what it is to get: the terminal, the pidfd (with runc's word for the kind of process), the pid.
    pub(crate) fn tell(&self, launched: &Launched, kind: &str, heard: &mut Heard) -> Result<()> {
        if let (Stdio::ConsoleSocket(socket), Some(master)) = (self.stdio, &heard.console) {
            send_console(socket, master)?;
            heard.console = None;
        }
        send_pidfd(self.pidfd_socket, launched, kind)?;
        write_pid_file(self.pid_file, launched.pid)
    }
}

/// Sends a terminal's master to whoever listens at the console socket, with the terminal's name as text (as runc does).
pub(crate) fn send_console(socket: &Path, master: &OwnedFd) -> Result<()> {
    let stream = std::os::unix::net::UnixStream::connect(socket)
        .context(|| format!("connect to the console socket {}", socket.display()))?;
    crate::sys::socket::send(stream.as_fd(), b"/dev/ptmx", Some(master.as_fd()))
        .context(|| format!("send the terminal {} to {}", master.as_raw_fd(), socket.display()))
}

/// Sends a pidfd of the process to whoever listens at this socket; runc's words tell a first process (`standard`) from
/// one of exec (`setns`).
fn send_pidfd(socket: Option<&Path>, launched: &Launched, kind: &str) -> Result<()> {
    let Some(socket) = socket else { return Ok(()) };
    let stream = std::os::unix::net::UnixStream::connect(socket)
        .context(|| format!("connect to the pidfd socket {}", socket.display()))?;
    crate::sys::socket::send(stream.as_fd(), kind.as_bytes(), Some(launched.pidfd.as_fd()))
        .context(|| format!("send the pidfd of process {} to {}", launched.pid, socket.display()))
}

/// Writes the pid in decimal, without a newline, as runc does.
pub(crate) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    path.map_or(Ok(()), |path| crate::state::replace(path, pid.to_string().as_bytes()))
}
