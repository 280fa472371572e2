//! The floor: the kernel's work of one `run` (and of one `exec`) and nothing else, so that a runtime's distance from it
//! is always visible.
//!
//! `bench-floor run ROOTFS NAME` does what the default specification demands by the fewest system calls known: cgroups in
//! every tree, entered by the child itself; new namespaces; the default mounts, devices, masked and read-only paths;
//! pivot, capabilities, `/bin/true`; wait, and remove the cgroups. No parsing, no checks, no records, no errors told.
//! `bench-floor exec PID NAME` enters the namespaces and cgroups of a process and runs `/bin/true` there.
//! `bench-floor rss PROGRAM ARGUMENTS...` runs a program and prints its peak memory (and that of what it waited for) in
//! KiB: a launcher as small as this does not leave its own peak in the number.
//! `bench-floor profile` prints the default seccomp profile, which is Docker's in substance.

use std::error::Error;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_runtime::cgroup::{Layout, Version};
use gantry_runtime::sys::clone::{self, Reap, Side, flags};
use gantry_runtime::sys::mount::{self as by_fd, Depth, MountAttr, attr};
use gantry_runtime::sys::process::{self, CStringArray, CapabilitySets};
use gantry_runtime::sys::{Solo, fs as sys_fs};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root, sethostname, symlinkat};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What `runtime spec` masks and makes read-only, as far as kernels still have it.
const MASKED_FILES: [&str; 4] = ["proc/kcore", "proc/keys", "proc/timer_list", "proc/sched_debug"];
const MASKED_DIRS: [&str; 3] = ["proc/acpi", "proc/scsi", "sys/firmware"];
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
const NODES: [(&str, u64, u64); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];
/// CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE.
const KEPT: u64 = 1 << 5 | 1 << 10 | 1 << 29;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", rootfs, name] => run(Path::new(rootfs), name),
        ["exec", pid, name] => exec(pid.parse()?, name),
        ["rss", program, rest @ ..] => rss(program, rest),
        ["profile"] => {
            let kept = [
                oci_spec::runtime::Capability::Kill,
                oci_spec::runtime::Capability::NetBindService,
                oci_spec::runtime::Capability::AuditWrite,
            ];
            let profile = gantry_runtime::seccomp::default_profile(&kept.into_iter().collect());
            println!("{}", serde_json::to_string(&profile)?);
            Ok(())
        }
        _ => Err("usage: bench-floor run ROOTFS NAME | exec PID NAME | rss PROGRAM ARGUMENTS... | profile".into()),
    }
}

/// Cgroups of this host: the directory `name` in every v1 tree, and in the v2 tree.
struct Cgroups {
    v1: Vec<PathBuf>,
    v2: Option<PathBuf>,
}

impl Cgroups {
    fn named(name: &str) -> Outcome<Cgroups> {
        let layout = Layout::discover()?;
        let of = |version| {
            let trees = layout.hierarchies().iter().filter(move |tree| tree.version == version);
            trees.map(|tree| tree.mount.join(name)).collect::<Vec<PathBuf>>()
        };
        Ok(Cgroups { v1: of(Version::V1), v2: of(Version::V2).pop() })
    }

    fn make(&self) -> Outcome<()> {
        for dir in self.v1.iter().chain(&self.v2) {
            fs::create_dir(dir)?;
            let cpus = dir.join("cpuset.cpus");
            if self.v1.contains(dir) && dir.parent().is_some_and(|parent| parent.ends_with("cpuset")) {
                let parent = dir.parent().ok_or("no parent")?;
                fs::write(&cpus, fs::read(parent.join("cpuset.cpus"))?)?;
                fs::write(dir.join("cpuset.mems"), fs::read(parent.join("cpuset.mems"))?)?;
            }
        }
        Ok(())
    }

