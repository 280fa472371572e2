//! DECIDE: `org.systemd.property.*` annotations -> properties, as runc, crun and their callers know them.
//!
//! `"org.systemd.property.TimeoutStopUSec": "uint64 10000000"`: the values are GVariant texts
//! (docs.gtk.org/glib/gvariant-text-format.html): `true`, `'text'`, `5`, `uint64 5`, `['a', 'b']`, `@as []`, `(1, 'x')`.

use std::collections::{BTreeMap, HashMap};

use super::properties::{INFINITY, Property, property};
use super::wire::Value;
use crate::error::{Error, Kind, Result};

/// What the names of annotations for systemd start with.
pub const PREFIX: &str = "org.systemd.property.";

/// How deep values may be nested.
const DEPTH: usize = 16;

/// The properties that the annotations ask for, sorted by name.
///
/// # Errors
/// `Invalid` with the annotation.
pub(super) fn properties(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let sorted: BTreeMap<_, _> = annotations.iter().collect();
    let ours = sorted.into_iter().filter_map(|(key, text)| Some((key.strip_prefix(PREFIX)?, text)));
    ours.map(|(name, text)| {
        one(name, text)
            .map_err(|why| Error::new(Kind::Invalid, format!("annotations[{PREFIX}{name}]: {text:?}: {why}")))
    })
    .collect()
}

fn one(name: &str, text: &str) -> Result<Property, &'static str> {
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err("the name of a property has three letters at least, and nothing else");
    }
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    parser.space();
    if !parser.rest.is_empty() {
        return Err("something follows the value");
    }
    // systemd's files say seconds where its bus says microseconds.
    match name.strip_suffix("Sec") {
        Some(stem) if stem.ends_with(|letter: char| letter.is_ascii_lowercase()) => {
            Ok(property(format!("{stem}USec"), Value::U64(microseconds(&value)?)))
        }
        _ => Ok(property(name, value)),
    }
}

fn microseconds(value: &Value) -> Result<u64, &'static str> {
    let seconds = match value {
        Value::Byte(number) => f64::from(*number),
        Value::I16(number) => f64::from(*number),
        Value::U16(number) => f64::from(*number),
        Value::I32(number) => f64::from(*number),
        Value::U32(number) => f64::from(*number),
        Value::I64(number) => *number as f64,
        Value::U64(INFINITY) => return Ok(INFINITY),
        Value::U64(number) => *number as f64,
        Value::F64(number) => *number,
        _ => return Err("a number of seconds is expected"),
    };
    if seconds < 0.0 || seconds.is_nan() {
        return Err("a time is not negative");
    }
    Ok((seconds * 1e6) as u64)
}

struct Parser<'a> {
    rest: &'a str,
}

