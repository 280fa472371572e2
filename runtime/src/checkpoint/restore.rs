//! `restore`: as `create`, with criu in the place of the clone.
//!
//! State, cgroup, limits, hooks and mounts come from the new container's specification. Of the images only the processes
//! are taken: criu restores them, stops them at its notice `pre-resume`, and lets them go on only after [`audit`] has found
//! that they have no more than the specification gives.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::criu::{self, Criu, Ground, Notice, Type};
use super::mounts::{self, External};
use super::wire::Message;
use super::yard::Yard;
use super::{RestoreRequest, audit, config_file, dump, images, options, pair, with_log, work};
use crate::cgroup::{Cgroup, Doors, Layout};
use crate::create::{self, CreateRequest, Options, Stdio};
use crate::error::{Context, Error, Kind, Result};
use crate::root::RootDir;
use crate::state::{self, Facts, Home, Init};
use crate::sys::clone::{self, Exit, Reap};
use crate::sys::mount::{self, Depth, MountAttr};
use crate::sys::{Solo, fs};
use crate::{launch, lifecycle, spec};

const LOG: &str = "restore.log";

/// A restored process, and what its parent needs to look after it.
#[derive(Debug)]
pub struct Restored {
    /// Process id of the container's first process. The caller is its parent and has to reap it.
    pub pid: i32,
    /// The process; readable once it has exited.
    pub pidfd: OwnedFd,
    /// Master of the terminal, where the container had one and no console socket was given.
    pub console: Option<OwnedFd>,
    /// What the caller has to be told: rights of the specification that criu has not brought back.
    pub warnings: Vec<String>,
}

impl Restored {
    /// Waits for the end of the process and reaps it.
    ///
    /// # Errors
    /// `System`, if it is no child of the caller.
    pub fn wait(&self) -> Result<Exit> {
        clone::wait(self.pidfd.as_fd(), Reap::Yes).context(|| format!("wait for process {}", self.pid))
    }
}

/// Makes a container out of images; it runs when this returns.
///
/// # Errors
/// `Exists`, `Invalid` for a specification or images that are not right, `Unsupported` where criu is missing, too old or
/// cannot work on this kernel, or `System` with the lines of criu's log that say why. Nothing is left behind then.
pub fn restore(request: &RestoreRequest<'_>, alone: &Solo) -> Result<Restored> {
    make(request, alone).context(|| format!("restore {}", request.id))
}

fn make(request: &RestoreRequest<'_>, alone: &Solo) -> Result<Restored> {
    let bundle = std::path::absolute(request.bundle).context(|| "find the bundle")?;
    let loaded;
    let spec = match request.spec {
        Some(given) => {
            spec::check(given)?;
            given
        }
        None => {
            loaded = spec::load(&bundle)?;
            &loaded
        }
    };
    images::check(request.images)?;
    let program = criu::find(request.criu.program)?;
    criu::check_version(&program, alone)?;
    criu::check_features(&program, false, request.criu.lazy_pages, alone)?;
    let home = Home::claim(request.root, request.id)?;
    let story = Story { request, spec, bundle: &bundle, home: &home, program: &program };
    match story.tell(alone) {
        Ok(restored) => Ok(restored),
        Err(why) => {
            let _ = lifecycle::destroy(home, lifecycle::PATIENCE);
            Err(why)
        }
    }
}

/// Everything that the steps of a restore look at.
struct Story<'a> {
    request: &'a RestoreRequest<'a>,
    spec: &'a Spec,
    bundle: &'a Path,
    home: &'a Home,
    program: &'a Path,
}

/// The rootfs as criu wants to see it: as a mount of its own, below nothing that is mounted over. It goes when this is
/// dropped, or, after a kill, before the state directory is removed.
struct Seen(PathBuf);

