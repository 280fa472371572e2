//! DO: the child after clone3. A loop over the plan's steps; one small function a step.
//!
//! Nothing here allocates, formats or logs: whatever a step needs was prepared before the clone, and a failure travels
//! to the parent as (step, errno), which has the words for it.

mod copy_up;
mod devices;
mod hook;
mod identity;
pub(crate) mod mounts;
mod rootfs;
mod terminal;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use crate::plan::{Image, Plan, Step};
use crate::root::RootDir;
use crate::sys::clone::Side;
use crate::sys::keep::Keep;
use crate::sys::mount::Depth;
use crate::sys::{Errno, Solo, clone, fs, mount, process};
use crate::talk::{End, Word};

/// What the parent opened for the child.
#[derive(Debug)]
pub struct Ground {
    /// A verified procfs of the host.
    pub proc: OwnedFd,
    /// `tasks` of every v1 tree to enter.
    pub doors: Vec<OwnedFd>,
    /// The same by their paths on the host, where they are not made yet.
    pub later: Vec<CString>,
    /// The slots of the plan.
    pub slots: Vec<OwnedFd>,
    /// Standard input, output and error; none of them numbered below 3. `None`: leave as they are.
    pub streams: Option<[OwnedFd; 3]>,
    /// The exec fifo, open for reading and writing.
    pub fifo: Option<OwnedFd>,
    /// The container's state as JSON, before and after its start, for hooks in it; the parent fills them in after the
    /// clone. And where these say what they have to say.
    pub hooks: Option<[OwnedFd; 3]>,
}

impl Ground {
    /// What the child keeps open: this, its end of the conversation, and as many from 3 on as the caller hands down.
    pub fn keep(&self, talk: &End, preserved: u32) -> Keep {
        let lists = self.doors.iter().chain(&self.slots).chain(self.streams.iter().flatten());
        let singles = self.fifo.iter().chain(self.hooks.iter().flatten()).chain([&self.proc]);
        Keep::new(preserved, lists.chain(singles).map(AsFd::as_fd).chain([talk.as_fd()]))
    }

    /// What the last steps still need: the conversation, the fifo, the state for hooks. Nothing that leads to the host.
    pub fn keep_last(&self, talk: &End, preserved: u32) -> Keep {
        let singles = self.fifo.iter().chain(self.hooks.iter().flatten()).map(AsFd::as_fd);
        Keep::new(preserved, singles.chain([talk.as_fd()]))
    }
}

/// The child's own bookkeeping between steps.
struct Init<'a> {
    ground: &'a Ground,
    talk: &'a End,
    last: &'a Keep,
    image: &'a mut Image,
    /// The container's root, once there is one.
    root: Option<RootDir>,
    /// The terminal.
    terminal: Option<OwnedFd>,
    /// The empty read-only tmpfs on the first directory that was masked, copied for every other.
    empty: Option<OwnedFd>,
    /// The null device on the first file that was masked, copied for every other.
    null: Option<OwnedFd>,
    /// The parent has written the pid down.
    recorded: bool,
    /// It stands in its working directory.
    placed: bool,
    /// Which of the places has the program.
    program: usize,
    /// Namespaces that it has entered.
    joined: u64,
}

/// Runs the plan; never returns. On success the process becomes the program.
pub fn run(mut plan: Plan, ground: &Ground, talk: &End, keep: &Keep, last: &Keep) -> ! {
    // The lock on the container's directory, and of a monitor its socket, its clients and other containers' pipes: a
    // container may wait for its start for days, and none of them would end before. What cannot be closed now is
    // closed by the exec, whose step does not forgive.
    let _ = keep.close_others();
    process::reset_signals();
    fs::umask(0);
    let mut init = Init {
        ground,
        talk,
        last,
        image: &mut plan.image,
        root: None,
        terminal: None,
        empty: None,
        null: None,
        recorded: false,
        placed: false,
        program: 0,
        joined: 0,
    };
    for at in 0..plan.steps.len() {
        match init.perform(&plan.steps, at) {
            Ok(()) => {}
            Err(Trouble::Minor(errno)) => drop(talk.say(Word::Warned(at as u16, errno))),
            Err(Trouble::Fatal(errno)) => {
                // The parent may be gone; then nobody is left to be told. A filter may know no sendmsg.
                let word = Word::Failed(at as u16, errno);
                if talk.say(word).is_err_and(|why| why.raw() != libc::EPIPE) {
                    let _ = talk.write(word);
                }
                process::leave(1);
            }
        }
    }
    process::leave(127)
}

