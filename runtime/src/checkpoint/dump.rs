//! `checkpoint`: the story of a container whose processes become files.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::criu::{self, Criu, Ground, Type};
use super::mounts::{self, External};
use super::wire::Message;
use super::{CheckpointRequest, config_file, images, options, pair, with_log, work};
use crate::cgroup::{Cgroup, Controller};
use crate::error::{Context, Error, Kind, Result};
use crate::root::RootDir;
use crate::state::{Facts, Home, Init};
use crate::status::{self, Op};
use crate::sys::{Errno, Solo};
use crate::{create, lifecycle, spec};

const LOG: &str = "dump.log";

/// Saves a container's processes; unless it is to go on, it has ended then and is deleted. Returns a sentence for each
/// `poststop` hook that failed.
///
/// # Errors
/// `NotFound`, `WrongState`, `Unsupported` where criu is missing, too old or cannot work on this kernel, or `System` with
/// the lines of criu's log that say why.
pub fn checkpoint(request: &CheckpointRequest<'_>, alone: &Solo) -> Result<Vec<String>> {
    save(request, alone).context(|| format!("checkpoint {}", request.id))
}

/// The container, as a checkpoint finds it.
struct Found {
    facts: Facts,
    init: Init,
    spec: Spec,
    cgroup: Cgroup,
}

fn save(request: &CheckpointRequest<'_>, alone: &Solo) -> Result<Vec<String>> {
    let home = Home::lock(request.root, request.id)?;
    let found = look(&home)?;
    let program = criu::find(request.criu.program)?;
    criu::check_version(&program, alone)?;
    let images = images::make(request.images)?;
    if let Some(parent) = request.parent {
        images::check_parent(request.images, parent)?;
    }
    criu::check_features(&program, request.pre_dump, request.criu.lazy_pages, alone)?;
    let (work_dir, log_dir) = work(&request.criu, request.images)?;
    let config = config_file(&found.spec);
    let mut opts = options(&request.criu, &images, work_dir.as_ref(), LOG, config.as_deref());
    opts = what(opts, request, &found)?;
    if !request.pre_dump {
        opts = outside(opts, request, &found)?;
    }
    let kind = if request.pre_dump { Type::PreDump } else { Type::Dump };
    let mut criu = Criu::start(&program, Ground::default(), alone)?;
    let done = criu.ask(kind, Message::default().message(2, &opts), |notice| match (notice.script, request.status) {
        ("status-ready", Some(status)) => ready(status),
        _ => Ok(()),
    });
    let saved = done.and_then(|answer| answer.succeeded("checkpoint"));
    drop(criu);
    saved.map_err(|why| with_log(why, log_dir, LOG))?;
    if request.pre_dump || request.leave_running {
        Ok(Vec::new())
    } else {
        lifecycle::destroy(home, lifecycle::PATIENCE)
    }
}

fn look(home: &Home) -> Result<Found> {
    let facts = home.facts()?.ok_or_else(|| Error::new(Kind::WrongState, "it was never finished"))?;
    let cgroup = lifecycle::cgroup(&facts)?;
    let (seen, init) = home.look(|| cgroup.is_frozen().unwrap_or(false))?;
    status::allow(Op::Checkpoint, status::derive(seen))?;
    let init = init.ok_or_else(|| Error::new(Kind::WrongState, "it has no process"))?;
    let spec = spec::load(&facts.bundle).context(|| "read what its mounts are")?;
    Ok(Found { facts, init, spec, cgroup })
}

