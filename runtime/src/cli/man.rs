//! Man pages out of the table: one of the whole, one of each command (man-pages(7), groff_man(7)).

use std::fmt::Write as _;

use super::flags::{Flag, GLOBAL, PRINT, Takes};
use super::help;
use super::table::{COMMANDS, Command, NAME};
use crate::lifecycle::DEFAULT_ROOT;

/// Every page: file name and text.
pub(super) fn pages() -> Vec<(String, String)> {
    let of_commands = COMMANDS.iter().map(|command| (format!("{NAME}-{}.8", command.name), of(command)));
    std::iter::once((format!("{NAME}.8"), overview())).chain(of_commands).collect()
}

fn heading(title: &str, about: &str) -> String {
    let mut text = String::from(".\\\" Made of the table of commands and flags by `gantry-runtime man`.\n");
    let _ = writeln!(text, ".TH {} 8 \"\" \"Gantry {}\"", escape(&title.to_uppercase()), env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, ".SH NAME\n{} \\- {}", escape(title), escape(about));
    text
}

fn overview() -> String {
    let mut text = heading(NAME, "run containers as the OCI runtime specification describes them");
    let _ = writeln!(text, ".SH SYNOPSIS\n.B {}", escape(NAME));
    text.push_str("[\\fIFLAG\\fR...] \\fICOMMAND\\fR [\\fIFLAG\\fR...] [\\fIARGUMENT\\fR...]\n.SH DESCRIPTION\n");
    paragraphs(
        &mut text,
        &[
            "Makes, runs and removes containers: processes isolated with namespaces, cgroups, capabilities and seccomp. \
             Commands, flags, exit codes and JSON are those of runc, in whose place it can be called.",
            "A container is made out of a bundle: a directory with config.json and, mostly, with a root filesystem. \
             The name of a container, ID, is one that no other below the same --root has: letters, digits, _, +, - and \
             the full stop.",
            "Flags may be written with one dash or two, with their value after a space or after an equals sign, and \
             stand before or after the arguments; -- ends them. The flags below may stand before or after the command.",
        ],
    );
    text.push_str(".SH COMMANDS\n");
    for command in COMMANDS {
        let page = format!("{NAME}-{}", command.name);
        let about = format!("{}.", help::capital(command.about));
        let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}\nSee", command.name, escape(&about));
        let _ = writeln!(text, ".BR {} (8).", escape(&page));
    }
    text.push_str(".TP\n\\fBhelp\\fR [\\fICOMMAND\\fR]\nPrint help on a command, or on all.\n.SH OPTIONS\n");
    options(&mut text, GLOBAL.iter().chain(PRINT));
    text.push_str(".SH EXIT STATUS\n");
    paragraphs(
        &mut text,
        &["0 on success, 3 for an unknown command, 1 for every other failure; exec fails with 255. run and exec \
           without --detach exit as their program did."],
    );
    text.push_str(".SH ENVIRONMENT\n");
    items(
        &mut text,
        &[
            (
                "LISTEN_FDS",
                "Number of descriptors from 3 on that are handed down in addition to those of --preserve-fds.",
            ),
            ("XDG_RUNTIME_DIR", "For a caller who is not root: the default of --root is gantry/runtime in it."),
        ],
    );
    text.push_str(".SH FILES\n");
    items(
        &mut text,
        &[(DEFAULT_ROOT, "The default of --root."), ("config.json", "In the bundle: the container's configuration.")],
    );
    text.push_str(".SH SEE ALSO\n");
    let all: Vec<String> =
        COMMANDS.iter().map(|command| format!(".BR {} (8)", escape(&format!("{NAME}-{}", command.name)))).collect();
    let _ = writeln!(text, "{}", all.join(",\n"));
    text
}

fn of(command: &'static Command) -> String {
    let title = format!("{NAME}-{}", command.name);
    let mut text = heading(&title, command.about);
    let _ = writeln!(text, ".SH SYNOPSIS\n.B {} {}\n[\\fIFLAG\\fR...]", escape(NAME), command.name);
    if !command.usage.is_empty() {
        let _ = writeln!(text, "{}", escape(command.usage));
    }
    text.push_str(".SH DESCRIPTION\n");
    let about = format!("{}.", help::capital(command.about));
    paragraphs(&mut text, if command.more.is_empty() { std::slice::from_ref(&about) } else { &[] });
    paragraphs(&mut text, command.more);
    if command.raw {
        let _ =
            writeln!(text, ".SH OPTIONS\nThey are listed by\n.BR \"{} {} \\-\\-help\" .", escape(NAME), command.name);
    } else {
        text.push_str(".SH OPTIONS\n");
        options(&mut text, help::own(command).chain(&PRINT[..1]));
        let _ = writeln!(text, ".PP\nFlags of every command are in\n.BR {} (8).", escape(NAME));
    }
    let _ = writeln!(text, ".SH SEE ALSO\n.BR {} (8)", escape(NAME));
    text
}

fn options<'a>(text: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    for flag in flags.filter(|flag| !flag.hidden) {
        let _ = write!(text, ".TP\n\\fB\\-\\-{}\\fR", escape(flag.long));
        if let Some(short) = flag.short {
            let _ = write!(text, ", \\fB\\-{short}\\fR");
        }
        if flag.takes != Takes::Nothing {
            let _ = write!(text, " \\fI{}\\fR", escape(flag.place));
        }
        let _ = writeln!(text, "\n{}.", escape(&help::capital(&help::about(flag))));
    }
}

fn items(text: &mut String, items: &[(&str, &str)]) {
    for (name, about) in items {
        let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}", escape(name), escape(about));
    }
}

fn paragraphs(text: &mut String, paragraphs: &[impl AsRef<str>]) {
    for paragraph in paragraphs {
        let _ = writeln!(text, ".PP\n{}", escape(paragraph.as_ref()));
    }
}

/// Text that roff prints as it is: dashes stay dashes, no line is taken for a request.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command as Process, Stdio};

    #[test]
    fn every_page_names_every_flag_of_its_command() {
        let pages = pages();
        assert_eq!(pages.len(), COMMANDS.len() + 1);
        for (command, (name, text)) in COMMANDS.iter().zip(&pages[1..]) {
            for flag in help::own(command) {
                let told = text.contains(&format!("\\fB\\-\\-{}\\fR", escape(flag.long)));
                assert_eq!(told, !flag.hidden, "{name} --{}", flag.long);
            }
        }
        for flag in GLOBAL.iter().chain(PRINT).filter(|flag| !flag.hidden) {
            assert!(pages[0].1.contains(&format!("\\-\\-{}", escape(flag.long))), "--{}", flag.long);
        }
    }

    #[test]
    fn groff_has_nothing_to_say_about_any_page() {
        for (name, text) in pages() {
            let started = Process::new("groff")
                .args(["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3", "-z"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let Ok(mut groff) = started else {
                eprintln!("SKIPPED: needs groff to check man pages");
                return;
            };
            groff.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let ended = groff.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(ended.status.success() && said.is_empty(), "{name}: {said}\n{text}");
        }
    }
}
