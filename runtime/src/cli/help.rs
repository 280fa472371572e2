//! `--help`, `--version` and the usage lines, out of the table.

use std::fmt::Write as _;

use super::flags::{Flag, GLOBAL, PRINT, Takes};
use super::table::{COMMANDS, Command, NAME};

/// Widest line of a help text.
const WIDTH: usize = 100;
/// Column at which the words about a flag begin.
const COLUMN: usize = 36;

/// Where help on a command is.
pub(super) fn hint(command: Option<&Command>) -> String {
    command.map_or_else(|| format!("{NAME} --help"), |command| format!("{NAME} {} --help", command.name))
}

/// How a command is called.
pub(super) fn usage(command: &Command) -> String {
    format!("{NAME} {} [FLAG...] {}", command.name, command.usage).trim_end().to_owned()
}

/// `--version`.
pub(super) fn version() -> String {
    format!("{NAME} version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), crate::spec::VERSION)
}

/// `--help` without a command.
pub(super) fn overview() -> String {
    let mut text = format!("Usage: {NAME} [FLAG...] COMMAND [FLAG...] [ARGUMENT...]\n\n");
    text.push_str("Runs containers as the OCI runtime specification describes them.\n\nCommands:\n");
    for command in COMMANDS {
        let _ = writeln!(text, "  {:<12} {}", command.name, command.about);
    }
    let _ = writeln!(text, "  {:<12} print help on a command", "help");
    text.push_str("\nFlags:\n");
    flags(&mut text, GLOBAL.iter().chain(PRINT));
    let _ = writeln!(text, "\n{NAME} COMMAND --help tells more about a command.");
    text
}

/// `--help` of a command.
pub(super) fn of(command: &'static Command) -> String {
    let mut text = format!("Usage: {}\n\n{}.\n", usage(command), capital(command.about));
    for paragraph in command.more {
        text.push('\n');
        wrap(&mut text, paragraph, 0, 0);
    }
    text.push_str("\nFlags:\n");
    flags(&mut text, own(command).chain(&PRINT[..1]));
    text.push_str("\nFlags of every command:\n");
    flags(&mut text, GLOBAL.iter());
    text
}

/// Every flag that is the command's own.
pub(super) fn own(command: &'static Command) -> impl Iterator<Item = &'static Flag> {
    command.flags.iter().flat_map(|list| list.iter())
}

/// The same sentence with a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// What a flag is about, with what the table knows beside it.
pub(super) fn about(flag: &Flag) -> String {
    if flag.repeats { format!("{}; may be repeated", flag.about) } else { flag.about.to_owned() }
}

fn flags<'a>(text: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    for flag in flags.filter(|flag| !flag.hidden) {
        let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let value = if flag.takes == Takes::Nothing { String::new() } else { format!(" {}", flag.place) };
        let head = format!("  {short}--{}{value}", flag.long);
        let _ = write!(text, "{head:<COLUMN$}");
        if head.len() >= COLUMN {
            let _ = write!(text, "\n{:COLUMN$}", "");
        }
        wrap(text, &about(flag), COLUMN, COLUMN);
    }
}

/// Appends words in lines of at most `WIDTH`; the first line has `used` columns already, the others get `indent`.
fn wrap(text: &mut String, words: &str, used: usize, indent: usize) {
    let mut column = used;
    for (at, word) in words.split(' ').enumerate() {
        if at > 0 && column + 1 + word.len() > WIDTH {
            let _ = write!(text, "\n{:indent$}", "");
            column = indent;
        } else if at > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_a_line_of_help_and_no_line_is_too_wide() {
        for command in COMMANDS {
            let text = of(command);
            for flag in own(command).chain(GLOBAL) {
                assert_eq!(
                    text.contains(&format!("--{}", flag.long)),
                    !flag.hidden,
                    "{} --{}",
                    command.name,
                    flag.long
                );
            }
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        }
        let text = overview();
        assert!(COMMANDS.iter().all(|command| text.contains(&format!("\n  {} ", command.name))), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn no_flag_is_there_twice() {
        for command in COMMANDS {
            let all: Vec<&Flag> = own(command).chain(GLOBAL).chain(PRINT).collect();
            // `spec --rootless` and `--rootless true spec` are runc's.
            let spec = |flag: &Flag| command.name == "spec" && flag.long == "rootless";
            for (at, flag) in all.iter().enumerate().filter(|(_, flag)| !spec(flag)) {
                let twin = |other: &&Flag| other.long == flag.long || flag.short.is_some() && other.short == flag.short;
                assert!(!all[..at].iter().any(twin), "{} --{}", command.name, flag.long);
            }
        }
    }
}
