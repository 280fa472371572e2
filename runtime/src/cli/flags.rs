//! Every flag of every command. A table.

/// What follows a flag; the parser checks it, the completions offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing: it is a switch (`--force`, `--force=false`).
    Nothing,
    /// Anything.
    Text,
    /// A decimal number, maybe below zero.
    Number,
    /// Bytes: a number, or one with `b`, `k`, `m`, `g`, `t`, `p`.
    Size,
    /// A time as Go writes it: `5s`, `1m30s`, `250ms`.
    Duration,
    /// The path of a file or socket.
    File,
    /// The path of a directory.
    Directory,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// A flag of a command, or of all.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) long: &'static str,
    /// Without a dash.
    pub(super) short: Option<char>,
    /// What follows.
    pub(super) takes: Takes,
    /// What stands for the value in the help.
    pub(super) place: &'static str,
    /// One line of help.
    pub(super) about: &'static str,
    /// It may be given more than once, and every value counts.
    pub(super) repeats: bool,
    /// Accepted, but not told: it does nothing any more, or never did here.
    pub(super) hidden: bool,
}

const fn flag(long: &'static str, takes: Takes, place: &'static str, about: &'static str) -> Flag {
    Flag { long, short: None, takes, place, about, repeats: false, hidden: false }
}

const fn switch(long: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::Nothing, "", about)
}

const fn text(long: &'static str, place: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::Text, place, about)
}

const fn number(long: &'static str, place: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::Number, place, about)
}

const fn size(long: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::Size, "BYTES", about)
}

const fn file(long: &'static str, place: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::File, place, about)
}

const fn directory(long: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::Directory, "DIR", about)
}