/// The types that are written before a value in words.
const WORDS: [(&str, &str); 13] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("handle", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, letter: char) -> bool {
        self.space();
        self.rest.strip_prefix(letter).map(|rest| self.rest = rest).is_some()
    }

    fn value(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        if depth > DEPTH {
            return Err("it is nested too deeply");
        }
        if self.eat('@') {
            let end = self.rest.find(char::is_whitespace).ok_or("a value is expected after the type")?;
            let (of, rest) = self.rest.split_at(end);
            self.rest = rest;
            return match complete(of, 0) == Some(of.len()) {
                true => self.value(Some(of), depth + 1),
                false => Err("no such type"),
            };
        }
        if self.eat('[') {
            return self.list(wanted, depth);
        }
        if self.eat('(') {
            return self.tuple(wanted, depth);
        }
        if self.eat('<') {
            let inner = self.value(None, depth + 1)?;
            return if self.eat('>') { fit(Value::Variant(Box::new(inner)), wanted) } else { Err("> is expected") };
        }
        if self.rest.starts_with(['\'', '"']) {
            let text = self.quoted()?;
            return match wanted {
                None | Some("s") => Ok(Value::Text(text)),
                Some("o") if text.starts_with('/') => Ok(Value::Path(text)),
                Some("g") if text.len() < 256 => Ok(Value::Signature(text)),
                _ => Err("a text where another type is expected"),
            };
        }
        let word = self.word();
        match WORDS.iter().find(|(name, _)| *name == word) {
            Some((_, of)) => self.value(Some(of), depth + 1),
            None => scalar(word, wanted),
        }
    }

    fn word(&mut self) -> &'a str {
        let end = |letter: char| letter.is_whitespace() || ",])>".contains(letter);
        let (word, rest) = self.rest.split_at(self.rest.find(end).unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn list(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        let mut element = match wanted {
            None => None,
            Some(of) => Some(of.strip_prefix('a').ok_or("a list where another type is expected")?.to_owned()),
        };
        let mut elements = Vec::new();
        while !self.eat(']') {
            if !elements.is_empty() && !self.eat(',') {
                return Err(", or ] is expected");
            }
            let value = self.value(element.as_deref(), depth + 1)?;
            element.get_or_insert_with(|| value.signature());
            elements.push(value);
        }
        let element = element.ok_or("an empty list needs its type before it, as in @as []")?;
        Ok(Value::List(element, elements))
    }

    fn tuple(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        let mut types = match wanted {
            None => None,
            Some(of) => {
                let inner = of.strip_prefix('(').and_then(|of| of.strip_suffix(')'));
                Some(inner.ok_or("a structure where another type is expected")?)
            }
        };
        let mut members = Vec::new();
        while !self.eat(')') {
            if !members.is_empty() && !self.eat(',') {
                return Err(", or ) is expected");
            }
            let one = match &mut types {
                None => None,
                Some(types) => {
                    let end = complete(types, 0).ok_or("more members than its type has")?;
                    let (one, rest) = types.split_at(end);
                    *types = rest;
                    Some(one)
                }
            };
            members.push(self.value(one, depth + 1)?);
        }
        match (members.is_empty(), types) {
            (true, _) => Err("a structure has one member at least"),
            (_, Some(rest)) if !rest.is_empty() => Err("fewer members than its type has"),
            _ => Ok(Value::Struct(members)),
        }
    }

    fn quoted(&mut self) -> Result<String, &'static str> {
        let mut letters = self.rest.chars();
        let quote = letters.next();
        let mut text = String::new();
        loop {
            match letters.next().ok_or("a quote is not closed")? {
                letter if Some(letter) == quote => break,
                '\0' => return Err("a text with a zero byte"),
                '\\' => match letters.next().ok_or("a quote is not closed")? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    letter @ ('\\' | '\'' | '"') => text.push(letter),
                    _ => return Err("only \\n \\t \\r \\\\ \\' and \\\" may stand after a backslash"),
                },
                letter => text.push(letter),
            }
        }
        self.rest = letters.as_str();
        Ok(text)
    }
}

fn fit(value: Value, wanted: Option<&str>) -> Result<Value, &'static str> {
    match wanted {
        Some(of) if of != value.signature() => Err("a value of another type than its neighbours, or than said"),
        _ => Ok(value),
    }
}

fn scalar(word: &str, wanted: Option<&str>) -> Result<Value, &'static str> {
    if let Ok(bool) = word.parse::<bool>() {
        return fit(Value::Bool(bool), wanted);
    }
    let wrong = "it is no value, or does not fit into its type";
    let real = word.contains(['.', 'e', 'E']) && !word.starts_with("0x");
    let number = || match word.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).map_err(|_| wrong),
        None => word.parse::<i128>().map_err(|_| wrong),
    };
    let usual = if real { "d" } else { "i" };
    Ok(match wanted.unwrap_or(usual) {
        "y" => Value::Byte(number()?.try_into().map_err(|_| wrong)?),
        "n" => Value::I16(number()?.try_into().map_err(|_| wrong)?),
        "q" => Value::U16(number()?.try_into().map_err(|_| wrong)?),
        "i" => Value::I32(number()?.try_into().map_err(|_| wrong)?),
        "u" => Value::U32(number()?.try_into().map_err(|_| wrong)?),
        "x" => Value::I64(number()?.try_into().map_err(|_| wrong)?),
        "t" => Value::U64(number()?.try_into().map_err(|_| wrong)?),
        "d" => Value::F64(word.parse().map_err(|_| wrong)?),
        _ => return Err(wrong),
    })
}

