//! What the error number of a step means: the sentences that the child, which cannot format, leaves to the parent.

use crate::error::{Error, Kind};
use crate::plan::{Around, Mount, Plan, Step, What, namespace_names};
use crate::sys::Errno;
use crate::sys::clone::flags;
use crate::userns;

/// The sentence for a step that failed.
pub(crate) fn failed(step: &Step, errno: Errno) -> Error {
    let error = Error::system(step.to_string(), errno);
    let because = |why: &str| Error::new(Kind::Invalid, format!("{step}: {why}"));
    match step {
        // podman and CRI-O know this sentence of runc and turn it into exit code 127.
        Step::Program(places) if errno.raw() == libc::ENOENT && places.len() > 1 => {
            let name = places[0].to_string_lossy();
            let name = name.rsplit('/').next().unwrap_or_default();
            Error::system(format!("exec: {name:?}: executable file not found in $PATH"), errno).of_kind(Kind::Program)
        }
        Step::Program(_) | Step::Exec(_) => error.of_kind(Kind::Program),
        Step::WorkingDirectory(_) | Step::UsersDirectory(_) if errno.raw() == libc::EXDEV => {
            because("the working directory is outside of the container")
        }
        Step::Hook(_) if errno.raw() == libc::ETIME => Error::new(Kind::System, format!("{step}: not done in time")),
        Step::Hook(_) if errno.raw() == libc::EIO => Error::new(Kind::System, format!("{step}: it failed")),
        Step::User(user) if errno.raw() == libc::EPERM && !user.groups.is_empty() => because(
            "groups cannot be set in this user namespace (setgroups is denied): leave additionalGids out; or \
                 linux.seccomp does not allow setgroups, setgid and setuid",
        ),
        Step::User(_) if errno.raw() == libc::EINVAL => because("an id is not mapped into the user namespace"),
        Step::BecomeRoot if errno.raw() == libc::EINVAL => because("uid 0 or gid 0 is not mapped into it"),
        Step::Hop(_) if errno.raw() == libc::ENOMEM => because(DEAD),
        Step::Join(..) | Step::JoinIfPermitted(..) if errno.raw() == libc::EINVAL => {
            because("it is not a namespace of this kind")
        }
        Step::Root(..) | Step::RootOnItself(_) => match errno.raw() {
            libc::ENOENT => Error::new(Kind::Invalid, format!("root.path: {step}: it does not exist")),
            libc::EINVAL | libc::ENOTDIR => Error::new(Kind::Invalid, format!("root.path: {step}: it is no directory")),
            _ => error,
        },
        Step::Mount(mount) => mount_failed(mount, errno).unwrap_or(error),
        _ => error,
    }
}

/// What ENOMEM means to who is to be born into a PID namespace (clone(2)).
const DEAD: &str = "no process can be made in the pid namespace that is joined: its first process has ended";

/// The sentence for a clone that failed.
pub(crate) fn not_cloned(plan: &Plan, errno: Errno) -> Error {
    let joins_pid = |around: &Around| matches!(around, Around::Join(of, _) if of & flags::PID != 0);
    let what = format!("clone {}", namespace_names(plan.cloned));
    match errno.raw() {
        libc::ENOMEM if plan.around.iter().any(joins_pid) => Error::new(Kind::Invalid, format!("{what}: {DEAD}")),
        _ => Error::system(what, errno),
    }
}

fn mount_failed(mount: &Mount, errno: Errno) -> Option<Error> {
    let bound = matches!(mount.what, What::Bind { .. });
    let why = match errno.raw() {
        // runc's words, which clients know.
        libc::ELOOP | libc::ENOTDIR if !bound => "must be mounted on ordinary directory, not on a link or a file",
        libc::ELOOP => "its destination is a symbolic link, or too many of them",
        libc::EINVAL | libc::EPERM if is_mapped(mount) => return userns::refused_map(mount, errno),
        libc::EBUSY => "its destination is the root of the container",
        libc::E2BIG => "what is to be copied is deeper than 128 directories, or has more than a million entries",
        libc::ENOENT if bound => "the source does not exist",
        libc::EPERM if bound && mount.attributes.clear != 0 => {
            "attributes of the source are locked by its user namespace and cannot be cleared"
        }
        _ => return None,
    };
    Some(Error::new(Kind::Invalid, format!("{mount}: {why}")))
}

fn is_mapped(mount: &Mount) -> bool {
    matches!(mount.what, What::Bind { idmap: Some(_), .. })
}
