//! Arguments to a [`Call`], by the table.
//!
//! The rules are those of runc's parser: one dash or two before a long name, a value as `--flag VALUE` or
//! `--flag=VALUE`, flags before and after arguments, flags of all commands before and after the command, `--` ends the
//! flags. Short switches may be put together (`-td`), as crun takes them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::flags::{Flag, GLOBAL, PRINT, Takes};
use super::table::{COMMANDS, Command, NAME};
use super::{help, root, values};
use crate::error::{Error, Kind, Result};

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
    /// What was understood until then, for the log.
    pub(super) given: Given,
}

/// A flag on the command line.
#[derive(Debug)]
struct One {
    flag: &'static Flag,
    /// Of the command, not one of every command.
    own: bool,
    value: OsString,
}

/// Flags with their values, in the order of the command line.
#[derive(Debug, Default)]
pub(super) struct Given(Vec<One>);

impl Given {
    /// The value of a flag of every command; the last one counts. A switch has `true` or `false`.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        self.last(name, false)
    }

    fn last(&self, name: &str, own: bool) -> Option<&OsStr> {
        self.0.iter().rev().find(|one| one.own == own && one.flag.long == name).map(|one| one.value.as_os_str())
    }
}

/// A command with its flags and arguments.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: &'static Command,
    pub(super) given: Given,
    arguments: Vec<OsString>,
    root: PathBuf,
}

impl Call {
    /// Whether a switch is on, or another flag is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    /// Whether systemd is to manage the cgroup of a new container: runc's flag, or crun's.
    pub(super) fn wants_systemd(&self) -> bool {
        self.has("systemd-cgroup") || self.value("cgroup-manager").is_some_and(|value| value == "systemd")
    }

    /// `--rootless` before the command; `None` is auto.
    pub(super) fn wants_rootless(&self) -> Option<bool> {
        let said = self.given.last("rootless", false)?.to_string_lossy();
        values::rootless(&said).flatten()
    }

    /// A switch, if it is given: `--flag=false` is not the same as nothing.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value != "false")
    }

    /// The value of a flag, of this command or else of every command; the last one counts.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        self.given.last(name, help::own(self.command).any(|flag| flag.long == name))
    }

    /// The value of a flag as a path; an empty one is none.
    pub(super) fn path(&self, name: &str) -> Option<&Path> {
        self.value(name).filter(|value| !value.is_empty()).map(Path::new)
    }

    /// The value of a flag as text; an empty one is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.value(name).filter(|value| !value.is_empty()).map(|value| text(name, value)).transpose()
    }

    /// Every value of a flag that may be repeated, as text.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>> {
        let all = self.given.0.iter().filter(|one| one.own && one.flag.long == name);
        all.map(|one| text(name, &one.value)).collect()
    }

    /// The value of a flag as a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>> {
        self.read(name, values::number)
    }

    /// The value of a flag as bytes; -1 stands for no limit.
    pub(super) fn size(&self, name: &str) -> Result<Option<i64>> {
        self.read(name, values::size)
    }

    /// The value of a flag as a time.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.read(name, values::duration)
    }

    fn read<T>(&self, name: &str, read: fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let wrong = || Error::new(Kind::Invalid, format!("--{name}: {:?} cannot be read", value.display()));
        read(text(name, value)?).ok_or_else(wrong).map(Some)
    }

    /// The container.
    pub(super) fn id(&self) -> Result<&str> {
        self.arguments.first().map_or(Ok(""), |id| text("id", id))
    }

    /// The first argument as a path.
    pub(super) fn place(&self) -> &Path {
        self.arguments.first().map_or(Path::new(""), Path::new)
    }

    /// What follows the container.
    pub(super) fn rest(&self) -> Result<Vec<&str>> {
        self.arguments.iter().skip(1).map(|argument| text("argument", argument)).collect()
    }

    /// Everything after a command that reads its own flags.
    pub(super) fn raw(&self) -> &[OsString] {
        &self.arguments
    }

    /// Where state lives, absolute.
    pub(super) fn root(&self) -> PathBuf {
        self.root.clone()
    }
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str> {
    value.to_str().ok_or_else(|| Error::new(Kind::Invalid, format!("--{name}: {} is not UTF-8", value.display())))
}

