//! Every command and every flag.

use super::parse::Call;
use super::{exec, inspect, lifecycle};
use crate::error::Result;

/// A flag of a command, or of all.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) long: &'static str,
    /// Without a dash.
    pub(super) short: Option<char>,
    /// What stands for the value in the help; `None` for a switch.
    pub(super) value: Option<&'static str>,
    /// One line of help.
    pub(super) about: &'static str,
}

const fn switch(long: &'static str, about: &'static str) -> Flag {
    Flag { long, short: None, value: None, about }
}

const fn value(long: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag { long, short: None, value: Some(value), about }
}

impl Flag {
    const fn or(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }
}

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Arguments, as the help shows them.
    pub(super) usage: &'static str,
    pub(super) about: &'static str,
    pub(super) flags: &'static [&'static [Flag]],
    /// Fewest and most arguments.
    pub(super) arguments: (usize, usize),
    /// Whatever follows the first argument belongs to a program and is no flag of ours.
    pub(super) ends_with_program: bool,
    /// It reads its own flags.
    pub(super) raw: bool,
    pub(super) run: fn(&Call) -> Result<i32>,
}

/// Flags before the command.
pub(super) const GLOBAL: &[Flag] = &[
    value("root", "DIR", "where the state of containers lives"),
    value("log", "FILE", "write warnings and errors to this file, too"),
    value("log-format", "text|json", "format of the log file"),
    value("rootless", "true|false|auto", "accepted for compatibility"),
    value("criu", "PATH", "accepted for compatibility"),
    switch("debug", "accepted for compatibility"),
    switch("systemd-cgroup", "let systemd manage cgroups (not supported yet)"),
    switch("version", "print the version").or('v'),
    switch("help", "print help").or('h'),
];

const HELP: &[Flag] = &[switch("help", "print help").or('h')];

const CREATE: &[Flag] = &[
    value("bundle", "DIR", "directory with config.json (default: here)").or('b'),
    value("console-socket", "SOCKET", "unix socket that gets the terminal's master"),
    value("pid-file", "FILE", "file that gets the pid"),
    switch("no-pivot", "do not use pivot_root"),
    switch("no-new-keyring", "keep the session keyring"),
    value("preserve-fds", "N", "hand down this many descriptors from 3 on"),
];

const RUN: &[Flag] = &[
    switch("detach", "return as soon as the program runs").or('d'),
    switch("keep", "do not delete the container when it ends"),
    switch("no-subreaper", "accepted for compatibility"),
];

const EXEC: &[Flag] = &[
    value("process", "FILE", "process as JSON, in place of the flags").or('p'),
    value("console-socket", "SOCKET", "unix socket that gets the terminal's master"),
    value("pid-file", "FILE", "file that gets the pid"),
    value("cwd", "DIR", "working directory"),
    value("env", "NAME=VALUE", "environment variable; may be repeated").or('e'),
    value("user", "UID[:GID]", "user and group").or('u'),
    value("additional-gids", "GID", "further group; may be repeated").or('g'),
    value("cap", "CAP", "further capability; may be repeated").or('c'),
    value("preserve-fds", "N", "hand down this many descriptors from 3 on"),
    switch("tty", "with a terminal").or('t'),
    switch("detach", "return as soon as the program runs").or('d'),
    switch("no-new-privs", "set no_new_privs"),
    switch("no-new-keyring", "keep the session keyring"),
];

const KILL: &[Flag] = &[switch("all", "signal every process of the container").or('a')];
const DELETE: &[Flag] = &[switch("force", "kill it first; no error if it does not exist").or('f')];
const LIST: &[Flag] =
    &[value("format", "table|json", "how to print").or('f'), switch("quiet", "print ids only").or('q')];
const PS: &[Flag] = &[value("format", "table|json", "how to print").or('f')];
const SPEC: &[Flag] = &[
    value("bundle", "DIR", "where to write config.json (default: here)").or('b'),
    switch("rootless", "for a user without privileges"),
];
const fn command(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(&Call) -> Result<i32>,
) -> Command {
    Command { name, usage, about, flags: &[HELP], arguments: (1, 1), ends_with_program: false, raw: false, run }
}

/// The commands, in the order of the help.
pub(super) const COMMANDS: &[Command] = &[
    Command { flags: &[CREATE, HELP], ..command("create", "ID", "make a container", lifecycle::create) },
    command("start", "ID", "let a created container run", lifecycle::start),
    Command { flags: &[CREATE, RUN, HELP], ..command("run", "ID", "make a container and let it run", lifecycle::run) },
    Command {
        flags: &[EXEC, HELP],
        arguments: (1, usize::MAX),
        ends_with_program: true,
        ..command("exec", "ID PROGRAM [ARGUMENT...]", "run another process in a container", exec::exec)
    },
    Command {
        flags: &[KILL, HELP],
        arguments: (1, 2),
        ..command("kill", "ID [SIGNAL]", "send a signal (default: SIGTERM)", lifecycle::kill)
    },
    Command { flags: &[DELETE, HELP], ..command("delete", "ID", "remove a container", lifecycle::delete) },
    command("pause", "ID", "freeze a container", lifecycle::pause),
    command("resume", "ID", "let a paused container go on", lifecycle::resume),
    command("state", "ID", "print the state of a container", inspect::state),
    Command { flags: &[LIST, HELP], arguments: (0, 0), ..command("list", "", "list containers", inspect::list) },
    Command {
        flags: &[PS, HELP],
        arguments: (1, usize::MAX),
        ends_with_program: true,
        ..command("ps", "ID [PS OPTION...]", "list the processes of a container", inspect::ps)
    },
    Command {
        flags: &[SPEC, HELP],
        arguments: (0, 0),
        ..command("spec", "", "write a config.json to start from", inspect::spec)
    },
    Command { arguments: (0, 0), ..command("features", "", "print what this runtime can do", inspect::features) },
    Command {
        arguments: (0, usize::MAX),
        raw: true,
        ..command("monitor", "--dir DIR", "look after the containers of one pod", lifecycle::monitor)
    },
];