/// Which processes, and what becomes of them.
fn what(mut opts: Message, request: &CheckpointRequest<'_>, found: &Found) -> Result<Message> {
    opts = opts
        .number(2, found.init.pid as u64)
        .switch(3, request.leave_running)
        .text(13, &found.facts.rootfs.to_string_lossy());
    if let Some((address, port)) = request.page_server {
        opts = opts.message(11, &Message::default().text(1, address).number(2, port.into()));
    }
    if let Some(parent) = request.parent {
        opts = opts.text(14, &parent.to_string_lossy()).switch(15, true);
    } else if request.pre_dump {
        // What changes from here on is tracked, so that the next one saves only that.
        opts = opts.switch(15, true);
    }
    for (of, word, key) in [(LinuxNamespaceType::Network, "net", NET), (LinuxNamespaceType::Pid, "pid", PID)] {
        if let Some(Some(_)) = mounts::namespace(&found.spec, of) {
            opts = opts.text(37, &format!("{word}[{}]:{key}", namespace_number(found.init.pid, word)?));
        }
    }
    Ok(match found.cgroup.dir(Controller::Freezer) {
        Some(dir) => opts.text(44, &dir.to_string_lossy()),
        None => opts,
    })
}

/// Names under which criu finds namespaces again that it did not make; runc's.
pub(super) const NET: &str = "extRootNetNS";
pub(super) const PID: &str = "extRootPidNS";

fn namespace_number(pid: i32, word: &str) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let path = format!("/proc/{pid}/ns/{word}");
    Ok(std::fs::metadata(&path).context(|| format!("look at {path}"))?.ino())
}

/// What comes from outside of the container: mounts, and what its standard streams lead to.
fn outside(mut opts: Message, request: &CheckpointRequest<'_>, found: &Found) -> Result<Message> {
    let pid = found.init.pid;
    let root = mounts::root_dir(Path::new(&format!("/proc/{pid}/root")))?;
    let host = create::host(&found.cgroup)?;
    for External { to, .. } in mounts::externals(&found.spec, &found.facts.bundle, &host)? {
        if let Some(place) = mounts::resolve(&root, Path::new("/"), &to)? {
            opts = opts.message(23, &pair(&place, &place));
        }
    }
    opts = masks(opts, &root, &found.spec)?;
    let mut names = Vec::new();
    for stream in 0..3 {
        let name = stream_name(pid, stream)?;
        if name.starts_with("file[") {
            opts = opts.text(37, &name);
        }
        names.push(name);
    }
    images::write_descriptors(request.images, &names)?;
    Ok(opts)
}

fn masks(mut opts: Message, root: &RootDir, spec: &Spec) -> Result<Message> {
    for path in mounts::masked_files(root, spec)? {
        opts = opts.message(23, &pair(&path, "/dev/null"));
    }
    Ok(opts)
}

/// What a standard stream of the container is called in the images: `pipe:[7]`, a file that lies outside of its mounts
/// `file[mount:inode]`, anything else its path. Empty when it is closed.
fn stream_name(pid: i32, stream: i32) -> Result<String> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    let path = format!("/proc/{pid}/fd/{stream}");
    let Ok(target) = std::fs::read_link(&path) else { return Ok(String::new()) };
    let target = target.to_string_lossy().into_owned();
    let Ok(about) = std::fs::metadata(&path) else { return Ok(target) };
    if !(about.is_file() || about.file_type().is_char_device()) || is_terminal(&target) {
        return Ok(target);
    }
    let mount = mount_of(pid, stream)?;
    let mounts = format!("/proc/{pid}/mountinfo");
    let mounts = std::fs::read_to_string(&mounts).context(|| format!("read {mounts}"))?;
    let inside = mounts.lines().any(|line| line.split(' ').next() == Some(mount.to_string().as_str()));
    Ok(if inside { target } else { format!("file[{mount:x}:{:x}]", about.ino()) })
}

/// criu has its own way with terminals.
fn is_terminal(path: &str) -> bool {
    path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") || path == "/dev/console"
}

/// Number of the mount that an open file is on (proc_pid_fdinfo(5)).
fn mount_of(pid: i32, stream: i32) -> Result<u32> {
    let path = format!("/proc/{pid}/fdinfo/{stream}");
    let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
    number.ok_or_else(|| Error::new(Kind::Unsupported, format!("{path} has no mnt_id")))
}

/// Tells whoever waits that pages can be fetched.
fn ready(status: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::write(status.as_fd(), &[0]).map(drop).map_err(Errno::from).context(|| "write to --status-fd")
}