/// Reads the arguments without the program's name.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Refusal> {
    let mut line = Line { args: args.into_iter().collect::<Vec<_>>().into_iter(), given: Given::default() };
    match line.read() {
        Ok(parsed) => Ok(parsed),
        Err((sentence, code)) => Err(Refusal { sentence, code, given: line.given }),
    }
}

/// A sentence and the exit code that goes with it.
type Wrong = (String, i32);

fn wrong<T>(sentence: impl Into<String>) -> Result<T, Wrong> {
    Err((sentence.into(), 1))
}

/// What is left of the command line, and what has been read.
struct Line {
    args: std::vec::IntoIter<OsString>,
    given: Given,
}

/// One argument, looked at.
enum Token {
    /// Name and, after an equals sign, a value.
    Flag(String, Option<OsString>, bool),
    Word(OsString),
    End,
}

impl Line {
    fn read(&mut self) -> Result<Parsed, Wrong> {
        let command = loop {
            let Some(arg) = self.args.next() else { return Ok(Parsed::Print(help::overview())) };
            match token(arg)? {
                Token::End => {}
                Token::Flag(name, value, long) => self.take(None, &name, value, long)?,
                Token::Word(word) if word == "help" || word == "h" => return self.help(),
                Token::Word(word) => break find(&word)?,
            }
            if let Some(print) = self.printable(None) {
                return Ok(print);
            }
        };
        let arguments = self.arguments(command)?;
        if let Some(print) = self.printable(Some(command)) {
            return Ok(print);
        }
        check_count(command, arguments.len())?;
        values::check_rootless(self.given.value("rootless")).or_else(wrong)?;
        let root = root::find(self.given.value("root")).map_err(|why| (why.to_string(), 1))?;
        let given = std::mem::take(&mut self.given);
        Ok(Parsed::Call(Call { command, given, arguments, root }))
    }

    fn arguments(&mut self, command: &'static Command) -> Result<Vec<OsString>, Wrong> {
        let mut arguments = Vec::new();
        if command.raw {
            arguments.extend(self.args.by_ref());
        }
        while let Some(arg) = self.args.next() {
            if command.ends_with_program && !arguments.is_empty() {
                // A `--` between the container and its program belongs to neither.
                arguments.extend(Some(arg).filter(|arg| arguments.len() > 1 || arg != "--"));
                arguments.extend(self.args.by_ref());
                break;
            }
            match token(arg)? {
                Token::Flag(name, value, long) => self.take(Some(command), &name, value, long)?,
                Token::Word(word) => arguments.push(word),
                Token::End => arguments.extend(self.args.by_ref()),
            }
        }
        Ok(arguments)
    }

    /// Notes a flag, with the next argument as its value if it needs one.
    fn take(
        &mut self,
        command: Option<&'static Command>,
        name: &str,
        value: Option<OsString>,
        long: bool,
    ) -> Result<(), Wrong> {
        let Some((flag, own)) = look_up(command, name) else {
            return self.take_letters(command, name, value, long);
        };
        let value = match (flag.takes, value) {
            (_, Some(value)) => value,
            (Takes::Nothing, None) => OsString::from("true"),
            (_, None) => match self.args.next() {
                Some(value) => value,
                None => return wrong(format!("--{}: needs a value", flag.long)),
            },
        };
        let value = values::check(flag, value).or_else(wrong)?;
        self.given.0.push(One { flag, own, value });
        Ok(())
    }