impl Seen {
    fn mount(rootfs: &Path, home: &Home) -> Result<Seen> {
        let at = home.criu_root();
        std::fs::create_dir(&at).context(|| format!("make {}", at.display()))?;
        let tree = mount::clone_path(&c_string(rootfs)?, Depth::All, true);
        let tree = tree.context(|| format!("clone the mount {}", rootfs.display()))?;
        // What is mounted in it must not come out on the host.
        let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        mount::mount_setattr(tree.as_fd(), c"", Depth::All, &private).context(|| "make the copy private")?;
        let target = fs::open(&c_string(&at)?, libc::O_PATH | libc::O_DIRECTORY);
        let target = target.context(|| format!("open {}", at.display()))?;
        mount::move_mount(tree.as_fd(), target.as_fd()).context(|| format!("mount on {}", at.display()))?;
        Ok(Seen(at))
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Ok(at) = c_string(&self.0) {
            let _ = mount::detach(&at);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Story<'_> {
    fn tell(&self, alone: &Solo) -> Result<Restored> {
        let layout = Layout::discover()?;
        let (mut cgroup, unit) = create::place(&self.as_created(), self.spec, &layout)?;
        create::refuse_used(&cgroup)?;
        let facts = create::facts(&self.as_created(), self.spec, self.bundle, &cgroup, unit);
        self.home.record(&facts)?;
        if let Some(filter) = create::compile(self.spec)? {
            self.home.record_filter(&filter)?;
        }
        let mut doors = match facts.unit {
            Some(_) => Doors::default(),
            None => create::limit(&mut cgroup, self.spec, None).and_then(|()| cgroup.doors())?,
        };
        let images = images::open(self.request.images)?;
        let (work_dir, log_dir) = work(&self.request.criu, self.request.images)?;
        let root = mounts::root_dir(&facts.rootfs)?;
        mounts::make_places(&root, self.spec, self.bundle)?;
        let seen = Seen::mount(&facts.rootfs, self.home)?;
        let config = config_file(self.spec);
        let mut opts = options(&self.request.criu, &images, work_dir.as_ref(), LOG, config.as_deref())
            .switch(6, true)
            .text(13, &seen.0.to_string_lossy())
            .switch(26, true)
            .optional(53, self.request.lsm_profile)
            .optional(63, self.request.lsm_mount_context);
        opts = self.outside(opts, &root, &facts, &cgroup)?;
        opts = self.streams(opts, &images)?;
        let joined = self.namespaces(&mut opts)?;
        let ground = Ground {
            streams: launch::streams(&self.request.stdio)?,
            inherited: joined.iter().map(|fd| fd.as_fd()).collect(),
            doors: std::mem::take(&mut doors.tasks),
            unified: doors.unified.take(),
        };
        let yard = Yard::before(work_dir.as_ref().unwrap_or(&images).as_fd());
        let mut criu = Criu::start(self.program, ground, alone)?;
        if let Some(unit) = &facts.unit {
            unit.start(&cgroup, self.spec, criu.pid)?;
        }
        opts = cgroup_roots(opts, criu.pid)?;
        let restored = self.converse(&mut criu, &opts, facts, &cgroup);
        drop(criu);
        drop(seen);
        yard.clear();
        restored.map_err(|why| with_log(why, log_dir, LOG))
    }

    fn as_created(&self) -> CreateRequest<'_> {
        CreateRequest {
            id: self.request.id,
            bundle: self.bundle,
            root: self.request.root,
            spec: Some(self.spec),
            stdio: self.request.stdio,
            preserve_fds: 0,
            pid_file: None,
            pidfd_socket: None,
            options: Options { systemd_cgroup: self.request.systemd_cgroup, ..Options::default() },
        }
    }

    /// Where the mounts from outside are to be found now, by the specification.
    fn outside(&self, mut opts: Message, root: &RootDir, facts: &Facts, cgroup: &Cgroup) -> Result<Message> {
        let base = std::fs::canonicalize(&facts.rootfs).context(|| format!("find {}", facts.rootfs.display()))?;
        let host = create::host(cgroup)?;
        for External { to, from } in mounts::externals(self.spec, self.bundle, &host)? {
            // What is mounted on a mount does not show in the bare root: the place is as it was spelled.
            let spelled = crate::root::Place::new(&to)?.to_string();
            let place = mounts::resolve(root, &base, &to)?.unwrap_or(spelled);
            opts = opts.message(23, &pair(&place, &from.to_string_lossy()));
        }
        Ok(opts.message(23, &pair("/dev/null", "/dev/null")))
    }

    /// Names that the saved standard streams had, for the ones that they are now: criu is started with those.
    fn streams(&self, mut opts: Message, images: &OwnedFd) -> Result<Message> {
        for (number, name) in images::descriptors(images, self.request.images)?.into_iter().enumerate() {
            if let Some(name) = name {
                opts = opts.message(27, &Message::default().text(1, &name).number(2, number as u64));
            }
        }
        Ok(opts)
    }

    /// Namespaces by path: of network and processes criu is given a descriptor, the others it joins by itself.
    fn namespaces(&self, opts: &mut Message) -> Result<Vec<OwnedFd>> {
        let mut joined = Vec::new();
        let listed = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        for space in listed {
            let Some(Some(path)) = mounts::namespace(self.spec, space.typ()) else { continue };
            let key = match space.typ() {
                LinuxNamespaceType::Network => dump::NET,
                LinuxNamespaceType::Pid => dump::PID,
                LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time => {
                    let what = format!("linux.namespaces: criu cannot join a {} namespace by path", space.typ());
                    return Err(Error::new(Kind::Unsupported, what));
                }
                other => {
                    let join = pair(word(other), &path.to_string_lossy());
                    *opts = std::mem::take(opts).message(39, &join);
                    continue;
                }
            };
            let opened = fs::open(&c_string(&path)?, libc::O_RDONLY);
            let opened = opened.context(|| format!("open the {} namespace {}", space.typ(), path.display()))?;
            let inherit = Message::default().text(1, key).number(2, opened.as_raw_fd() as u64);
            *opts = std::mem::take(opts).message(27, &inherit);
            joined.push(opened);
        }
        Ok(joined)
    }

    /// Answers criu's notices until the container runs.
    fn converse(&self, criu: &mut Criu, opts: &Message, mut facts: Facts, cgroup: &Cgroup) -> Result<Restored> {
        let (mut console, mut init, mut warnings) = (None, None, Vec::new());
        let criu_itself = criu.pid;
        let answer = criu.ask(Type::Restore, Message::default().message(2, opts), |Notice { script, pid, fd }| {
            match script {
                "setup-namespaces" => {
                    // Written down as soon as there is one: from here on `delete` finds the process.
                    init = Some((pid, self.note(pid)?));
                    create::runtime_hooks(self.spec, &facts, pid)
                }
                "orphan-pts-master" => self.hand_over(fd, &mut console),
                "post-restore" => {
                    init = Some((pid, self.note(pid)?));
                    facts.namespaces = audit::namespaces(pid)?;
                    self.home.record(&facts)
                }
                "pre-resume" => {
                    let (pid, _) = init.as_ref().ok_or_else(|| Error::new(Kind::System, "criu has no process"))?;
                    let checked = audit::check(self.spec, &facts, *pid, criu_itself, cgroup, self.bundle);
                    // Not one instruction of theirs has run yet, and none will: criu holds them, and goes last.
                    warnings = checked.inspect_err(|_| drop(kill_but(cgroup, criu_itself)))?;
                    Ok(())
                }
                _ => Ok(()),
            }
        });
        if let Err(why) = answer.and_then(|answer| answer.succeeded("restore")) {
            if let Some((_, pidfd)) = init {
                clone::kill_and_reap(pidfd.as_fd());
            }
            return Err(why);
        }
        let (pid, pidfd) = init.ok_or_else(|| Error::new(Kind::System, "criu told of no process"))?;
        launch::write_pid_file(self.request.pid_file, pid)?;
        Ok(Restored { pid, pidfd, console, warnings })
    }

    /// Writes the first process down and opens it.
    fn note(&self, pid: i32) -> Result<OwnedFd> {
        let pidfd = clone::pidfd_open(pid).context(|| format!("open process {pid}"))?;
        self.home.record_init(Init { pid, start: state::start_of(pid)? })?;
        Ok(pidfd)
    }

    fn hand_over(&self, master: Option<OwnedFd>, console: &mut Option<OwnedFd>) -> Result<()> {
        let master = master.ok_or_else(|| Error::new(Kind::System, "criu sent no terminal"))?;
        match self.request.stdio {
            Stdio::ConsoleSocket(socket) => launch::send_console(socket, &master),
            _ => {
                *console = Some(master);
                Ok(())
            }
        }
    }
}

/// Kills every process of the cgroup but one.
fn kill_but(cgroup: &Cgroup, spared: i32) -> Result<()> {
    for pid in cgroup.pids()?.into_iter().filter(|pid| *pid != spared) {
        if let Ok(pidfd) = clone::pidfd_open(pid) {
            let _ = clone::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
    Ok(())
}

/// Every cgroup that criu is in: what it restores goes there, whatever the images say.
fn cgroup_roots(mut opts: Message, pid: i32) -> Result<Message> {
    let path = format!("/proc/{pid}/cgroup");
    for line in std::fs::read_to_string(&path).context(|| format!("read {path}"))?.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            opts = opts.message(25, &pair(controllers, path));
        }
    }
    Ok(opts)
}

/// criu's words for namespaces.
fn word(of: LinuxNamespaceType) -> &'static str {
    match of {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Time => "time",
    }
}

fn c_string(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;

    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(Kind::Invalid, format!("{}: has a zero byte", path.display())))
}
