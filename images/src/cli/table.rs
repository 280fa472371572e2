//! Every command and flag of `gantry image` as one table: it feeds the parser and the help, so that neither can forget one.
//! Names are those of podman, nerdctl and crictl where these have the thing.

/// A flag: its letter, its name, its value as help shows it, what it does. Without a value it is a switch, which also
/// takes `=true` and `=false`.
pub(super) struct Flag(pub &'static str, pub &'static str, pub &'static str, pub &'static str);

/// A command.
pub(super) struct Command {
    pub name: &'static str,
    /// Other tools' names for it.
    pub aliases: &'static [&'static str],
    pub arguments: &'static str,
    pub what: &'static str,
    pub flags: &'static [Flag],
    /// What help says at its end.
    pub more: &'static str,
}

/// Flags of every command; those with a value may also stand before the command.
pub(super) const COMMON: &[Flag] = &[
    Flag("", "root", "DIR", "the store; below the node's data directory by default"),
    Flag("", "json", "", "print JSON, the same as --output json"),
    Flag("h", "help", "", "print this help"),
];

const OUTPUT: Flag = Flag("o", "output", "FORMAT", "json, or table");
const QUIET_ID: Flag = Flag("q", "quiet", "", "print only ids");
const PLATFORM: Flag =
    Flag("", "platform", "OS/ARCH[/VARIANT]", "another platform than this machine's, as linux/arm/v7");

const MARK: &str = "a share of the filesystem (80%) or the store's size (20GiB)";

