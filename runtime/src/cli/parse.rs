//! Arguments to a [`Call`], and the help, both out of the table.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::table::{COMMANDS, Command, Flag, GLOBAL};
use crate::error::{Error, Kind, Result};
use crate::lifecycle::DEFAULT_ROOT;

/// What the arguments ask for.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A command.
    Call(Call),
    /// Help or version.
    Print(String),
}

/// A command line that makes no sense.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) sentence: String,
    pub(super) code: i32,
}

/// A command with its flags and arguments.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: &'static Command,
    flags: Vec<(&'static str, OsString)>,
    arguments: Vec<OsString>,
}

impl Call {
    /// Whether a switch was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|(flag, _)| *flag == name)
    }

    /// The value of a flag; the last one counts.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of a flag as a path.
    pub(super) fn path(&self, name: &str) -> Option<&Path> {
        self.value(name).map(Path::new)
    }

    /// Every value of a flag that may be repeated, as text.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>> {
        self.flags.iter().filter(|(flag, _)| *flag == name).map(|(_, value)| text(name, value)).collect()
    }

    /// The value of a flag as a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let parsed = text(name, value)?.parse();
        parsed
            .map(Some)
            .map_err(|_| Error::new(Kind::Invalid, format!("--{name}: {} is not a number", value.display())))
    }

    /// The container.
    pub(super) fn id(&self) -> Result<&str> {
        self.arguments.first().map_or(Ok(""), |id| text("id", id))
    }

    /// What follows the container.
    pub(super) fn rest(&self) -> Result<Vec<&str>> {
        self.arguments.iter().skip(1).map(|argument| text("argument", argument)).collect()
    }

    /// Everything after a command that reads its own flags.
    pub(super) fn raw(&self) -> &[OsString] {
        &self.arguments
    }

    /// Where state lives.
    pub(super) fn root(&self) -> PathBuf {
        self.path("root").unwrap_or(Path::new(DEFAULT_ROOT)).to_owned()
    }
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str> {
    value.to_str().ok_or_else(|| Error::new(Kind::Invalid, format!("--{name}: {} is not UTF-8", value.display())))
}

/// Reads the arguments without the program's name.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Refusal> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut flags = Vec::new();
    let command = loop {
        match next(&mut parser)? {
            None => return Ok(Parsed::Print(help())),
            Some(Token::Flag(flag)) => take(&mut parser, &[GLOBAL], &flag, None, &mut flags)?,
            Some(Token::Word(word)) => {
                let found = COMMANDS.iter().find(|command| word == command.name);
                break found.ok_or_else(|| Refusal {
                    sentence: format!("unknown command {}; gantry-runtime --help lists them", word.display()),
                    code: 3,
                })?;
            }
        }
        if let Some(print) = printable(&flags, None) {
            return Ok(print);
        }
    };
    let mut arguments = Vec::new();
    if command.raw {
        arguments.extend(parser.raw_args().map_err(|why| refuse(why.to_string()))?);
    }
    while let Some(token) = next(&mut parser)? {
        match token {
            Token::Flag(flag) => take(&mut parser, command.flags, &flag, Some(command), &mut flags)?,
            Token::Word(word) => {
                arguments.push(word);
                if command.ends_with_program {
                    let rest = parser.raw_args().map_err(|why| refuse(why.to_string()))?;
                    arguments.extend(rest);
                    break;
                }
            }
        }
    }
    if let Some(print) = printable(&flags, Some(command)) {
        return Ok(print);
    }
    check_count(command, arguments.len())?;
    if flags.iter().any(|(flag, _)| *flag == "systemd-cgroup") {
        return Err(refuse("--systemd-cgroup: not supported yet; leave it out to use cgroupfs".to_owned()));
    }
    Ok(Parsed::Call(Call { command, flags, arguments }))
}

fn refuse(sentence: String) -> Refusal {
    Refusal { sentence, code: 1 }
}

fn check_count(command: &Command, count: usize) -> Result<(), Refusal> {
    let (fewest, most) = command.arguments;
    if (fewest..=most).contains(&count) {
        return Ok(());
    }
    let problem = if count < fewest { "too few" } else { "too many" };
    Err(refuse(format!("{}: {problem} arguments; usage: {}", command.name, usage(command))))
}

enum Token {
    Flag(String),
    Word(OsString),
}

fn next(parser: &mut lexopt::Parser) -> Result<Option<Token>, Refusal> {
    use lexopt::Arg;
    match parser.next().map_err(|why| refuse(why.to_string()))? {
        None => Ok(None),
        Some(Arg::Long(name)) => Ok(Some(Token::Flag(name.to_owned()))),
        Some(Arg::Short(letter)) => Ok(Some(Token::Flag(letter.to_string()))),
        Some(Arg::Value(word)) => Ok(Some(Token::Word(word))),
    }
}