const fn one_of(long: &'static str, words: &'static [&'static str], place: &'static str, about: &'static str) -> Flag {
    flag(long, Takes::OneOf(words), place, about)
}

impl Flag {
    const fn or(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }

    const fn many(self) -> Flag {
        Flag { repeats: true, ..self }
    }

    const fn quiet(self) -> Flag {
        Flag { hidden: true, ..self }
    }

    /// Whether this is the flag of that name, without dashes.
    pub(super) fn is(&self, name: &str) -> bool {
        self.long == name || self.short.is_some_and(|short| name == &*short.encode_utf8(&mut [0; 4]))
    }
}

/// Flags of every command; they may stand before it or after it.
pub(super) const GLOBAL: &[Flag] = &[
    directory("root", "where the state of containers lives; should be on a tmpfs"),
    file("log", "FILE", "write warnings and errors to this file as well"),
    one_of("log-format", &["text", "json"], "text|json", "how to write them there (default: text)"),
    switch("debug", "log every step"),
    switch("systemd-cgroup", "let systemd manage cgroups; linux.cgroupsPath is then slice:prefix:name"),
    one_of("cgroup-manager", &["cgroupfs", "systemd"], "cgroupfs|systemd", "who manages cgroups, in crun's words"),
    text("rootless", "true|false|auto", "go on where cgroups may not be changed (default: auto)"),
    text("criu", "PATH", "criu to use for checkpoint and restore, in place of the one in $PATH"),
];

/// Flags that print something in place of running a command. The second one stands before a command only.
pub(super) const PRINT: &[Flag] =
    &[switch("help", "print help").or('h'), switch("version", "print the version").or('v')];

const BUNDLE: Flag = directory("bundle", "directory with config.json (default: here)").or('b');
const CONSOLE: Flag = file("console-socket", "SOCKET", "unix socket that gets the master of the terminal");
const PIDFD: Flag = file("pidfd-socket", "SOCKET", "unix socket that gets a pidfd of the process");
const PID_FILE: Flag = file("pid-file", "FILE", "file that gets the process id");
const DETACH: Flag = switch("detach", "return as soon as the program runs").or('d');
const NO_PIVOT: Flag = switch("no-pivot", "do not use pivot_root: for a rootfs on a ramdisk");
const KEYRING: Flag = switch("no-new-keyring", "let the process keep the caller's session keyring");
const PRESERVE: Flag = number("preserve-fds", "N", "hand down N descriptors above the standard ones and $LISTEN_FDS");
const SUBREAPER: Flag =
    switch("no-subreaper", "accepted for compatibility: this runtime never adopts processes").quiet();

pub(super) const CREATE: &[Flag] = &[
    BUNDLE,
    file("config", "FILE", "configuration, if it is not config.json of the bundle").or('f'),
    CONSOLE,
    PIDFD,
    PID_FILE,
    NO_PIVOT,
    KEYRING,
    PRESERVE,
];

pub(super) const RUN: &[Flag] = &[DETACH, switch("keep", "do not delete the container when it ends"), SUBREAPER];

pub(super) const EXEC: &[Flag] = &[
    file("process", "FILE", "the process as JSON, in place of a program and the flags below").or('p'),
    CONSOLE,
    PIDFD,
    PID_FILE,
    DETACH,
    switch("tty", "with a terminal").or('t'),
    text("cwd", "DIR", "working directory in the container"),
    text("env", "NAME=VALUE", "environment variable").or('e').many(),
    text("user", "UID[:GID]", "user and group, as numbers").or('u'),
    text("additional-gids", "GID", "further group, as a number").or('g').many(),
    text("cap", "CAP", "further capability").or('c').many(),
    switch("no-new-privs", "set no_new_privs for the process"),
    text("process-label", "LABEL", "SELinux label of the process"),
    text("apparmor", "PROFILE", "AppArmor profile of the process"),
    text(
        "cgroup",
        "[CONTROLLER[,...]:]PATH",
        "existing cgroup below that of the container to run in; with controllers on cgroup v1 only",
    )
    .many(),
    switch("ignore-paused", "do not refuse a paused container: the process runs once it is resumed"),
    KEYRING,
    PRESERVE,
    SUBREAPER,
];

pub(super) const KILL: &[Flag] =
    &[switch("all", "signal every process of the container, also of a stopped one").or('a')];

pub(super) const DELETE: &[Flag] = &[switch("force", "kill it first; no error if it does not exist").or('f')];

const FORMAT: Flag = one_of("format", &["table", "json"], "table|json", "how to print (default: table)").or('f');

pub(super) const LIST: &[Flag] = &[FORMAT, switch("quiet", "print ids only").or('q')];

pub(super) const PS: &[Flag] = &[FORMAT];

pub(super) const SPEC: &[Flag] = &[
    directory("bundle", "where to write config.json (default: here)").or('b'),
    switch("rootless", "for a user without privileges"),
];

pub(super) const EVENTS: &[Flag] = &[
    flag("interval", Takes::Duration, "TIME", "time between two statistics (default: 5s)"),
    switch("stats", "print the statistics once, and end"),
];

pub(super) const UPDATE: &[Flag] = &[
    file(
        "resources",
        "FILE",
        "the new limits as JSON like linux.resources; - is standard input; other flags are ignored",
    )
    .or('r'),
    number("blkio-weight", "N", "weight of block I/O, 10 to 1000"),
    number("cpu-period", "USEC", "period of the CPU limit"),
    number("cpu-quota", "USEC", "CPU time in a period; -1 lifts the limit"),
    number("cpu-burst", "USEC", "CPU time that may be saved up for a burst"),
    number("cpu-share", "N", "share of the CPU, against other containers"),
    number("cpu-rt-period", "USEC", "period of the limit on realtime processes"),
    number("cpu-rt-runtime", "USEC", "CPU time of realtime processes in a period"),
    number("cpu-idle", "0|1", "1: run only when nobody else wants the CPU"),
    text("cpuset-cpus", "LIST", "CPUs to use: 0-3,7"),
    text("cpuset-mems", "LIST", "memory nodes to use"),
    size("memory", "memory limit; -1 lifts it"),
    size("memory-reservation", "memory that is left to it under pressure"),
    size("memory-swap", "limit of memory and swap together; -1 lifts it"),
    number("pids-limit", "N", "most processes; -1 lifts the limit"),
    text("l3-cache-schema", "SCHEMA", "schema of the L3 cache (Intel RDT)"),
    text("mem-bw-schema", "SCHEMA", "schema of memory bandwidth (Intel RDT)"),
    size("kernel-memory", "accepted for compatibility: kernels have dropped it").quiet(),
    size("kernel-memory-tcp", "accepted for compatibility: kernels have dropped it").quiet(),
];

const IMAGE: Flag = directory("image-path", "where criu's images are (default: ./checkpoint)");
const WORK: Flag = directory("work-path", "where criu's log and its work files go");
const TCP: Flag = switch("tcp-established", "keep open TCP connections");
const UNIX: Flag = switch("ext-unix-sk", "allow unix sockets that lead outside");
const SHELL: Flag = switch("shell-job", "allow a process that belongs to a shell's session");
const LAZY: Flag = switch("lazy-pages", "bring memory back page by page, with userfaultfd");
const LOCKS: Flag = switch("file-locks", "keep file locks");
const CGROUPS: Flag = one_of(
    "manage-cgroups-mode",
    &["soft", "full", "strict", "ignore"],
    "soft|full|strict|ignore",
    "what criu does with cgroups (default: soft)",
);
const EMPTY: Flag = one_of("empty-ns", &["network"], "network", "make this namespace, but do not restore it").many();
const DEDUP: Flag = switch("auto-dedup", "drop pages that a later image has, too");

pub(super) const CHECKPOINT: &[Flag] = &[
    IMAGE,
    WORK,
    directory("parent-path", "images of an earlier --pre-dump, relative to --image-path"),
    switch("leave-running", "let the container run on"),
    switch("pre-dump", "dump the memory only, and let the container run on"),
    TCP,
    switch("tcp-skip-in-flight", "leave out TCP connections that are being opened"),
    UNIX,
    SHELL,
    switch("link-remap", "give files without a name one, where possible"),
    LOCKS,
    LAZY,
    number("status-fd", "FD", "descriptor that gets a zero byte when --lazy-pages is ready"),
    text("page-server", "ADDRESS:PORT", "send memory to criu's page server there"),
    CGROUPS,
    EMPTY,
    DEDUP,
];

pub(super) const RESTORE: &[Flag] = &[
    BUNDLE,
    IMAGE,
    WORK,
    CONSOLE,
    PID_FILE,
    DETACH,
    NO_PIVOT,
    TCP,
    UNIX,
    SHELL,
    LOCKS,
    LAZY,
    CGROUPS,
    EMPTY,
    DEDUP,
    text("lsm-profile", "TYPE:NAME", "security profile of the restored processes"),
    text("lsm-mount-context", "CONTEXT", "security context of the restored mounts"),
    SUBREAPER,
];
