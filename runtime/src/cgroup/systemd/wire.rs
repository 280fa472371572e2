//! Values of D-Bus and their bytes. D-Bus Specification, "Type System" and "Marshaling (Wire Format)".
//!
//! Written here rather than taken from a crate: two methods with arguments, two signals and one property are all that
//! the driver needs, and the smallest crates bring a second `nix`, a derive macro or an executor along.
//! Only little-endian messages are written and read: both ends are on one machine.

use std::fmt;

/// What a reader finds wrong with a message.
pub(super) type Malformed = &'static str;

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    F64(f64),
    /// `s`
    Text(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: the signature of an element, and the elements.
    List(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub(super) fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// `ay`.
    pub(super) fn bytes(bytes: &[u8]) -> Value {
        Value::List("y".into(), bytes.iter().copied().map(Value::Byte).collect())
    }

    /// The signature of its type.
    pub(super) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::F64(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::List(element, _) => format!("a{element}"),
            Value::Struct(members) => format!("({})", members.iter().map(Value::signature).collect::<String>()),
            Value::Variant(_) => "v".into(),
        }
    }

    /// Appends its bytes, aligned from the start of `out`.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::Byte(byte) => out.push(*byte),
            Value::Bool(bool) => fixed(out, u32::from(*bool).to_le_bytes()),
            Value::I16(number) => fixed(out, number.to_le_bytes()),
            Value::U16(number) => fixed(out, number.to_le_bytes()),
            Value::I32(number) => fixed(out, number.to_le_bytes()),
            Value::U32(number) => fixed(out, number.to_le_bytes()),
            Value::I64(number) => fixed(out, number.to_le_bytes()),
            Value::U64(number) => fixed(out, number.to_le_bytes()),
            Value::F64(number) => fixed(out, number.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => {
                fixed(out, (text.len() as u32).to_le_bytes());
                terminated(out, text);
            }
            Value::Signature(text) => {
                out.push(text.len() as u8);
                terminated(out, text);
            }
            Value::List(element, elements) => put_list(out, element, elements),
            Value::Struct(members) => {
                pad(out, 8);
                members.iter().for_each(|member| member.put(out));
            }
            Value::Variant(inner) => {
                Value::Signature(inner.signature()).put(out);
                inner.put(out);
            }
        }
    }
}

/// The length counts the elements alone, not the padding before the first one.
fn put_list(out: &mut Vec<u8>, element: &str, elements: &[Value]) {
    fixed(out, [0; 4]);
    let length_at = out.len() - 4;
    pad(out, alignment(element));
    let start = out.len();
    elements.iter().for_each(|element| element.put(out));
    let length = (out.len() - start) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

fn fixed<const SIZE: usize>(out: &mut Vec<u8>, bytes: [u8; SIZE]) {
    pad(out, SIZE);
    out.extend(bytes);
}

fn terminated(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

pub(super) fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// As busctl prints it, for tests and error sentences.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, values: &[Value], ends: [&str; 2]| {
            f.write_str(ends[0])?;
            for (at, value) in values.iter().enumerate() {
                write!(f, "{}{value}", if at == 0 { "" } else { ", " })?;
            }
            f.write_str(ends[1])
        };
        match self {
            Value::Byte(number) => write!(f, "{number}"),
            Value::Bool(bool) => write!(f, "{bool}"),
            Value::I16(number) => write!(f, "{number}"),
            Value::U16(number) => write!(f, "{number}"),
            Value::I32(number) => write!(f, "{number}"),
            Value::U32(number) => write!(f, "{number}"),
            Value::I64(number) => write!(f, "{number}"),
            Value::U64(u64::MAX) => f.write_str("infinity"),
            Value::U64(number) => write!(f, "{number}"),
            Value::F64(number) => write!(f, "{number}"),
            Value::Text(text) | Value::Path(text) | Value::Signature(text) => write!(f, "{text:?}"),
            Value::List(_, elements) => list(f, elements, ["[", "]"]),
            Value::Struct(members) => list(f, members, ["(", ")"]),
            Value::Variant(inner) => write!(f, "<{inner}>"),
        }
    }
}