    fn doors(&self) -> Outcome<(Vec<File>, Option<OwnedFd>)> {
        let tasks = self.v1.iter().map(|dir| OpenOptions::new().write(true).open(dir.join("tasks")));
        let unified = self.v2.as_ref().map(File::open).transpose()?;
        Ok((tasks.collect::<Result<_, _>>()?, unified.map(Into::into)))
    }

    fn remove(&self) -> Outcome<()> {
        for dir in self.v1.iter().chain(&self.v2) {
            // The last process is a zombie no longer, but the tree may learn of it a moment later.
            for _ in 0..1000 {
                match fs::remove_dir(dir) {
                    Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_micros(200));
                    }
                    done => {
                        done?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

fn run(rootfs: &Path, name: &str) -> Outcome<()> {
    let alone = Solo::prove()?;
    let cgroups = Cgroups::named(name)?;
    cgroups.make()?;
    let (tasks, unified) = cgroups.doors()?;
    let spaces = flags::MOUNT | flags::PID | flags::NETWORK | flags::IPC | flags::UTS;
    let ended = match clone::clone3(&alone, spaces, unified.as_ref().map(AsFd::as_fd))? {
        Side::Child => {
            let why = become_true(rootfs, &tasks, &cgroups);
            eprintln!("bench-floor: {why:?}");
            process::leave(1)
        }
        Side::Parent(_, pidfd) => clone::wait(pidfd.as_fd(), Reap::Yes)?,
    };
    cgroups.remove()?;
    if ended == clone::Exit::Code(0) { Ok(()) } else { Err(format!("{ended:?}").into()) }
}

fn enter(tasks: &[File]) -> Outcome<()> {
    tasks.iter().try_for_each(|mut door| door.write_all(b"0"))?;
    Ok(())
}

fn become_true(rootfs: &Path, tasks: &[File], cgroups: &Cgroups) -> Outcome<()> {
    enter(tasks)?;
    process::setsid()?;
    clone::unshare(flags::CGROUP)?;
    by_fd::set_propagation(c"/", libc::MS_SLAVE, Depth::All)?;
    file_system(rootfs, cgroups)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    sethostname("floor")?;
    #[allow(clippy::unnecessary_cast, reason = "its type differs between C libraries")]
    process::set_limit(libc::RLIMIT_NOFILE as u32, 1024, 1024)?;
    process::no_new_privileges()?;
    (0..41).filter(|bit| KEPT & 1 << bit == 0).try_for_each(process::drop_from_bounding_set)?;
    process::capset(CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: 0 })?;
    exec_true()
}

fn exec_true() -> Outcome<()> {
    let none = CStringArray::new(Vec::new());
    let errno = process::execve(c"/bin/true", &CStringArray::new(vec![CString::from(c"/bin/true")]), &none);
    Err(format!("execute /bin/true: {errno}").into())
}

/// Everything below the new root, which is the working directory from here on.
fn file_system(rootfs: &Path, cgroups: &Cgroups) -> Outcome<()> {
    bind(rootfs, rootfs, MsFlags::MS_REC)?;
    chdir(rootfs)?;
    let (nosuid, noexec, nodev) = (MsFlags::MS_NOSUID, MsFlags::MS_NOEXEC, MsFlags::MS_NODEV);
    let safe = nosuid | noexec | nodev;
    new("proc", "proc", MsFlags::empty(), "")?;
    new("tmpfs", "dev", nosuid | MsFlags::MS_STRICTATIME, "mode=755,size=65536k")?;
    for dir in ["dev/pts", "dev/shm", "dev/mqueue"] {
        fs::create_dir(dir)?;
    }
    new("devpts", "dev/pts", nosuid | noexec, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    new("tmpfs", "dev/shm", safe, "mode=1777,size=65536k")?;
    new("mqueue", "dev/mqueue", safe, "")?;
    new("sysfs", "sys", safe | MsFlags::MS_RDONLY, "")?;
    cgroup_view(cgroups, safe)?;
    for (path, major, minor) in NODES {
        mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
    }
    for (at, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlinkat(format!("/proc/self/fd{target}").as_str(), nix::fcntl::AT_FDCWD, format!("dev/{at}").as_str())?;
    }
    symlinkat("pts/ptmx", nix::fcntl::AT_FDCWD, "dev/ptmx")?;
    for path in READ_ONLY.iter().filter(|path| Path::new(path).exists()) {
        bind(Path::new(path), Path::new(path), MsFlags::MS_REC)?;
        again(path)?;
    }
    for path in MASKED_FILES.iter().filter(|path| Path::new(path).exists()) {
        bind(Path::new("/dev/null"), Path::new(path), MsFlags::empty())?;
    }
    for path in MASKED_DIRS.iter().filter(|path| Path::new(path).exists()) {
        new("tmpfs", path, MsFlags::MS_RDONLY, "")?;
    }
    again(".")
}

/// The container's own directory of every tree.
fn cgroup_view(cgroups: &Cgroups, safe: MsFlags) -> Outcome<()> {
    new("tmpfs", "sys/fs/cgroup", safe, "mode=755")?;
    for dir in cgroups.v1.iter().chain(&cgroups.v2) {
        let tree = dir.parent().and_then(Path::file_name).ok_or("a tree without a name")?;
        let to = Path::new("sys/fs/cgroup").join(tree);
        fs::create_dir(&to)?;
        let made = by_fd::clone_path(&CString::new(dir.as_os_str().as_encoded_bytes())?, Depth::One, true)?;
        let view = MountAttr { set: attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC, ..MountAttr::default() };
        by_fd::mount_setattr(made.as_fd(), c"", Depth::One, &view)?;
        let target = sys_fs::open(&CString::new(to.as_os_str().as_encoded_bytes())?, libc::O_PATH)?;
        by_fd::move_mount(made.as_fd(), target.as_fd())?;
    }
    again("sys/fs/cgroup")
}

fn new(kind: &str, at: &str, flags: MsFlags, data: &str) -> Outcome<()> {
    mount(Some(kind), at, Some(kind), flags, Some(data)).map_err(|why| format!("mount {kind} on {at}: {why}").into())
}

fn bind(from: &Path, to: &Path, more: MsFlags) -> Outcome<()> {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND | more, none)
        .map_err(|why| format!("bind {} on {}: {why}", from.display(), to.display()).into())
}

/// Makes the mount at `path` read-only.
fn again(path: &str) -> Outcome<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, path, none, flags, none).map_err(|why| format!("make {path} read-only: {why}").into())
}

fn exec(pid: i32, name: &str) -> Outcome<()> {
    let alone = Solo::prove()?;
    let (tasks, unified) = Cgroups::named(name)?.doors()?;
    let target = clone::pidfd_open(pid)?;
    let own = File::open("/proc/self/ns/pid")?;
    clone::setns(target.as_fd(), flags::PID)?;
    let side = clone::clone3(&alone, 0, unified.as_ref().map(AsFd::as_fd))?;
    if matches!(side, Side::Child) {
        let spaces = flags::MOUNT | flags::NETWORK | flags::IPC | flags::UTS | flags::CGROUP;
        let entered = enter(&tasks).and_then(|()| Ok(clone::setns(target.as_fd(), spaces)?));
        let why = entered.and_then(|()| exec_true());
        eprintln!("bench-floor: {why:?}");
        process::leave(1);
    }
    clone::setns(own.as_fd(), flags::PID)?;
    match side {
        Side::Parent(_, pidfd) if clone::wait(pidfd.as_fd(), Reap::Yes)? == clone::Exit::Code(0) => Ok(()),
        _ => Err("the process failed".into()),
    }
}

fn rss(program: &str, arguments: &[&str]) -> Outcome<()> {
    use std::process::{Command, Stdio};

    let mut command = Command::new(program);
    let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    println!("{}", usage.max_rss());
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}").into()) }
}
