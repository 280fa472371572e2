//! checkpoint, restore: flags to requests.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::lifecycle::{bundle, check_console, load};
use super::log;
use super::parse::Call;
use super::relay;
use crate::checkpoint::{CheckpointRequest, CriuOptions, RestoreRequest};
use crate::create::Stdio;
use crate::error::{Context, Error, Kind, Result};
use crate::lifecycle as verbs;
use crate::sys::{Solo, process};

pub(super) fn checkpoint(call: &Call) -> Result<i32> {
    let alone = Solo::prove()?;
    check_namespaces(call)?;
    let (root, images, status) = (call.root(), images(call), status(call)?);
    let request = CheckpointRequest {
        root: &root,
        id: call.id()?,
        images: &images,
        parent: call.path("parent-path"),
        pre_dump: call.has("pre-dump"),
        leave_running: call.has("leave-running"),
        page_server: page_server(call)?,
        status: status.as_ref().map(|fd| fd.as_fd()),
        criu: options(call)?,
    };
    let failed = crate::checkpoint(&request, &alone)?;
    log::warnings(call, &failed);
    Ok(0)
}

pub(super) fn restore(call: &Call) -> Result<i32> {
    let alone = Solo::prove()?;
    check_namespaces(call)?;
    let (root, images, spec) = (call.root(), images(call), load(call)?);
    let detach = call.has("detach");
    check_console(call, &spec, detach)?;
    let signals = if detach { None } else { Some(relay::Signals::take()?) };
    let request = RestoreRequest {
        id: call.id()?,
        bundle: bundle(call),
        root: &root,
        spec: Some(&spec),
        images: &images,
        stdio: call.path("console-socket").map_or(Stdio::Inherit, Stdio::ConsoleSocket),
        pid_file: call.path("pid-file"),
        systemd_cgroup: call.wants_systemd(),
        lsm_profile: text(call, "lsm-profile")?,
        lsm_mount_context: text(call, "lsm-mount-context")?,
        criu: options(call)?,
    };
    let mut restored = crate::restore(&request, &alone)?;
    log::warnings(call, &restored.warnings);
    let Some(signals) = signals else { return Ok(0) };
    let ended = relay::until_exit(&signals, restored.pidfd, restored.console.take());
    log::warnings(call, &verbs::delete_noting(&root, call.id()?, true)?);
    ended
}

fn options(call: &Call) -> Result<CriuOptions<'_>> {
    Ok(CriuOptions {
        program: call.path("criu"),
        work: call.path("work-path"),
        tcp_established: call.has("tcp-established"),
        tcp_skip_in_flight: call.has("tcp-skip-in-flight"),
        link_remap: call.has("link-remap"),
        ext_unix_sk: call.has("ext-unix-sk"),
        shell_job: call.has("shell-job"),
        file_locks: call.has("file-locks"),
        lazy_pages: call.has("lazy-pages"),
        auto_dedup: call.has("auto-dedup"),
        cgroups: text(call, "manage-cgroups-mode")?.unwrap_or_default().parse()?,
    })
}

/// `--image-path`, or as with runc a directory here.
fn images(call: &Call) -> PathBuf {
    call.path("image-path").unwrap_or(Path::new("checkpoint")).to_owned()
}

/// The network is always left empty, as with runc; criu can leave out no other.
fn check_namespaces(call: &Call) -> Result<()> {
    match call.texts("empty-ns")?.into_iter().find(|name| *name != "network") {
        Some(other) => Err(Error::new(Kind::Invalid, format!("--empty-ns: {other:?}: only network can be left empty"))),
        None => Ok(()),
    }
}

/// `ADDRESS:PORT`; an IPv6 address in brackets.
fn page_server(call: &Call) -> Result<Option<(&str, u16)>> {
    let Some(given) = text(call, "page-server")? else { return Ok(None) };
    let split = given.rsplit_once(':').filter(|(address, _)| !address.is_empty());
    let parsed = split.and_then(|(address, port)| Some((address, port.parse().ok().filter(|port| *port != 0)?)));
    let (address, port) =
        parsed.ok_or_else(|| Error::new(Kind::Invalid, format!("--page-server: {given:?} is not ADDRESS:PORT")))?;
    Ok(Some((address.trim_start_matches('[').trim_end_matches(']'), port)))
}

/// `--status-fd`: a copy of the caller's descriptor, which has to be writable.
fn status(call: &Call) -> Result<Option<OwnedFd>> {
    let Some(number) = call.number("status-fd")? else { return Ok(None) };
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("--status-fd: {number} {why}"));
    let number = i32::try_from(number).map_err(|_| wrong("is no descriptor"))?;
    let fd = process::stream(number).context(|| format!("--status-fd {number}"))?;
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL).map_err(crate::sys::Errno::from);
    match flags.context(|| format!("--status-fd {}", fd.as_raw_fd()))? & libc::O_ACCMODE {
        libc::O_RDONLY => Err(wrong("is not writable")),
        _ => Ok(Some(fd)),
    }
}

fn text<'a>(call: &'a Call, flag: &str) -> Result<Option<&'a str>> {
    Ok(call.texts(flag)?.last().copied())
}