/// How bad a failure is.
#[derive(Debug)]
enum Trouble {
    /// The step is left out, and the user is told.
    Minor(Errno),
    /// The container cannot be.
    Fatal(Errno),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Fatal(errno)
    }
}

impl Init<'_> {
    fn perform(&mut self, steps: &[Step], at: usize) -> Result<(), Trouble> {
        let Some(step) = steps.get(at) else { return Ok(()) };
        let builds = matches!(step, Step::Mount(_) | Step::Directory(_) | Step::Device(_) | Step::Link(..));
        if let (false, Some(root)) = (builds, &self.root) {
            root.forget();
        }
        match step {
            Step::Await(word) => Ok(self.hear(*word)?),
            Step::Say(word) => Ok(self.talk.write(*word)?),
            Step::EnterCgroups => Ok(self.enter_cgroups()?),
            Step::Join(of, slot, _) => Ok(self.join(*of, *slot)?),
            Step::JoinIfPermitted(of, slot, _) => match self.join(*of, *slot) {
                Err(errno) if errno.raw() == libc::EPERM => Ok(()),
                done => Ok(done?),
            },
            Step::Hop(cloned) => Ok(self.hop(*cloned)?),
            Step::NewTime(offsets) => Ok(self.new_time(offsets)?),
            Step::Unshare(of) => Ok(clone::unshare(*of)?),
            Step::UnshareCgroup => Ok(clone::unshare(clone::flags::CGROUP)?),
            Step::Hide => Ok(process::set_dumpable(false)?),
            Step::AwaitStart => Ok(self.await_start()?),
            Step::Hook(hook) => Ok(hook::run(hook, self.ground.hooks.as_ref())?),
            Step::Exec(_) => Err(self.exec(steps).into()),
            other => self.perform_filesystem(other),
        }
    }

    fn perform_filesystem(&mut self, step: &Step) -> Result<(), Trouble> {
        match step {
            Step::Propagation(flags) => mount::set_propagation(c"/", *flags, Depth::All)?,
            Step::RootPropagation(flags, depth) => mount::set_propagation(c"/", *flags, *depth)?,
            Step::Root(path, shared) => self.root = Some(rootfs::attach(path, *shared)?),
            Step::RootOnItself(path) => self.root = Some(rootfs::attach_on_itself(path)?),
            Step::TakeAway(path) => rootfs::take_away(path)?,
            Step::Confine(slot) => rootfs::confine(self.slot(*slot)?)?,
            Step::Mount(mount) => {
                let ground = self.ground;
                mounts::mount(self.root()?, mount, ground)?;
                self.root()?.attached(&mount.to);
            }
            Step::Directory(place) => drop(self.root()?.ensure(place, crate::root::Entry::Directory)?),
            Step::Device(device) => {
                devices::make(self.root()?, device)?;
                self.root()?.attached(&device.to);
            }
            Step::Link(place, target) => devices::link(self.root()?, place, target)?,
            Step::Terminal(size) => self.open_terminal(*size)?,
            Step::Console(place) => self.mount_console(place)?,
            Step::Mask(place) => self.mask(place)?,
            Step::ReadOnly(place) => rootfs::make_read_only(self.root()?, place)?,
            Step::ReadOnlyRoot => rootfs::make_root_read_only(self.root()?)?,
            Step::Pivot => rootfs::pivot(self.root()?)?,
            Step::MoveRoot => rootfs::move_root(self.root()?)?,
            other => self.perform_identity(other)?,
        }
        Ok(())
    }

    /// Puts the filter into force. A listener comes with it where calls are handed to somebody: the parent takes it.
    fn filter(&mut self, program: &[libc::sock_filter], flags: u32) -> Result<(), Errno> {
        let Some(listener) = process::install_filter(program, flags)? else { return Ok(()) };
        self.talk.write(Word::Listener(listener.as_raw_fd()))?;
        // Closed right after: a call that an agent will not answer any more fails only once nobody has the listener.
        self.hear(Word::Taken)
    }

    /// Waits for a word. That the pid is recorded may be said before anything else.
    fn hear(&mut self, wanted: Word) -> Result<(), Errno> {
        while !(wanted == Word::Recorded && self.recorded) {
            match self.talk.read()? {
                Some(Word::Recorded) => self.recorded = true,
                Some(word) if word == wanted => return Ok(()),
                _ => return Err(Errno::from_raw(libc::EPIPE)),
            }
        }
        Ok(())
    }

    /// Goes on as a sibling in new namespaces, or in those that children are born into. The process that was leaves.
    fn hop(&mut self, cloned: u64) -> Result<(), Errno> {
        match clone::clone_sibling(&Solo::of_a_clone(), cloned)? {
            Side::Child => self.hear(Word::Known),
            Side::Parent(pid, pidfd) => {
                let said = self.talk.say_with(Word::Hopped(pid), pidfd.as_fd());
                process::leave(i32::from(said.is_err()));
            }
        }
    }

    /// Enters a namespace, once.
    fn join(&mut self, of: u64, slot: usize) -> Result<(), Errno> {
        if self.joined & of != of {
            clone::setns(self.slot(slot)?.as_fd(), of)?;
            self.joined |= of;
        }
        Ok(())
    }

    /// The offsets go into a file of this process before the first child is born into the namespace.
    fn new_time(&self, offsets: &CStr) -> Result<(), Errno> {
        clone::unshare(clone::flags::TIME)?;
        // The files of a process that hides belong to the host's root. This one is in the host's PID namespace still,
        // where nobody looks who must not.
        process::set_dumpable(true)?;
        let proc = self.ground.proc.as_fd();
        let file = fs::openat2(proc, c"self/timens_offsets", libc::O_WRONLY, 0, fs::Resolve::OneMount);
        let wrote = file.and_then(|file| fs::write_once(file.as_fd(), offsets.to_bytes()));
        process::set_dumpable(false)?;
        wrote
    }

    fn enter_cgroups(&self) -> Result<(), Errno> {
        self.ground.doors.iter().try_for_each(|door| fs::write_once(door.as_fd(), b"0"))?;
        self.ground.later.iter().try_for_each(|path| {
            let door = fs::open(path, libc::O_WRONLY)?;
            fs::write_once(door.as_fd(), b"0")
        })
    }

    fn await_start(&self) -> Result<(), Errno> {
        let Some(fifo) = &self.ground.fifo else { return Ok(()) };
        let mut byte = [0; 1];
        fs::read(fifo.as_fd(), &mut byte).map(drop)
    }

    fn slot(&self, slot: usize) -> Result<&OwnedFd, Errno> {
        self.ground.slots.get(slot).ok_or(Errno::from_raw(libc::EBADF))
    }

    /// The container's root; for an exec, which has joined its mount namespace, that is `/`.
    fn root(&mut self) -> Result<&RootDir, Errno> {
        if self.root.is_none() {
            self.root = Some(RootDir::new(fs::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?));
        }
        self.root.as_ref().ok_or(Errno::from_raw(libc::ENOTDIR))
    }

    fn exec(&self, steps: &[Step]) -> Errno {
        let places = steps.iter().find_map(|step| match step {
            Step::Program(places) => Some(places),
            _ => None,
        });
        let mut why = Errno::from_raw(libc::ENOENT);
        for path in places.into_iter().flatten().skip(self.program) {
            why = process::execve(path, &self.image.args, &self.image.env);
            if !matches!(why.raw(), libc::ENOENT | libc::ENOTDIR) {
                break;
            }
        }
        why
    }
}