/// In the order of help.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "pull",
        aliases: &[],
        arguments: "REFERENCE...",
        what: "fetch images from their registries, checked and unpacked",
        flags: &[
            Flag("q", "quiet", "", "no progress, print only ids"),
            PLATFORM,
            Flag(
                "",
                "policy",
                "WHEN",
                "always (the default), missing: only what is not here, newer: what is here will do if the registry cannot be reached, never",
            ),
            Flag("", "creds", "USER[:PASSWORD]", "credentials; without a password it is read from standard input"),
            Flag("u", "user", "USER", "the same without a password"),
            Flag(
                "",
                "authfile",
                "FILE",
                "logins, as in docker's config.json and podman's auth.json; by default those of gantry.toml, then the user's own",
            ),
            Flag("", "hosts-dir", "DIR[:DIR]", "registries' settings in containerd's layout, HOST/hosts.toml"),
            Flag("", "tls-verify", "", "check the certificates of these registries; --tls-verify=false does not"),
            Flag("", "plain-http", "", "speak plain http with these registries"),
            Flag("", "pin", "", "protect the images from garbage collection"),
            OUTPUT,
        ],
        more: "A name without a host is one of docker.io, without a path of docker.io/library, without tag or digest :latest.\nProgress goes to standard error, ids to standard output. Ctrl-C is safe: the next pull goes on from there.",
    },
    Command {
        name: "ls",
        aliases: &["list", "images"],
        arguments: "[NAME...]",
        what: "list images, or those with these names",
        flags: &[
            QUIET_ID,
            Flag("", "digests", "", "show the digests of manifests"),
            Flag("", "no-trunc", "", "show ids in full"),
            Flag(
                "f",
                "filter",
                "KEY=VALUE",
                "reference=PATTERN (with * and ?), dangling=BOOL, pinned=BOOL, used=BOOL, artifact=BOOL; all must hold",
            ),
            OUTPUT,
        ],
        more: "SIZE is what was transferred, as in crictl; `df` shows what is on the disk.",
    },
    Command {
        name: "inspect",
        aliases: &[],
        arguments: "NAME...",
        what: "print everything known about images, as a JSON array",
        flags: &[],
        more: "",
    },
    Command {
        name: "tag",
        aliases: &[],
        arguments: "NAME REFERENCE...",
        what: "give an image more names; a name moves if another image has it",
        flags: &[OUTPUT],
        more: "",
    },
    Command {
        name: "rm",
        aliases: &["rmi", "remove", "delete"],
        arguments: "NAME...",
        what: "remove names, and with its last name an image",
        flags: &[
            Flag(
                "f",
                "force",
                "",
                "also if containers use it (they keep what they have mounted), by id with several tags, or if it is not here",
            ),
            Flag("a", "all", "", "all images that are not in use"),
            OUTPUT,
        ],
        more: "",
    },
    Command {
        name: "import",
        aliases: &["load"],
        arguments: "PATH|-",
        what: "read images: OCI layout or archive, docker archive, also compressed with gzip or zstd; - is standard input",
        flags: &[
            Flag("n", "name", "REFERENCE", "the name, if there is one image"),
            PLATFORM,
            Flag("q", "quiet", "", "no progress, print only ids"),
            OUTPUT,
        ],
        more: "For a root filesystem without an image around it see `gantry image build`.",
    },
    Command {
        name: "export",
        aliases: &["save"],
        arguments: "NAME...",
        what: "write images into one archive or layout",
        flags: &[
            Flag("o", "output", "FILE|-", "where to; - is standard output (the default if that is no terminal)"),
            Flag("", "format", "FORM", "oci-archive (the default), docker-archive, oci-dir"),
        ],
        more: "An image is written under the tag it was asked for by, else under all. The store keeps one platform of an image,\nand that is what is written. podman, skopeo, docker and ctr read both kinds of archive.",
    },
    Command {
        name: "mount",
        aliases: &[],
        arguments: "[NAME [DIR]]",
        what: "mount an image to look into it; without a name: list mounts",
        flags: &[
            Flag("w", "writable", "", "also to be written to; what is written is lost with the unmount"),
            Flag("", "sub-path", "PATH", "only this directory or file of the image"),
            OUTPUT,
        ],
        more: "Without DIR a directory below the store is made, and printed. The image is in use until `gantry image unmount`.",
    },
    Command {
        name: "unmount",
        aliases: &["umount"],
        arguments: "NAME|DIR...",
        what: "undo `mount`",
        flags: &[Flag("a", "all", "", "all mounts"), OUTPUT],
        more: "",
    },
    Command {
        name: "prune",
        aliases: &[],
        arguments: "",
        what: "remove images without a tag, abandoned downloads, and content that nothing needs",
        flags: &[
            Flag("a", "all", "", "all images that are not in use, not only those without a tag"),
            Flag("", "older-than", "AGE", "images that were not used for so long, as in 36h or 7d"),
            Flag("", "keep-newer-than", "AGE", "none that was used or pulled more recently"),
            Flag("", "down-to", "MARK", MARK),
            Flag("n", "dry-run", "", "only show what would be removed, and what that would free"),
            Flag("f", "force", "", "accepted for those who are used to it; nothing is asked"),
            OUTPUT,
        ],
        more: "Pinned images, images in use and pulls under way are spared. The least recently used go first. What becomes free is\nexact: content that images share counts with the last of them.",
    },
    Command {
        name: "df",
        aliases: &["usage"],
        arguments: "",
        what: "show the space that images and containers take",
        flags: &[
            Flag("v", "verbose", "", "each image: its size on disk, and what removing it alone would free"),
            OUTPUT,
        ],
        more: "",
    },
    Command {
        name: "verify",
        aliases: &["check"],
        arguments: "",
        what: "compare blobs with their digests and unpacked layers, file by file, with their blobs",
        flags: &[
            Flag("", "repair", "", "fetch again what is damaged, unpack again what differs; nothing else is touched"),
            Flag("", "creds", "USER[:PASSWORD]", "credentials; without a password it is read from standard input"),
            Flag("q", "quiet", "", "no progress"),
            OUTPUT,
        ],
        more: "Damage is only told, and the exit code is 1, unless --repair brings everything back. A running container keeps\nthe files that it has.\n",
    },
    Command {
        name: "build",
        aliases: &[],
        arguments: "TREE",
        what: "make an OCI layout of one layer from a directory tree",
        flags: &[
            Flag("n", "name", "REFERENCE", "the image's name"),
            Flag("o", "output", "DIR", "the layout to write"),
            Flag("", "env", "NAME=VALUE", "a variable; may be repeated"),
            Flag("", "entrypoint", "WORD", "a word of the entry point; may be repeated"),
            Flag("", "cmd", "WORD", "a word of the default arguments; may be repeated"),
            Flag("", "label", "NAME=VALUE", "a label; may be repeated"),
            Flag("", "port", "N/tcp", "a port; may be repeated"),
            Flag("", "workdir", "DIR", "where it runs"),
            Flag("", "user", "USER", "who runs it"),
            Flag("", "stop-signal", "SIGNAL", "how it is asked to stop"),
            PLATFORM,
        ],
        more: "",
    },
];