    /// `-td` is `-t -d`; the last letter may take a value.
    fn take_letters(
        &mut self,
        command: Option<&'static Command>,
        name: &str,
        mut value: Option<OsString>,
        long: bool,
    ) -> Result<(), Wrong> {
        let letters: Vec<char> = name.chars().collect();
        let known = |letter: &char| look_up(command, &letter.to_string());
        let inner = letters.split_last().map_or(&[][..], |(_, inner)| inner);
        let switches = inner.iter().all(|letter| known(letter).is_some_and(|(flag, _)| flag.takes == Takes::Nothing));
        if long || letters.len() < 2 || !switches || letters.last().and_then(known).is_none() {
            let of = command.map_or(String::new(), |command| format!(" of {}", command.name));
            let dashes = if long { "--" } else { "-" };
            return wrong(format!("unknown flag {dashes}{name}{of}; {} lists them", help::hint(command)));
        }
        for (at, letter) in letters.iter().enumerate() {
            let value = if at + 1 == letters.len() { value.take() } else { None };
            self.take(command, &letter.to_string(), value, false)?;
        }
        Ok(())
    }

    fn printable(&self, command: Option<&'static Command>) -> Option<Parsed> {
        let on = |name| self.given.value(name).is_some_and(|value| value == "true");
        if on("help") && !command.is_some_and(|command| command.raw) {
            return Some(Parsed::Print(command.map_or_else(help::overview, help::of)));
        }
        on("version").then(|| Parsed::Print(help::version()))
    }

    /// `help`, and `help COMMAND`.
    fn help(&mut self) -> Result<Parsed, Wrong> {
        match self.args.next() {
            Some(word) if !word.as_bytes().starts_with(b"-") => Ok(Parsed::Print(help::of(find(&word)?))),
            _ => Ok(Parsed::Print(help::overview())),
        }
    }
}

fn find(word: &OsStr) -> Result<&'static Command, Wrong> {
    let found = COMMANDS.iter().find(|command| word == command.name);
    found.ok_or_else(|| (format!("unknown command {}; {NAME} --help lists them", word.display()), 3))
}

/// The flag of a command (`true`), or of all; `--version` only where no command stands before it.
fn look_up(command: Option<&'static Command>, name: &str) -> Option<(&'static Flag, bool)> {
    let own = command.into_iter().flat_map(help::own).map(|flag| (flag, true));
    let print = PRINT.iter().filter(|flag| command.is_none() || flag.long == "help");
    own.chain(GLOBAL.iter().chain(print).map(|flag| (flag, false))).find(|(flag, _)| flag.is(name))
}

fn token(arg: OsString) -> Result<Token, Wrong> {
    let bytes = arg.as_bytes();
    let (long, body) = match bytes {
        b"--" => return Ok(Token::End),
        [b'-', b'-', body @ ..] => (true, body),
        // A negative number, or a lone dash, is no flag.
        [b'-', letter, ..] if letter.is_ascii_alphabetic() => (false, &bytes[1..]),
        _ => return Ok(Token::Word(arg)),
    };
    let (name, value) = match body.iter().position(|byte| *byte == b'=') {
        Some(at) => (&body[..at], Some(OsString::from_vec(body[at + 1..].to_vec()))),
        None => (body, None),
    };
    match std::str::from_utf8(name) {
        Ok(name) => Ok(Token::Flag(name.to_owned(), value, long)),
        Err(_) => wrong(format!("unknown flag {}; {NAME} --help lists them", arg.display())),
    }
}

