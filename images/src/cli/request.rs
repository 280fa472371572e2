//! A command line, read by the table: which command, its words, its flags.

use std::collections::BTreeMap;
use std::ffi::OsString;

use lexopt::prelude::*;

use super::table::{self, COMMON, Command, Flag};
use crate::error::{Error, Kind, Result};
use crate::reference::Reference;

/// What was asked for.
pub(super) struct Request {
    /// None: help for all.
    pub(super) command: Option<&'static Command>,
    pub(super) words: Vec<OsString>,
    flags: BTreeMap<&'static str, Vec<OsString>>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the values: one may be a password.
        let flags: Vec<_> = self.flags.keys().collect();
        write!(f, "{:?} {:?} {flags:?}", self.command.map(|command| command.name), self.words)
    }
}

/// Reads the arguments.
///
/// # Errors
/// [`Kind::InvalidArgument`] with a hint.
pub(super) fn parse(args: Vec<OsString>) -> Result<Request> {
    let mut request = Request { command: None, words: Vec::new(), flags: BTreeMap::new() };
    let mut parser = lexopt::Parser::from_args(args);
    let read = fill(&mut request, &mut parser);
    let hint = request.command.map_or("gantry image --help".to_owned(), |c| format!("gantry image {} --help", c.name));
    read.map_err(|why| Error::new(Kind::InvalidArgument, format!("{why}; see `{hint}`")))?;
    Ok(request)
}

fn fill(request: &mut Request, parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
    while let Some(arg) = parser.next()? {
        let known = request.command.map_or(&[][..], |command| command.flags);
        let flag = match &arg {
            Value(word) if request.command.is_none() => {
                let name = word.to_string_lossy();
                if name == "help" {
                    request.flags.entry("help").or_default();
                    continue;
                }
                let found = table::command(&name);
                request.command = Some(found.ok_or_else(|| format!("there is no command {name:?}"))?);
                continue;
            }
            Value(word) => {
                request.words.push(word.clone());
                continue;
            }
            Short(letter) => known.iter().chain(COMMON).find(|flag| flag.0.chars().eq([*letter])),
            Long(name) => known.iter().chain(COMMON).find(|flag| flag.1 == *name),
        };
        let is_long = matches!(arg, Long(_));
        let Some(Flag(_, long, value, _)) = flag else { return Err(arg.unexpected()) };
        let value = match value.is_empty() {
            false => parser.value()?,
            // Letters may stand together: what follows one is the next.
            true if !is_long => "true".into(),
            true => parser.optional_value().unwrap_or("true".into()),
        };
        request.flags.entry(long).or_default().push(value);
    }
    Ok(())
}

fn wrong(why: String) -> Error {
    Error::new(Kind::InvalidArgument, why)
}

impl Request {
    /// Every value of a flag.
    pub(super) fn all(&self, flag: &str) -> Result<Vec<String>> {
        let values = self.flags.get(flag).into_iter().flatten();
        let text = |value: &OsString| value.to_str().map(str::to_owned);
        values.map(|value| text(value).ok_or_else(|| wrong(format!("--{flag}: {value:?} is not UTF-8")))).collect()
    }

    /// The value of a flag; the last one counts.
    pub(super) fn one(&self, flag: &str) -> Result<Option<String>> {
        Ok(self.all(flag)?.pop())
    }

    /// The value of a flag, parsed.
    pub(super) fn parsed<T: std::str::FromStr<Err = Error>>(&self, flag: &str) -> Result<Option<T>> {
        let value = self.one(flag)?;
        value.map(|text| text.parse().map_err(|why: Error| why.within(format!("--{flag}")))).transpose()
    }

    /// A switch.
    pub(super) fn is(&self, flag: &str) -> Result<bool> {
        match self.one(flag)?.as_deref() {
            None => Ok(false),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(wrong(format!("--{flag}: {other:?} is neither true nor false"))),
        }
    }

    /// A switch that is on unless it is set to false.
    pub(super) fn unless_said(&self, flag: &str) -> Result<bool> {
        Ok(!self.flags.contains_key(flag) || self.is(flag)?)
    }

