//! The pod's namespaces (network, IPC, UTS), made without a process and kept by bind mounts.
//!
//! A thread unshares, sets the namespaces up and bind-mounts its own `/proc/thread-self/ns` files; when it ends, the
//! mounts alone hold them (namespaces(7)). A crash in between leaves files and mounts below the pod's directory
//! and nothing elsewhere, so [`remove`] and [`sweep`] always find everything.

use super::inside::{alone, blocking};
use super::{link, sysctl};
use crate::error::{Context as _, Error, Kind, Result};
use gantry_runtime::netlink::Socket;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Longest host name that the kernel takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;

/// Which namespaces to make, and what to set in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetnsSpec {
    /// A network namespace of its own, with `lo` up; false for a pod on the host's network.
    pub net: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// A UTS namespace of its own.
    pub uts: bool,
    /// Host name to set; ignored without `uts`. At most 64 bytes; empty leaves the host's.
    pub hostname: String,
    /// `net.*` (needs `net`), `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*` (need `ipc`); others are
    /// refused. They are set before `eth0` exists: use `net.ipv4.conf.default.*` for what it should start with.
    pub sysctls: BTreeMap<String, String>,
}

/// Files that hold the namespaces; one for each kind that was asked for: `dir/net`, `dir/ipc`, `dir/uts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetnsPaths {
    /// Network namespace, or none.
    pub net: Option<PathBuf>,
    /// IPC namespace, or none.
    pub ipc: Option<PathBuf>,
    /// UTS namespace, or none.
    pub uts: Option<PathBuf>,
}

/// A [`NetnsSpec`] that was checked: what the thread does, in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    kinds: Vec<(&'static str, CloneFlags)>,
    hostname: Option<String>,
    writes: Vec<(PathBuf, String)>,
}

fn plan(spec: &NetnsSpec) -> Result<Plan> {
    let kinds = [
        (spec.net, "net", CloneFlags::CLONE_NEWNET),
        (spec.ipc, "ipc", CloneFlags::CLONE_NEWIPC),
        (spec.uts, "uts", CloneFlags::CLONE_NEWUTS),
    ];
    if spec.hostname.len() > HOSTNAME_MAX || spec.hostname.contains('\0') {
        let why = format!("host name {:?}: longer than 64 bytes", spec.hostname);
        return Err(Error::new(Kind::Invalid, why));
    }
    let mut writes = Vec::new();
    for (name, value) in &spec.sysctls {
        let path = sysctl::decide(name, value, spec.net, spec.ipc)?;
        writes.push((path, value.clone()));
    }
    Ok(Plan {
        kinds: kinds.into_iter().filter_map(|(wanted, name, flag)| wanted.then_some((name, flag))).collect(),
        hostname: (spec.uts && !spec.hostname.is_empty()).then(|| spec.hostname.clone()),
        writes,
    })
}

/// Makes `base` a directory (0700) whose mounts propagate nowhere; every `dir` of [`create`] belongs below such a
/// base: else each namespace's mount would be copied into every mount namespace of the host, and live on there.
/// Idempotent.
///
/// # Errors
/// `Internal` when it cannot be made or mounted.
pub async fn prepare(base: &Path) -> Result<()> {
    let base = base.to_owned();
    blocking(move || {
        make_dir(&base)?;
        let base = base.canonicalize().context(|| format!("resolve {}", base.display()))?;
        if !is_mount_point(&base)? {
            mount(Some(&base), &base, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .context(|| format!("bind {} onto itself", base.display()))?;
        }
        let private = MsFlags::MS_PRIVATE;
        mount(None::<&str>, &base, None::<&str>, private, None::<&str>)
            .context(|| format!("make mount {} private", base.display()))
    })
    .await
}

/// Undoes [`prepare`], when nothing is left below `base`. Idempotent.
///
/// # Errors
/// `Internal` when it cannot be unmounted or is not empty.
pub async fn unprepare(base: &Path) -> Result<()> {
    let base = base.to_owned();
    blocking(move || {
        unmount(&base)?;
        match fs::remove_dir(&base) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                Err(cause).context(|| format!("remove {}", base.display()))
            }
            _ => Ok(()),
        }
    })
    .await
}

/// Makes the namespaces that `spec` asks for and binds them to files below `dir` (made, 0700), in place of any that an
/// earlier call made there.
///
/// # Errors
/// `Invalid` for a sysctl that is not allowed or not namespaced, `Internal` otherwise; then nothing is left of `dir`.
pub async fn create(dir: &Path, spec: &NetnsSpec) -> Result<NetnsPaths> {
    let plan = plan(spec)?;
    let dir = dir.to_owned();
    let paths = NetnsPaths {
        net: spec.net.then(|| dir.join("net")),
        ipc: spec.ipc.then(|| dir.join("ipc")),
        uts: spec.uts.then(|| dir.join("uts")),
    };
    blocking(move || {
        // What an earlier try left, which a crash cut short.
        tear_down(&dir)?;
        make_dir(&dir)?;
        alone("namespaces", || carry_out(&dir, &plan)).map_err(|why| {
            // The first error is the one that says why; a leftover is found by the next sweep.
            let _ = tear_down(&dir);
            why.within(format!("make namespaces in {}", dir.display()))
        })
    })
    .await?;
    Ok(paths)
}

