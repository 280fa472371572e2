//! DO: who the process is, and where it stands.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use super::{Init, Trouble};
use crate::plan::{EVERY_CPU, Step, User};
use crate::root::Place;
use crate::sys::fs::{self, Resolve};
use crate::sys::{Errno, net, process};

/// How far `/etc/passwd` is read in search of a home: a hostile one may be endless.
const PASSWD_LIMIT: usize = 1 << 20;

impl Init<'_> {
    pub(super) fn perform_identity(&mut self, step: &Step) -> Result<(), Trouble> {
        match step {
            Step::BecomeRoot => become_root()?,
            Step::NewSession => process::setsid()?,
            Step::Keyring(name, permissions) => return keyring(name, *permissions),
            Step::Affinity(cpus) => affinity(cpus)?,
            Step::Loopback => net::bring_up(c"lo")?,
            Step::Label(file, label) => self.write_proc(file, label, Resolve::OneMount)?,
            Step::FileLabel(place, label) => self.label(place, label)?,
            Step::MemoryPolicy(mode, nodes) => process::set_memory_policy(*mode, nodes)?,
            Step::Hostname(name) => process::set_hostname(name)?,
            Step::Domainname(name) => process::set_domainname(name)?,
            Step::Sysctl(path, value) => self.write_proc(path, value, Resolve::Strict)?,
            Step::OomScore(score) => return self.oom_score(score),
            Step::Limit(number, _, soft, hard) => return limit(*number, *soft, *hard),
            Step::Personality(persona) => process::set_personality(*persona)?,
            Step::Scheduler(attributes) => process::set_scheduler(attributes)?,
            Step::IoPriority(value) => process::set_io_priority(*value)?,
            Step::Streams => self.place_streams()?,
            Step::OwnStreams(uid) => self.own_streams(*uid),
            Step::CloseOthers(preserved) => self.close_others(*preserved)?,
            Step::NoNewPrivileges => process::no_new_privileges()?,
            Step::Seccomp(program, flags) => self.filter(program, *flags)?,
            Step::Bounding(keep) => bound(*keep)?,
            Step::User(user) => become_user(user)?,
            Step::Umask(mask) => drop(fs::umask(*mask)),
            Step::WorkingDirectory(path) => self.placed = try_directory(path)?,
            Step::UsersDirectory(path) if !self.placed => change_directory(path)?,
            Step::UsersDirectory(_) => {}
            Step::Capabilities(sets, ambient) => {
                process::capset(*sets)?;
                raise_ambient(*ambient)?;
            }
            Step::Home(uid) => self.find_home(*uid),
            Step::Program(places) => self.program = find_program(places)?,
            _ => return Err(Errno::from_raw(libc::ENOSYS).into()),
        }
        Ok(())
    }

    fn write_proc(&self, path: &CStr, value: &CStr, resolve: Resolve) -> Result<(), Errno> {
        let file = fs::openat2(self.ground.proc.as_fd(), path, libc::O_WRONLY, 0, resolve)?;
        fs::write_once(file.as_fd(), value.to_bytes())
    }

    /// Labels what is mounted at a place; its handle has no rights by itself.
    fn label(&mut self, place: &Place, label: &CStr) -> Result<(), Errno> {
        let found = self.root()?.find(place)?;
        let opened = fs::reopen(self.ground.proc.as_fd(), found.as_fd(), libc::O_RDONLY)?;
        fs::set_attribute(opened.as_fd(), c"security.selinux", label.to_bytes())
    }

    /// Lowering the score needs CAP_SYS_RESOURCE; a container without its wish is better than none.
    fn oom_score(&self, score: &CString) -> Result<(), Trouble> {
        let refused = |errno: &Errno| matches!(errno.raw(), libc::EACCES | libc::EPERM);
        match self.write_proc(c"self/oom_score_adj", score, Resolve::OneMount) {
            Err(errno) if refused(&errno) => Err(Trouble::Minor(errno)),
            done => Ok(done?),
        }
    }

    /// From here on nothing is open that leads out of the container. What the last steps need is close-on-exec.
    fn close_others(&mut self, preserved: u32) -> Result<(), Errno> {
        for number in 3..3 + preserved {
            process::set_close_on_exec(number as i32, false)?;
        }
        // Closed below, by number.
        let handles = [self.root.take().map(OwnedFd::from), self.empty.take(), self.null.take()];
        handles.into_iter().flatten().for_each(std::mem::forget);
        self.last.close_others()
    }

    /// Looks `HOME` up as a login would; without an entry it stays `/`.
    fn find_home(&mut self, uid: u32) {
        let opened = self.root().and_then(|root| root.open(c"etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK));
        let Ok(file) = opened else { return };
        match fs::fstat(file.as_fd()) {
            Ok(about) if about.st_mode & libc::S_IFMT == libc::S_IFREG => {}
            _ => return,
        }
        let mut buffer = [0u8; 4096];
        let (mut filled, mut total) = (0, 0);
        while total < PASSWD_LIMIT {
            let Ok(read) = fs::read(file.as_fd(), &mut buffer[filled..]) else { return };
            total += read;
            let end = filled + read;
            let last = read == 0;
            let mut start = 0;
            while let Some(length) = line_length(&buffer[start..end], last) {
                if let Some(home) = home_in(&buffer[start..start + length], uid) {
                    self.image.env.set_home(home);
                    return;
                }
                start = (start + length + 1).min(end);
            }
            if last || (start == 0 && end == buffer.len()) {
                return;
            }
            buffer.copy_within(start..end, 0);
            filled = end - start;
        }
    }
}

/// Length of the first line, if all of it is there.
fn line_length(text: &[u8], last: bool) -> Option<usize> {
    let newline = text.iter().position(|&byte| byte == b'\n');
    newline.or((last && !text.is_empty()).then_some(text.len()))
}

/// The home of `uid` in a line `name:password:uid:gid:comment:home:shell`.
fn home_in(line: &[u8], uid: u32) -> Option<&[u8]> {
    let mut fields = line.split(|&byte| byte == b':');
    let mut digits = [0; 10];
    let length = fs::write_decimal(uid, &mut digits);
    (fields.nth(2)? == &digits[..length]).then_some(())?;
    fields.nth(2).filter(|home| home.first() == Some(&b'/'))
}

/// Uid and gid 0 of a user namespace. Its groups go if they may.
fn become_root() -> Result<(), Errno> {
    let _ = process::setgroups(&[]);
    process::setgid(0)?;
    process::setuid(0)
}

/// Joins the session keyring of the container, so that the caller's is not leaked. Kernels without keyrings have none to
/// leak; a full quota is told. The first process makes the keyring searchable for the later ones, as runc does.
fn keyring(name: &CStr, permissions: Option<u32>) -> Result<(), Trouble> {
    let joined = match process::join_session_keyring(name) {
        Err(errno) if matches!(errno.raw(), libc::ENOSYS | libc::EPERM) => return Ok(()),
        Err(errno) if errno.raw() == libc::EDQUOT => return Err(Trouble::Minor(errno)),
        joined => joined?,
    };
    if let Some(bits) = permissions {
        process::permit_key(joined, bits)?;
    }
    Ok(())
}

/// A mask of which no CPU is left in the cgroup, or that a filter around this runtime refuses, is not worth the container
/// when nobody asked for it.
fn affinity(cpus: &[u64]) -> Result<(), Errno> {
    match process::set_affinity(cpus) {
        Err(_) if *cpus == EVERY_CPU => Ok(()),
        done => done,
    }
}

/// Sets a limit. Raising the hard one needs CAP_SYS_RESOURCE: where that is missing, as much as is allowed.
fn limit(number: u32, soft: u64, hard: u64) -> Result<(), Trouble> {
    let refused = match process::set_limit(number, soft, hard) {
        Err(errno) if errno.raw() == libc::EPERM => errno,
        done => return Ok(done?),
    };
    let (_, allowed) = process::limit(number)?;
    process::set_limit(number, soft.min(allowed), hard.min(allowed))?;
    Err(Trouble::Minor(refused))
}

/// Drops every capability from the bounding set but these; the kernel's last is where `EINVAL` starts.
fn bound(keep: u64) -> Result<(), Errno> {
    for capability in 0..63 {
        if keep & 1 << capability != 0 {
            continue;
        }
        match process::drop_from_bounding_set(capability) {
            Err(errno) if errno.raw() == libc::EINVAL => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

fn become_user(user: &User) -> Result<(), Errno> {
    process::keep_capabilities(true)?;
    if !user.keep_groups {
        match process::setgroups(&user.groups) {
            // An ordinary user's namespace has the groups that the user has, for ever.
            Err(errno) if errno.raw() == libc::EPERM && user.groups.is_empty() && may_set_gid() => {}
            done => done?,
        }
    }
    process::setgid(user.gid)?;
    process::setuid(user.uid)?;
    process::keep_capabilities(false)
}

/// CAP_SETGID: with it setgroups(2) is refused only where the user namespace denies it (user_namespaces(7)).
fn may_set_gid() -> bool {
    const CAP_SETGID: u32 = 6;
    process::capget().is_ok_and(|sets| sets.effective & 1 << CAP_SETGID != 0)
}

fn raise_ambient(ambient: u64) -> Result<(), Errno> {
    process::clear_ambient()?;
    (0..63).filter(|capability| ambient & 1 << capability != 0).try_for_each(process::raise_ambient)
}

/// Changes to the directory and makes sure that it lies inside: a path through `/proc/self/fd` does not
/// (CVE-2024-21626).
fn change_directory(path: &CString) -> Result<(), Errno> {
    process::chdir(path)?;
    if process::cwd_is_inside()? { Ok(()) } else { Err(Errno::from_raw(libc::EXDEV)) }
}

/// The same; whether it was permitted at all: to the user, who comes later, it may be (as runc).
fn try_directory(path: &CString) -> Result<bool, Errno> {
    match change_directory(path) {
        Err(errno) if matches!(errno.raw(), libc::EACCES | libc::EPERM) => Ok(false),
        done => done.map(|()| true),
    }
}

/// The first place with an executable file; what speaks against the last one otherwise. A filter that forbids to ask
/// leaves the answer to execve(2).
fn find_program(places: &[CString]) -> Result<usize, Errno> {
    let mut why = Errno::from_raw(libc::ENOENT);
    for (at, place) in places.iter().enumerate() {
        match process::may_execute(place) {
            Ok(()) => return Ok(at),
            Err(errno) if errno.is_refusal() => return Ok(at),
            Err(errno) if errno.raw() == libc::EACCES => why = errno,
            Err(errno) if why.raw() == libc::ENOENT => why = errno,
            Err(_) => {}
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::home_in;

    #[test]
    fn a_line_of_passwd() {
        assert_eq!(home_in(b"root:x:0:0:root:/root:/bin/sh", 0), Some(&b"/root"[..]));
        assert_eq!(home_in(b"root:x:0:0:root:/root:/bin/sh", 1), None);
        assert_eq!(home_in(b"a:x:00:0::/a:/bin/sh", 0), None);
        assert_eq!(home_in(b"a:x:0:0::relative:/bin/sh", 0), None);
        assert_eq!(home_in(b"a:x:0", 0), None);
        assert_eq!(home_in(b"", 0), None);
    }
}
