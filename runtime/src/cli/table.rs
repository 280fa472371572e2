//! Every command: name, arguments, flags, words for the help and the man page, and the function that does it. A table.

use super::flags::{self, Flag};
use super::parse::Call;
use super::{checkpoint, documents, events, exec, features, inspect, lifecycle, update};
use crate::error::Result;

/// The name of the binary, as it stands in every text.
pub(super) const NAME: &str = "gantry-runtime";

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Arguments, as the help shows them.
    pub(super) usage: &'static str,
    /// One line, without a full stop.
    pub(super) about: &'static str,
    /// Paragraphs for the man page and `--help`, each one line.
    pub(super) more: &'static [&'static str],
    pub(super) flags: &'static [&'static [Flag]],
    /// Fewest and most arguments.
    pub(super) arguments: (usize, usize),
    /// What the first argument is, for completions.
    pub(super) first: First,
    /// Whatever follows the first argument belongs to a program and is no flag of ours.
    pub(super) ends_with_program: bool,
    /// It reads its own flags.
    pub(super) raw: bool,
    pub(super) run: fn(&Call) -> Result<i32>,
}

/// What the first argument of a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// There is none, or it is a name that does not exist yet.
    Free,
    /// A container that exists.
    Container,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A directory.
    Directory,
}

const fn command(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(&Call) -> Result<i32>,
) -> Command {
    Command {
        name,
        usage,
        about,
        more: &[],
        flags: &[],
        arguments: (1, 1),
        first: First::Container,
        ends_with_program: false,
        raw: false,
        run,
    }
}

/// The shells that `completion` writes for.
pub(super) const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// The commands, in the order of the help.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        flags: &[flags::CREATE],
        first: First::Free,
        more: &[
            "Makes a container out of a bundle: a directory with config.json, and mostly with the root filesystem. Its \
             program is not executed before start.",
            "The process stays a child of the caller, who reaps it.",
        ],
        ..command("create", "ID", "make a container", lifecycle::create)
    },
    Command {
        more: &["Lets a container that create made execute its program, then runs its poststart hooks."],
        ..command("start", "ID", "let a created container run its program", lifecycle::start)
    },
    Command {
        flags: &[flags::CREATE, flags::RUN],
        first: First::Free,
        more: &[
            "create and start in one. Without --detach it passes signals on to the program, waits for its end, deletes \
             the container and exits as the program did: with its code, or with 128 and the number of the signal that \
             ended it.",
        ],
        ..command("run", "ID", "make a container and run its program", lifecycle::run)
    },
    Command {
        flags: &[flags::EXEC],
        arguments: (1, usize::MAX),
        ends_with_program: true,
        more: &[
            "What is not given by flags is taken from the process of the container's config.json. Flags stand before \
             ID; what follows it belongs to the program.",
            "Exits as the program did, or with 255 where it could not be executed.",
        ],
        ..command("exec", "ID PROGRAM [ARGUMENT...]", "run another program in a container", exec::exec)
    },
    Command {
        flags: &[flags::KILL],
        arguments: (1, 2),
        ends_with_program: true,
        more: &["SIGNAL is a number or a name with or without SIG, in any case: 9, KILL, sigkill, RTMIN+1."],
        ..command("kill", "ID [SIGNAL]", "send a signal to a container (default: SIGTERM)", lifecycle::kill)
    },
    Command {
        flags: &[flags::DELETE],
        more: &[
            "Removes the cgroups and the state of a container that has stopped or was never started, then runs its \
             poststop hooks. It also removes what a create that was killed half-way has left.",
        ],
        ..command("delete", "ID", "remove a container", lifecycle::delete)
    },
    command("pause", "ID", "freeze every process of a container", lifecycle::pause),
    command("resume", "ID", "let a paused container go on", lifecycle::resume),
    Command {
        more: &["Prints JSON: the state of the runtime-spec, with rootfs and created beside it."],
        ..command("state", "ID", "print the state of a container", inspect::state)
    },
    Command {
        flags: &[flags::LIST],
        arguments: (0, 0),
        first: First::Free,
        more: &["Lists the containers below --root."],
        ..command("list", "", "list containers", inspect::list)
    },
    Command {
        flags: &[flags::PS],
        arguments: (1, usize::MAX),
        ends_with_program: true,
        more: &[
            "A table is made by ps(1), with the options given after ID (default: -ef), out of which the lines of other \
             processes are left.",
        ],
        ..command("ps", "ID [PS-OPTION...]", "list the processes of a container", inspect::ps)
    },
    Command {
        flags: &[flags::EVENTS],
        more: &[
            "Prints one line of JSON an event: statistics from time to time, and when the container ran out of memory.",
        ],
        ..command("events", "ID", "print statistics and events of a container", events::events)
    },
    Command {
        flags: &[flags::UPDATE],
        more: &["Changes the limits of a container that exists. What no flag names stays."],
        ..command("update", "ID", "change the limits of a container", update::update)
    },
    Command {
        flags: &[flags::CHECKPOINT],
        more: &[
            "Saves a running container to disk with criu(8), and ends it unless --leave-running or --pre-dump is given.",
        ],
        ..command("checkpoint", "ID", "save a running container to disk", checkpoint::checkpoint)
    },
    Command {
        flags: &[flags::RESTORE],
        first: First::Free,
        more: &[
            "Makes a container of what checkpoint saved, with criu(8), and lets it go on. Whatever came back with more rights \
             than config.json gives is killed before it runs. criu 3.17 does not restore no_new_privs: restore warns then.",
        ],
        ..command("restore", "ID", "bring a saved container back", checkpoint::restore)
    },
    Command {
        flags: &[flags::SPEC],
        arguments: (0, 0),
        first: First::Free,
        more: &["The file is something to start from: it runs sh in rootfs. It is not written over an existing one."],
        ..command("spec", "", "write a config.json to start from", inspect::spec)
    },
    Command {
        arguments: (0, 0),
        first: First::Free,
        more: &["Prints JSON as the runtime-spec's features.md describes it."],
        ..command("features", "", "print what this runtime can do", features::features)
    },
    Command {
        arguments: (0, usize::MAX),
        first: First::Free,
        raw: true,
        ..command("monitor", "--dir DIR", "look after the containers of one pod", lifecycle::monitor)
    },
    Command {
        first: First::OneOf(SHELLS),
        more: &["Prints a script to standard output, to be sourced or put where the shell looks for completions."],
        ..command("completion", "bash|zsh|fish", "print completions for a shell", documents::completion)
    },
    Command {
        first: First::Directory,
        more: &["Writes gantry-runtime.8 and a page for each command."],
        ..command("man", "DIR", "write the man pages", documents::man)
    },
];
