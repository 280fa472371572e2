//! `checkpoint` and `restore`: a container's processes become files, and processes again. Both are criu's work.
//!
//! | file | what it holds |
//! |---|---|
//! | `dump` | the story of `checkpoint` |
//! | `restore` | the story of `restore`: as `create`, with criu in the place of the clone |
//! | `criu` | one criu process and the conversation with it |
//! | `wire` | its encoding |
//! | `mounts` | DECIDE: which mounts come from outside |
//! | `images` | the directory of images, which nobody has to believe |
//! | `audit` | what was restored has no more rights than the specification gives |
//! | `yard` | what a criu that had to be killed leaves mounted |
//!
//! criu is asked by its RPC rather than by its command line: only so do descriptors (a terminal's master, a network
//! namespace) and notices at exact points travel both ways. Flags and defaults are runc's.

mod audit;
mod criu;
mod dump;
mod images;
mod mounts;
mod restore;
pub mod wire;
mod yard;

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::create::Stdio;
use crate::error::{Error, Kind};
use crate::sys::clone::flags;
use wire::Message;

pub use dump::checkpoint;
pub use restore::{Restored, restore};

/// A container whose processes are to be saved.
#[derive(Debug)]
pub struct CheckpointRequest<'a> {
    /// Where state lives.
    pub root: &'a Path,
    /// The container; it has to be running or paused.
    pub id: &'a str,
    /// Directory for the images; made with mode 0700 if it is not there.
    pub images: &'a Path,
    /// Images that these continue, relative to `images`: those of an earlier pre-dump.
    pub parent: Option<&'a Path>,
    /// Save memory only, and let the container go on.
    pub pre_dump: bool,
    /// Let the container go on; otherwise it ends and is deleted.
    pub leave_running: bool,
    /// Send memory pages to `criu page-server` at this address and port instead of into files.
    pub page_server: Option<(&'a str, u16)>,
    /// With `lazy_pages`: gets one zero byte once pages can be fetched.
    pub status: Option<BorrowedFd<'a>>,
    /// What it has in common with a restore.
    pub criu: CriuOptions<'a>,
}

/// A container that is to be made of images.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    /// Name of the container: letters, digits, `_+-.`; unique below `root`.
    pub id: &'a str,
    /// Directory with `config.json`; a relative `root.path` starts here.
    pub bundle: &'a Path,
    /// Where state lives.
    pub root: &'a Path,
    /// `config.json` where the caller has already read it; otherwise it is read from the bundle.
    pub spec: Option<&'a Spec>,
    /// Directory of the images.
    pub images: &'a Path,
    /// Where the streams lead that were the saved container's standard streams.
    pub stdio: Stdio<'a>,
    /// File that receives the pid in decimal, written atomically.
    pub pid_file: Option<&'a Path>,
    /// systemd makes the cgroup.
    pub systemd_cgroup: bool,
    /// LSM profile in place of the saved one, `apparmor:NAME` or `selinux:LABEL`.
    pub lsm_profile: Option<&'a str>,
    /// SELinux context for mounts in place of the saved one.
    pub lsm_mount_context: Option<&'a str>,
    /// What it has in common with a checkpoint.
    pub criu: CriuOptions<'a>,
}

/// What criu is told in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct CriuOptions<'a> {
    /// criu itself: a path, or a name to be found in `$PATH`; `None` is `criu`.
    pub program: Option<&'a Path>,
    /// Directory for logs and statistics; `None` is that of the images.
    pub work: Option<&'a Path>,
    /// Save and restore established TCP connections.
    pub tcp_established: bool,
    /// Leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Give files that were unlinked while open a name again.
    pub link_remap: bool,
    /// Leave out the other end of unix sockets that lead out of the container.
    pub ext_unix_sk: bool,
    /// The container is part of a session from outside (a shell's job).
    pub shell_job: bool,
    /// Save and restore file locks.
    pub file_locks: bool,
    /// Fetch memory when it is touched (userfaultfd).
    pub lazy_pages: bool,
    /// Punch out of older images what newer ones have.
    pub auto_dedup: bool,
    /// How cgroups are treated.
    pub cgroups: CgroupsMode,
}

/// How criu treats cgroups (`--manage-cgroups-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// criu's own default, which is soft.
    #[default]
    Default,
    /// Properties are restored in cgroups that were not there.
    Soft,
    /// Properties are restored.
    Full,
    /// Properties are restored, and a cgroup that is there already is an error.
    Strict,
    /// Cgroups are left alone: what `config.json` says counts.
    Ignore,
}

impl std::str::FromStr for CgroupsMode {
    type Err = Error;

    fn from_str(word: &str) -> Result<CgroupsMode, Error> {
        Ok(match word {
            "" => CgroupsMode::Default,
            "soft" => CgroupsMode::Soft,
            "full" => CgroupsMode::Full,
            "strict" => CgroupsMode::Strict,
            "ignore" => CgroupsMode::Ignore,
            other => {
                let what = format!("--manage-cgroups-mode: {other:?} is not soft, full, strict or ignore");
                return Err(Error::new(Kind::Invalid, what));
            }
        })
    }
}