/// Reads values off a message; every length is checked against what is there.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Alignment counts from the first of these bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// As [`Reader::new`], beginning in the middle.
    pub(super) fn from(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    pub(super) fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let at = self.at.next_multiple_of(to);
        match self.bytes.get(self.at..at) {
            Some(padding) if padding.iter().all(|byte| *byte == 0) => {
                self.at = at;
                Ok(())
            }
            Some(_) => Err("padding that is not zero"),
            None => Err("it ends in padding"),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or("a length beyond its end")?;
        let taken = self.bytes.get(self.at..end).ok_or("a length beyond its end")?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A string or an object path.
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        self.terminated(length)
    }

    pub(super) fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.byte()?);
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = self.take(length)?;
        if self.byte()? != 0 || text.contains(&0) {
            return Err("a string without its end");
        }
        std::str::from_utf8(text).map_err(|_| "a string that is not UTF-8")
    }

    /// A variant of one of the simple types: header fields, and the properties that the driver asks for.
    pub(super) fn variant(&mut self) -> Result<Value, Malformed> {
        match self.signature()? {
            "y" => self.byte().map(Value::Byte),
            "u" => self.u32().map(Value::U32),
            "s" => self.text().map(Value::text),
            "o" => self.text().map(|path| Value::Path(path.to_owned())),
            "g" => self.signature().map(|signature| Value::Signature(signature.to_owned())),
            _ => Err("a variant of a type that nobody asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    /// The bytes of libdbus for the same values.
    #[test]
    fn values_have_the_bytes_of_the_specification() {
        assert_eq!(bytes(&Value::Bool(true)), [1, 0, 0, 0]);
        assert_eq!(bytes(&Value::text("foo")), b"\x03\0\0\0foo\0");
        assert_eq!(bytes(&Value::Signature("au".into())), b"\x02au\0");
        let pids = Value::List("u".into(), vec![Value::U32(5), Value::U32(0x102)]);
        assert_eq!(bytes(&pids), [8, 0, 0, 0, 5, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!(pids.signature(), "au");
        // The specification's own example: an array of one 64-bit integer, padded after its length.
        let wide = Value::List("x".into(), vec![Value::I64(5)]);
        assert_eq!(bytes(&wide), [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(&Value::List("(ss)".into(), Vec::new())), [0; 8], "padded though it is empty");
    }

    #[test]
    fn a_property_is_a_name_and_a_variant_aligned_to_eight() {
        let one = Value::Struct(vec![Value::text("Delegate"), Value::Variant(Box::new(Value::Bool(true)))]);
        assert_eq!(one.signature(), "(sv)");
        let list = Value::List("(sv)".into(), vec![one]);
        let mut out = vec![9];
        list.put(&mut out);
        // A name of 4 + 8 + 1 bytes, a signature of 3, a boolean of 4: 20 bytes from offset 8 on.
        let expected = b"\x09\0\0\0\x14\0\0\0\x08\0\0\0Delegate\0\x01b\0\x01\0\0\0";
        assert_eq!(out, expected);
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let refused = |bytes: &[u8]| Reader::new(bytes).text().unwrap_err();
        assert_eq!(refused(&[0xff, 0xff, 0xff, 0xff, b'a', 0]), "a length beyond its end");
        assert_eq!(refused(&[2, 0, 0, 0, b'a', 0]), "a length beyond its end");
        assert_eq!(refused(&[1, 0, 0, 0, b'a', b'b']), "a string without its end");
        assert_eq!(refused(&[2, 0, 0, 0, b'a', 0, 0]), "a string without its end");
        assert_eq!(refused(&[1, 0, 0, 0, 0xff, 0]), "a string that is not UTF-8");
        assert_eq!(refused(&[1, 0]), "a length beyond its end");
        assert_eq!(Reader::new(b"\x02aau").variant().unwrap_err(), "a string without its end");
        assert!(Reader::new(b"\x02as\0\0\0\0\0").variant().is_err());
        let mut padded = Reader::new(&[1, 7, 0, 0]);
        padded.byte().unwrap();
        assert_eq!(padded.align(4).unwrap_err(), "padding that is not zero");
    }

    #[test]
    fn what_was_put_is_read() {
        let mut out = Vec::new();
        Value::Variant(Box::new(Value::Path("/job/7".into()))).put(&mut out);
        Value::U32(7).put(&mut out);
        let mut reader = Reader::new(&out);
        assert_eq!(reader.variant().unwrap(), Value::Path("/job/7".into()));
        assert_eq!(reader.u32().unwrap(), 7);
        assert!(reader.at_end());
    }
}