    /// Whether JSON is wanted.
    pub(super) fn json(&self) -> Result<bool> {
        if self.is("json")? || self.command.is_some_and(|command| !command.flags.iter().any(is_format)) {
            return self.is("json");
        }
        match self.one("output")?.as_deref() {
            None | Some("table" | "text") => Ok(false),
            Some("json") => Ok(true),
            Some(other) => Err(wrong(format!("--output: {other:?} is neither json nor table"))),
        }
    }

    /// The words as text, at least `least` and at most `most`.
    pub(super) fn texts(&self, least: usize, most: usize) -> Result<Vec<String>> {
        let usage = self.command.map_or(String::new(), |command| format!("{} {}", command.name, command.arguments));
        if self.words.len() < least || self.words.len() > most {
            return Err(wrong(format!("{} arguments; usage: gantry image {usage}", self.words.len())));
        }
        let text = |word: &OsString| word.to_str().map(str::to_owned);
        self.words.iter().map(|word| text(word).ok_or_else(|| wrong(format!("{word:?} is not UTF-8")))).collect()
    }

    /// The one word, which may be any path.
    pub(super) fn path(&self) -> Result<std::path::PathBuf> {
        match &self.words[..] {
            [one] => Ok(one.into()),
            _ => self.texts(1, 1).map(|_| std::path::PathBuf::new()),
        }
    }

    /// `--name`.
    pub(super) fn name(&self) -> Result<Option<Reference>> {
        self.parsed("name")
    }
}

/// The flag that chooses JSON; elsewhere `--output` is a file.
fn is_format(flag: &Flag) -> bool {
    flag.1 == "output" && flag.2 == "FORMAT"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn words_and_flags_in_any_order() {
        let r = read("--root /r pull -q a:1 --platform=linux/arm64 --pin=false b --plain-http").unwrap();
        assert_eq!(r.command.unwrap().name, "pull");
        assert_eq!(r.texts(1, 9).unwrap(), ["a:1", "b"]);
        assert_eq!(r.one("root").unwrap().as_deref(), Some("/r"));
        assert!(r.is("quiet").unwrap() && r.is("plain-http").unwrap() && !r.json().unwrap());
        assert!(!r.is("pin").unwrap());
        assert_eq!(r.parsed::<crate::Platform>("platform").unwrap().unwrap().architecture, "arm64");
        assert!(read("images -o json").unwrap().json().unwrap());
        assert!(read("export x -o json --json").unwrap().json().unwrap());
        assert!(!read("export x -o json").unwrap().json().unwrap(), "a file named json");
        assert_eq!(read("import -").unwrap().words, ["-"]);
        assert_eq!(read("build -o /o --env A=b --env C=d t").unwrap().all("env").unwrap(), ["A=b", "C=d"]);
        let together = read("prune -an --tls-verify=false");
        assert!(together.is_err(), "a flag of another command");
        let together = read("prune -an").unwrap();
        assert!(together.is("all").unwrap() && together.is("dry-run").unwrap());
        assert!(!read("pull x --tls-verify=false").unwrap().unless_said("tls-verify").unwrap());
        assert!(read("pull x").unwrap().unless_said("tls-verify").unwrap());
        assert!(read("").unwrap().command.is_none());
    }

    #[test]
    fn mistakes_are_told_with_a_hint() {
        for (line, part) in [
            ("nonsense", "no command \"nonsense\"; see `gantry image --help`"),
            ("ls --what", "`gantry image ls --help`"),
            ("pull --platform", "see `gantry image pull --help`"),
            ("ls -x", "`gantry image ls --help`"),
            ("--quiet ls", "see `gantry image --help`"),
        ] {
            let why = read(line).unwrap_err();
            assert!(why.to_string().contains(part), "{line}: {why}");
            assert_eq!(why.kind(), Kind::InvalidArgument);
        }
        assert!(read("ls -o xml").unwrap().json().unwrap_err().to_string().contains("xml"));
        assert!(read("tag a").unwrap().texts(2, 9).unwrap_err().to_string().contains("usage: gantry image tag NAME"));
        assert!(read("pull --pin=maybe x").unwrap().is("pin").unwrap_err().to_string().contains("maybe"));
        assert!(!format!("{:?}", read("pull --creds me:canary x").unwrap()).contains("canary"));
    }
}