/// The command of this name.
pub(super) fn command(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || command.aliases.contains(&name))
}

/// Help for all.
pub(super) fn help() -> String {
    let mut text =
        "Look after the image store.\n\nUsage: gantry image COMMAND [FLAGS] [ARGUMENTS]\n\nCommands:\n".to_owned();
    for command in COMMANDS {
        text += &format!("  {:8} {}\n", command.name, command.what);
    }
    text += "\nFlags of every command:\n";
    text += &flags(COMMON);
    text + "\n`gantry image COMMAND --help` tells more. It exits with 0, with 1 after a failure, with 2 for a wrong command line.\n"
}

/// Help for one.
pub(super) fn help_of(command: &Command) -> String {
    let Command { name, aliases, arguments, what, more, .. } = command;
    let mut first = what.chars();
    let what: String = first.next().into_iter().flat_map(char::to_uppercase).chain(first).collect();
    let mut text = format!("{what}.\n\nUsage: {}\n", format!("gantry image {name} [FLAGS] {arguments}").trim_end());
    if !aliases.is_empty() {
        text += &format!("Also: {}\n", aliases.join(", "));
    }
    text += "\nFlags:\n";
    text += &flags(command.flags);
    text += &flags(COMMON);
    if !more.is_empty() {
        text += &format!("\n{more}\n");
    }
    text
}

const COLUMN: usize = 34;
const WIDTH: usize = 100;

fn flags(flags: &[Flag]) -> String {
    let mut text = String::new();
    for Flag(short, long, value, what) in flags {
        let short = if short.is_empty() { "    ".to_owned() } else { format!("-{short}, ") };
        let left = format!("  {short}--{long} {value}");
        let mut line = format!("{:COLUMN$}", left.trim_end());
        if line.trim_end().len() >= COLUMN {
            line.push_str("  ");
        }
        for word in what.split(' ') {
            if line.len() + word.len() > WIDTH {
                text += &format!("{}\n", line.trim_end());
                line = " ".repeat(COLUMN);
            }
            line += &format!("{word} ");
        }
        text += &format!("{}\n", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_used_once() {
        let mut names: Vec<&str> = COMMANDS.iter().flat_map(|c| c.aliases.iter().copied().chain([c.name])).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for command in COMMANDS {
            let all = || command.flags.iter().chain(COMMON);
            let mut seen = std::collections::BTreeSet::new();
            for Flag(short, long, ..) in all() {
                assert!(seen.insert(*long) && (short.is_empty() || seen.insert(*short)), "{} --{long}", command.name);
            }
        }
    }

    #[test]
    fn help_fits_a_terminal_and_names_everything() {
        for command in COMMANDS {
            let text = help_of(command);
            assert!(command.flags.iter().all(|Flag(_, long, ..)| text.contains(&format!("--{long}"))));
            assert!(text.lines().all(|line| line.chars().count() <= 122), "{text}");
            assert!(help().contains(command.name));
        }
        let expect = "Print everything known about images, as a JSON array.\n\n\
            Usage: gantry image inspect [FLAGS] NAME...\n\nFlags:\n\
            \x20     --root DIR                  the store; below the node's data directory by default\n\
            \x20     --json                      print JSON, the same as --output json\n\
            \x20 -h, --help                      print this help\n";
        assert_eq!(help_of(command("inspect").unwrap()), expect);
    }
}