impl CgroupsMode {
    /// `enum criu_cg_mode`.
    fn number(self) -> u64 {
        match self {
            CgroupsMode::Ignore => 0,
            CgroupsMode::Soft => 3,
            CgroupsMode::Full => 4,
            CgroupsMode::Strict => 5,
            CgroupsMode::Default => 6,
        }
    }
}

/// criu's level for its log: everything but debugging, as runc has it.
const LOG_LEVEL: u64 = 4;

/// `criu_network_lock_method.NFTABLES`.
const NFTABLES: u64 = 2;

/// The options of both directions, as a `criu_opts`.
fn options(of: &CriuOptions<'_>, images: &OwnedFd, work: Option<&OwnedFd>, log: &str, config: Option<&str>) -> Message {
    let mut message = Message::default()
        .number(1, images.as_raw_fd() as u64)
        .switch(4, of.ext_unix_sk)
        .switch(5, of.tcp_established)
        .switch(7, of.shell_job)
        .switch(8, of.file_locks)
        .number(9, LOG_LEVEL)
        .text(10, log)
        .switch(12, true)
        .switch(16, of.auto_dedup)
        .switch(18, of.link_remap)
        .switch(24, true)
        .number(34, of.cgroups.number())
        // The network of a container is not the runtime's to save: whoever made it makes it again.
        .number(38, flags::NETWORK)
        .switch(46, of.tcp_skip_in_flight)
        .switch(48, of.lazy_pages)
        .switch(50, true)
        .optional(51, config);
    if let Some(work) = work {
        message = message.number(17, work.as_raw_fd() as u64);
    }
    // criu locks the network with iptables unless told otherwise; many hosts have nftables only.
    if criu::find(Some(Path::new("iptables-restore"))).is_err() {
        message = message.number(64, NFTABLES);
    }
    message
}

/// criu's configuration file, which an administrator may use to override all of this: the annotation of runc's users,
/// or runc's file.
fn config_file(spec: &Spec) -> Option<String> {
    let asked = spec.annotations().as_ref().and_then(|all| all.get("org.criu.config"));
    match asked {
        Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
        None => Some("/etc/criu/runc.conf".to_owned()),
    }
}

/// A pair of texts as criu's `ext_mount_map`.
fn pair(key: &str, value: &str) -> Message {
    Message::default().text(1, key).text(2, value)
}

/// The same failure with the lines of criu's log that tell of errors, and where the log is.
fn with_log(why: Error, dir: &Path, log: &str) -> Error {
    const SHOWN: usize = 3;

    let path = dir.join(log);
    let text = std::fs::read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let told: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once("Error ")?.1.trim())).collect();
    if told.is_empty() {
        return why;
    }
    let last = told[told.len().saturating_sub(SHOWN)..].join("; ");
    let told = format!("{why}: {last} (all of it in {})", path.display());
    // criu looks at the kernel first: what fails there fails for every container.
    match last.contains("kerndat") {
        true => Error::new(Kind::Unsupported, format!("criu cannot work on this kernel: {told}")),
        false => Error::new(why.kind(), told),
    }
}

/// Places of the log and of the work directory.
fn work<'a>(of: &CriuOptions<'a>, images: &'a Path) -> crate::Result<(Option<OwnedFd>, &'a Path)> {
    let opened = of.work.map(images::make).transpose()?;
    Ok((opened, of.work.unwrap_or(images)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_by_name() {
        for (word, number) in [("", 6), ("soft", 3), ("full", 4), ("strict", 5), ("ignore", 0)] {
            assert_eq!(word.parse::<CgroupsMode>().unwrap().number(), number, "{word}");
        }
        assert!("hard".parse::<CgroupsMode>().unwrap_err().to_string().contains("--manage-cgroups-mode"));
    }

    #[test]
    fn the_log_says_why() {
        let dir = std::env::temp_dir().join(format!("gantry-criu-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let said = |text: &str| {
            std::fs::write(dir.join("dump.log"), text).unwrap();
            let why = with_log(Error::new(Kind::System, "criu failed"), &dir, "dump.log");
            (why.kind(), why.to_string().replace(&dir.display().to_string(), "DIR"))
        };
        let text = "(00.1) fine\n(00.2) Error (criu/a.c:1): first\n(00.3) Error (criu/b.c:2): second\n";
        let whole = "criu failed: (criu/a.c:1): first; (criu/b.c:2): second (all of it in DIR/dump.log)";
        assert_eq!(said(text), (Kind::System, whole.to_owned()));
        let (kind, sentence) = said("(00.1) Error (criu/kerndat.c:1): no vdso\n");
        assert!(kind == Kind::Unsupported && sentence.starts_with("criu cannot work on this kernel"), "{sentence}");
        assert_eq!(said(""), (Kind::System, "criu failed".to_owned()));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
