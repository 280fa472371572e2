//! The attacks, a file a theme. A table.

mod cgroup;
mod descriptors;
mod devices;
mod exe;
mod identity;
mod open;
mod paths;
mod procfs;

use crate::scene::{Outcome, Runtime};

/// One attack.
pub(crate) struct Row {
    /// Number of the case, and a word.
    pub(crate) name: &'static str,
    /// In a few words.
    pub(crate) attack: &'static str,
    /// Where it has worked.
    pub(crate) seen_as: &'static str,
    /// Tries it.
    pub(crate) run: fn(&Runtime) -> Outcome,
}

const fn row(name: &'static str, attack: &'static str, seen_as: &'static str, run: fn(&Runtime) -> Outcome) -> Row {
    Row { name, attack, seen_as, run }
}

/// All of them, in the order of the cases.
pub(crate) const ROWS: &[Row] = &[
    row("01-exec", "exec of /proc/self/exe: the runtime's binary is overwritten", "CVE-2019-5736", exe::by_exec),
    row("01-run", "the same by a container in a shared PID namespace", "CVE-2019-5736", exe::by_run),
    row("02-cwd-run", "cwd is /proc/self/fd/N", "CVE-2024-21626", descriptors::cwd_of_run),
    row("02-cwd-exec", "the same for exec", "CVE-2024-21626", descriptors::cwd_of_exec),
    row("02-program", "the program is behind /proc/self/fd/N", "CVE-2024-21626", descriptors::program),
    row("02-inherited", "50 descriptors on / are open in the caller", "CVE-2024-23651", descriptors::inherited),
    row(
        "02-waiting",
        "exec beside a created container looks through /proc/1/fd",
        "CVE-2016-9962",
        descriptors::waiting,
    ),
    row("02-early", "exec while run still builds the container", "own audit", descriptors::early),
    row("03-fake-dir", "/proc is a directory of fake files", "CVE-2019-16884, CVE-2025-52881", procfs::fake_directory),
    row("03-link", "/proc is a symbolic link", "CVE-2019-19921, CVE-2023-27561", procfs::link),
    row("03-cover", "a mount covers /proc/self/attr", "CVE-2019-16884, CVE-2023-28642", procfs::cover),
    row("03-race", "/proc is exchanged with a link while containers start", "CVE-2019-19921", procfs::race),
    row("03-label", "a label where the kernel has no AppArmor", "CVE-2025-52881", procfs::label),
    row(
        "04-race",
        "a directory of a shared volume is exchanged with a link out",
        "CVE-2021-30465, CVE-2024-45310",
        paths::race,
    ),
    row("04-dev", "/dev is a link to a directory of the host", "CVE-2026-41579", paths::dev_link),
    row("04-mkdir", "cwd and mount targets lead over links to the host", "CVE-2024-45310", paths::targets),
    row("05-null", "/dev/null is a link into /proc/sys: masks become doors", "CVE-2025-31133", devices::null),
    row("05-pts", "/dev/pts/0 and /dev/ptmx are planted", "CVE-2025-52565", devices::terminal),
    row("05-console", "/dev/console is a link into /proc/sys", "CVE-2025-52565", devices::console),
    row("06-run", "inheritable or ambient capabilities after run", "CVE-2022-24769", identity::capabilities_of_run),
    row("06-exec", "the same after exec, with --cap", "CVE-2022-29162, CVE-2022-27650", identity::capabilities_of_exec),
    row("07-cgroup", "cgroupfs is written without a cgroup namespace", "CVE-2023-25809", cgroup::writable),
    row("07-outside", "cgroupsPath leads out of the tree", "own audit", cgroup::outside),
    row("08-user", "exec --user with strings that wrap to 0", "CVE-2026-30892, CVE-2024-40635", identity::users),
    row("09-groups", "supplementary groups of the caller", "CVE-2023-25173", identity::groups),
    row("11-socket", "the monitor answers somebody else, or has an abstract name", "CVE-2020-15257", open::socket),
    row("12-state", "state read by nobody", "CVE-2021-41103, CVE-2024-25621", open::state),
    row("19-sysctl", "a parameter smuggled into another, or the host's", "CVE-2022-0811", open::sysctl),
    row("20-home", "HOME with newline, NUL, NEL", "CVE-2022-4318", identity::home),
    row("26-seccomp", "an empty or broken profile means unconfined", "CVE-2023-2431", open::broken_profile),
    row("26-exec", "exec loses the filter or no_new_privs", "CVE-2019-11245", open::exec_confined),
    row("30-profile", "AF_ALG, AF_VSOCK, io_uring and keyctl through a filter", "defaults", open::profile),
    row("30-masked", "powercap and its like are readable", "CVE-2020-8694", open::masked),
];