fn check_count(command: &Command, count: usize) -> Result<(), Wrong> {
    let (fewest, most) = command.arguments;
    if (fewest..=most).contains(&count) {
        return Ok(());
    }
    let problem = if count < fewest { "too few" } else { "too many" };
    wrong(format!("{}: {problem} arguments; usage: {}", command.name, help::usage(command)))
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

    /// As conmon and containerd's shim write it.
    #[test]
    fn systemd_is_asked_for_before_the_command() {
        assert!(call("--root /a --log /l --log-format json --systemd-cgroup create --bundle /b c").wants_systemd());
        assert!(call("--systemd-cgroup --root=/a create --bundle /b --pid-file /p c").wants_systemd());
        assert!(call("--cgroup-manager=systemd run c").wants_systemd());
        assert!(!call("--systemd-cgroup=false run c").wants_systemd());
        assert!(!call("--cgroup-manager cgroupfs run c").wants_systemd());
    }

    #[test]
    fn global_flags_stand_anywhere_and_the_last_value_counts() {
        assert!(!call("--rootless true spec").has("rootless"), "that one is not the flag of spec");
        assert!(call("--rootless=false spec --rootless").has("rootless"));
        let call = call("--root /a --root=/b -log-format json create --bundle /c web -root /d");
        assert_eq!(call.root(), Path::new("/d"));
        assert_eq!(call.path("bundle"), Some(Path::new("/c")));
        assert_eq!(call.id().unwrap(), "web");
    }

    #[test]
    fn one_dash_or_two_and_letters_together() {
        for line in ["exec --tty --detach web ls", "exec -tty -detach web ls", "exec -t -d web ls", "exec -td web ls"] {
            let call = call(line);
            assert!(call.has("tty") && call.has("detach"), "{line}");
        }
        assert_eq!(call("exec -te A=1 web ls").texts("env").unwrap(), ["A=1"]);
        assert_eq!(call("exec -te=A=1 web ls").texts("env").unwrap(), ["A=1"]);
    }

    #[test]
    fn flags_after_the_container_belong_to_the_program_of_exec() {
        let exec = call("exec -t -e A=1 --env B=2 web ls -l --color");
        assert!(exec.has("tty"));
        assert_eq!(exec.texts("env").unwrap(), ["A=1", "B=2"]);
        assert_eq!(exec.rest().unwrap(), ["ls", "-l", "--color"]);
        assert_eq!(call("exec web -- ls -- x").rest().unwrap(), ["ls", "--", "x"]);
        assert_eq!(call("exec -- web ls --help").rest().unwrap(), ["ls", "--help"]);
        assert_eq!(call("kill web -9").rest().unwrap(), ["-9"]);
        assert!(call("delete web --force").has("force"));
    }

    #[test]
    fn values_may_look_like_flags() {
        assert_eq!(call("--log --debug list").given.value("log"), Some(OsStr::new("--debug")));
        assert_eq!(call("exec --env=A=--b web x").texts("env").unwrap(), ["A=--b"]);
        assert_eq!(call("create web --bundle=").path("bundle"), None);
    }

    #[test]
    fn one_clear_sentence_for_what_is_wrong() {
        let cases = [
            ("frobnicate x", "unknown command frobnicate; gantry-runtime --help lists them", 3),
            ("help frob", "unknown command frob; gantry-runtime --help lists them", 3),
            ("--frob list", "unknown flag --frob; gantry-runtime --help lists them", 1),
            ("create --frob x", "unknown flag --frob of create; gantry-runtime create --help lists them", 1),
            ("exec -tz x y", "unknown flag -tz of exec; gantry-runtime exec --help lists them", 1),
            ("create --version x", "unknown flag --version of create; gantry-runtime create --help lists them", 1),
            ("kill", "kill: too few arguments; usage: gantry-runtime kill [FLAG...] ID [SIGNAL]", 1),
            ("state a b", "state: too many arguments; usage: gantry-runtime state [FLAG...] ID", 1),
            ("list a", "list: too many arguments; usage: gantry-runtime list [FLAG...]", 1),
            ("create x --bundle", "--bundle: needs a value", 1),
            ("create --preserve-fds x y", "--preserve-fds: \"x\" is not a number", 1),
            ("--log-format xml list", "--log-format: \"xml\" is none of text, json", 1),
            ("--rootless maybe list", "--rootless: \"maybe\" is none of true, false, auto", 1),
            ("--debug=maybe list", "--debug: \"maybe\" is neither true nor false", 1),
            ("--root / list", "--root: the root directory itself holds no state; name a directory of its own", 1),
        ];
        for (line, sentence, code) in cases {
            assert_eq!(refusal(line), (sentence.to_owned(), code));
        }
    }

    #[test]
    fn switches_take_true_and_false_and_the_last_one_counts() {
        assert!(!call("delete --force=false web").has("force"));
        assert!(!call("delete --force --force=F web").has("force"));
        assert!(call("delete --force=1 web").has("force"));
        assert_eq!(call("exec --no-new-privs=false web x").switch("no-new-privs"), Some(false));
        assert_eq!(call("exec web x").switch("no-new-privs"), None);
    }
}