/// Looks a flag up and reads its value. Single dashes before long names are not for us: nobody who calls runc uses them.
fn take(
    parser: &mut lexopt::Parser,
    lists: &[&'static [Flag]],
    name: &str,
    command: Option<&Command>,
    flags: &mut Vec<(&'static str, OsString)>,
) -> Result<(), Refusal> {
    let is = |flag: &&Flag| flag.long == name || flag.short.is_some_and(|short| name == short.encode_utf8(&mut [0; 4]));
    let Some(flag) = lists.iter().flat_map(|list| list.iter()).find(is) else {
        let dashes = if name.chars().count() == 1 { "-" } else { "--" };
        let of = command.map_or(String::new(), |command| format!(" of {}", command.name));
        return Err(refuse(format!("unknown flag {dashes}{name}{of}; see --help")));
    };
    let value = match flag.value {
        Some(_) => parser.value().map_err(|_| refuse(format!("--{}: needs a value", flag.long)))?,
        None => match parser.optional_value() {
            Some(value) if value == "false" => return Ok(()),
            Some(value) if value != "true" => {
                return Err(refuse(format!("--{}: takes no value, not {}", flag.long, value.display())));
            }
            _ => OsString::new(),
        },
    };
    flags.push((flag.long, value));
    Ok(())
}

fn printable(flags: &[(&'static str, OsString)], command: Option<&Command>) -> Option<Parsed> {
    let has = |name| flags.iter().any(|(flag, _)| *flag == name);
    if has("help") {
        return Some(Parsed::Print(command.map_or_else(help, help_of)));
    }
    has("version").then(|| {
        Parsed::Print(format!("gantry-runtime version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), crate::spec::VERSION))
    })
}

fn usage(command: &Command) -> String {
    format!("gantry-runtime {} [FLAG...] {}", command.name, command.usage).trim_end().to_owned()
}

fn help() -> String {
    let mut text = String::from("Usage: gantry-runtime [FLAG...] COMMAND [FLAG...] [ARGUMENT...]\n\nCommands:\n");
    for command in COMMANDS {
        let _ = writeln!(text, "  {:<12} {}", command.name, command.about);
    }
    text.push_str("\nFlags:\n");
    flags_of(&mut text, GLOBAL);
    text
}

fn help_of(command: &Command) -> String {
    let mut text = format!("Usage: {}\n\n{}\n\nFlags:\n", usage(command), command.about);
    command.flags.iter().for_each(|list| flags_of(&mut text, list));
    text
}

fn flags_of(text: &mut String, flags: &[Flag]) {
    for flag in flags {
        let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
        let _ = writeln!(text, "  {short}{:<30} {}", format!("--{}{value}", flag.long), flag.about);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        match parse(line.split(' ').map(OsString::from)) {
            Ok(Parsed::Call(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(line: &str) -> (String, i32) {
        let refusal = parse(line.split(' ').map(OsString::from)).unwrap_err();
        (refusal.sentence, refusal.code)
    }

    #[test]
    fn global_flags_come_first_and_the_last_value_counts() {
        let call = call("--root /a --root=/b --log-format json create --bundle /c web");
        assert_eq!(call.root(), Path::new("/b"));
        assert_eq!(call.path("bundle"), Some(Path::new("/c")));
        assert_eq!(call.id().unwrap(), "web");
    }

    #[test]
    fn flags_after_the_container_belong_to_the_program_of_exec() {
        let exec = call("exec -t -e A=1 --env B=2 web ls -l --color");
        assert!(exec.has("tty"));
        assert_eq!(exec.texts("env").unwrap(), ["A=1", "B=2"]);
        assert_eq!(exec.rest().unwrap(), ["ls", "-l", "--color"]);
        assert!(call("delete web --force").has("force"));
    }

    #[test]
    fn one_clear_sentence_for_what_is_wrong() {
        let cases = [
            ("frobnicate x", "unknown command frobnicate; gantry-runtime --help lists them", 3),
            ("create --frob x", "unknown flag --frob of create; see --help", 1),
            ("kill", "kill: too few arguments; usage: gantry-runtime kill [FLAG...] ID [SIGNAL]", 1),
            ("state a b", "state: too many arguments; usage: gantry-runtime state [FLAG...] ID", 1),
            ("create x --bundle", "--bundle: needs a value", 1),
            ("--systemd-cgroup create x", "--systemd-cgroup: not supported yet; leave it out to use cgroupfs", 1),
        ];
        for (line, sentence, code) in cases {
            assert_eq!(refusal(line), (sentence.to_owned(), code));
        }
    }

    #[test]
    fn switches_take_true_and_false() {
        assert!(!call("delete --force=false web").has("force"));
        assert!(call("delete --force=true web").has("force"));
    }

    #[test]
    fn every_flag_has_a_line_of_help() {
        for command in COMMANDS {
            let text = help_of(command);
            for flag in command.flags.iter().flat_map(|list| list.iter()) {
                assert!(text.contains(&format!("--{}", flag.long)), "{} --{}", command.name, flag.long);
            }
        }
    }
}