/// Runs on a thread that ends right after: it stays in the new namespaces.
fn carry_out(dir: &Path, plan: &Plan) -> Result<()> {
    let flags = plan.kinds.iter().fold(CloneFlags::empty(), |all, (_, flag)| all | *flag);
    unshare(flags).context(|| format!("unshare {flags:?}"))?;
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        let mut socket = Socket::route().context(|| "open netlink")?;
        // The loopback device of a new namespace always has index 1.
        socket.request(vec![link::up(1)]).context(|| "bring lo up")?;
    }
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).context(|| format!("set host name {name:?}"))?;
    }
    for (path, value) in &plan.writes {
        fs::write(path, value).context(|| format!("write {value:?} to {}", path.display()))?;
    }
    for (name, _) in &plan.kinds {
        let file = dir.join(name);
        fs::File::create(&file).context(|| format!("create {}", file.display()))?;
        let source = Path::new("/proc/thread-self/ns").join(name);
        mount(Some(&source), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .context(|| format!("bind {} to {}", source.display(), file.display()))?;
    }
    Ok(())
}

/// Unmounts and deletes what [`create`] made, also when it was cut short. Idempotent.
///
/// # Errors
/// `Internal`, after everything was tried.
pub async fn remove(dir: &Path) -> Result<()> {
    let dir = dir.to_owned();
    blocking(move || tear_down(&dir)).await
}

/// Removes each directory of `base` whose name is not a living pod's; but never the one that holds the network
/// namespace the daemon itself lives in, which a private network keeps there.
///
/// # Errors
/// `Internal`, after everything was tried.
pub async fn sweep(base: &Path, living: &HashSet<String>) -> Result<()> {
    let (base, living) = (base.to_owned(), living.clone());
    blocking(move || sweep_now(&base, &living)).await
}

pub(super) fn sweep_now(base: &Path, living: &HashSet<String>) -> Result<()> {
    let mut outcome = Ok(());
    for entry in entries(base)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if !living.contains(&*name) && !is_ours(&entry) {
            outcome = outcome.and(tear_down(&entry));
        }
    }
    outcome
}

/// Whether the directory holds the network namespace of this thread.
fn is_ours(dir: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    identity(&dir.join("net")).is_some_and(|held| identity(Path::new("/proc/thread-self/ns/net")) == Some(held))
}

fn tear_down(dir: &Path) -> Result<()> {
    let mut outcome = Ok(());
    for file in entries(dir)? {
        let gone =
            unmount(&file).and_then(|()| fs::remove_file(&file).context(|| format!("remove {}", file.display())));
        outcome = outcome.and(gone);
    }
    outcome?;
    match fs::remove_dir(dir) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause).context(|| format!("remove {}", dir.display())),
        _ => Ok(()),
    }
}

/// Unmounts all that is stacked on `path`; one that is no mount point, or absent, is no error.
pub(super) fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => {
                return Err(errno).context(|| format!("unmount {}", path.display()));
            }
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("list {}", dir.display());
    let listed = match fs::read_dir(dir) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.context(what)?,
    };
    listed.map(|entry| entry.map(|entry| entry.path()).context(what)).collect()
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(|| format!("make {}", dir.display()))
}

fn is_mount_point(path: &Path) -> Result<bool> {
    let table = fs::read("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    Ok(lists(&table, path.as_os_str().as_bytes()))
}

/// Whether a table in the form of proc_pid_mountinfo(5) has a mount at `path`.
fn lists(table: &[u8], path: &[u8]) -> bool {
    let mut escaped = Vec::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.extend(format!("\\{byte:03o}").bytes()),
            _ => escaped.push(*byte),
        }
    }
    table.split(|byte| *byte == b'\n').any(|line| line.split(|byte| *byte == b' ').nth(4) == Some(&escaped[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_has_the_kinds_asked_for() {
        let spec = NetnsSpec {
            net: true,
            uts: true,
            hostname: "web".into(),
            sysctls: BTreeMap::from([("net.core.somaxconn".into(), "7".into())]),
            ..NetnsSpec::default()
        };
        let made = plan(&spec).unwrap();
        let names: Vec<_> = made.kinds.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["net", "uts"]);
        assert_eq!(made.hostname.as_deref(), Some("web"));
        assert_eq!(made.writes, [("/proc/sys/net/core/somaxconn".into(), "7".to_string())]);
        assert_eq!(plan(&NetnsSpec::default()).unwrap(), Plan::default());
    }

    #[test]
    fn a_host_name_that_the_kernel_would_cut_is_refused() {
        let spec = NetnsSpec { hostname: "x".repeat(65), uts: true, ..NetnsSpec::default() };
        assert_eq!(plan(&spec).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"22 1 8:1 / /a rw - ext4 /dev/sda rw\n23 1 8:1 / /a\\040b rw - ext4 x rw\n";
        assert!(lists(table, b"/a"));
        assert!(lists(table, b"/a b"));
        assert!(!lists(table, b"/"));
        assert!(!lists(table, b"/a/b"));
    }
}