/// Where the first complete type of a signature ends.
fn complete(signature: &str, depth: usize) -> Option<usize> {
    if depth > DEPTH {
        return None;
    }
    match signature.as_bytes().first()? {
        b'a' => complete(&signature[1..], depth + 1).map(|end| end + 1),
        b'(' => {
            let mut end = 1;
            while !signature[end..].starts_with(')') {
                end += complete(&signature[end..], depth + 1)?;
            }
            (end > 1).then_some(end + 1)
        }
        b'b' | b'y' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<String> {
        let all = HashMap::from([(format!("{PREFIX}{name}"), text.to_owned()), ("other".into(), "x".into())]);
        let all = properties(&all)?;
        assert_eq!(all.len(), 1);
        Ok(format!("{}={} {}", all[0].0, all[0].1.signature(), all[0].1))
    }

    #[test]
    fn texts_become_values() {
        for (text, expected) in [
            ("true", "Foo=b true"),
            ("'it\\'s'", "Foo=s \"it's\""),
            ("\"a b\"", "Foo=s \"a b\""),
            ("5", "Foo=i 5"),
            ("uint64 5", "Foo=t 5"),
            ("uint64 18446744073709551615", "Foo=t infinity"),
            ("int64 -5", "Foo=x -5"),
            ("0x10", "Foo=i 16"),
            ("1.5", "Foo=d 1.5"),
            ("byte 0xff", "Foo=y 255"),
            ("@t 7", "Foo=t 7"),
            ("[ 'a', 'b' ]", "Foo=as [\"a\", \"b\"]"),
            ("@as []", "Foo=as []"),
            ("@au [1, 2]", "Foo=au [1, 2]"),
            ("[uint16 1, 2]", "Foo=aq [1, 2]"),
            ("[('/dev/null', 'rw')]", "Foo=a(ss) [(\"/dev/null\", \"rw\")]"),
            ("@a(st) [('a', 1), ('b', 2)]", "Foo=a(st) [(\"a\", 1), (\"b\", 2)]"),
            ("<uint32 3>", "Foo=v <3>"),
            ("objectpath '/a'", "Foo=o \"/a\""),
        ] {
            assert_eq!(read("Foo", text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        assert_eq!(read("TimeoutStopSec", "uint64 5").unwrap(), "TimeoutStopUSec=t 5000000");
        assert_eq!(read("TimeoutStopSec", "0.25").unwrap(), "TimeoutStopUSec=t 250000");
        assert_eq!(read("TimeoutStopUSec", "uint64 5").unwrap(), "TimeoutStopUSec=t 5");
        assert!(read("TimeoutStopSec", "'5'").is_err());
        assert!(read("TimeoutStopSec", "-5").is_err());
    }

    #[test]
    fn nonsense_is_refused_with_its_annotation() {
        for text in [
            "",
            "'open",
            "\"open'",
            "[1",
            "[1 2]",
            "['a', 1]",
            "[]",
            "()",
            "@as",
            "@a",
            "@a( []",
            "@(s) ('a', 'b')",
            "@(ss) ('a')",
            "5 6",
            "byte 256",
            "uint64 -1",
            "nothing",
            "'a' x",
            "@q 'a'",
            "<1",
            "'\\x'",
            "uint64",
            "(((((((((((((((((((((((((1)))))))))))))))))))))))))",
        ] {
            let why = read("Foo", text).unwrap_err();
            assert_eq!(why.kind(), Kind::Invalid, "{text}");
            assert!(why.to_string().starts_with("annotations[org.systemd.property.Foo]: "), "{why}");
        }
        for name in ["", "Ab", "Foo-Bar", "Foo.Bar", "Fooé"] {
            assert!(read(name, "1").is_err(), "{name}");
        }
    }
}
