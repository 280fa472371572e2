//! Protocol Buffers, as much as criu's RPC needs: numbers, texts and messages within messages (images/rpc.proto of criu).
//!
//! A dozen lines each way in place of a code generator and its crates. Reading never trusts a length.

use crate::error::{Error, Kind, Result};

/// A message that is being written, field by field; the order does not matter to the reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A field of type bool, int32 (not negative), uint32 or enum.
    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Message {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// A switch; one that is off is left out, which means the same to criu.
    #[must_use]
    pub fn switch(self, field: u32, on: bool) -> Message {
        if on { self.number(field, 1) } else { self }
    }

    /// A field of type string or bytes.
    #[must_use]
    pub fn text(mut self, field: u32, value: &str) -> Message {
        self.bytes(field, value.as_bytes());
        self
    }

    /// A text that may be missing.
    #[must_use]
    pub fn optional(self, field: u32, value: Option<&str>) -> Message {
        match value {
            Some(value) => self.text(field, value),
            None => self,
        }
    }

    /// A message within this one.
    #[must_use]
    pub fn message(mut self, field: u32, value: &Message) -> Message {
        self.bytes(field, &value.0);
        self
    }

    /// The bytes that go over the socket.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, as it is on the wire; negative int32 values come as 64-bit two's complement.
    Number(u64),
    /// A string, or a message within.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// As a signed number; 0 for bytes.
    pub fn signed(self) -> i32 {
        match self {
            Value::Number(value) => value as i32,
            Value::Bytes(_) => 0,
        }
    }

    /// As bytes; empty for a number.
    pub fn inner(self) -> &'a [u8] {
        match self {
            Value::Number(_) => &[],
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// The fields of a message in the order in which they came.
///
/// # Errors
/// `System` for bytes that are no message.
pub fn fields(mut bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return Err(damaged()),
        };
        found.push(((tag >> 3) as u32, value));
    }
    Ok(found)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(damaged)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let length = usize::try_from(length).map_err(|_| damaged())?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or_else(damaged)?;
    *bytes = rest;
    Ok(taken)
}

fn damaged() -> Error {
    Error::new(Kind::System, "criu's answer is no protocol buffer message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_specification() {
        // The examples of the Protocol Buffers encoding guide.
        assert_eq!(Message::default().number(1, 150).encoded(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").encoded(), b"\x12\x07testing");
        let inner = Message::default().number(1, 150);
        assert_eq!(Message::default().message(3, &inner).encoded(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert!(Message::default().switch(9, false).optional(9, None).encoded().is_empty());
        assert_eq!(Message::default().switch(3, true).encoded(), [0x18, 1]);
    }

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().text(1, "post-restore").number(2, 4_000_000);
        let outer = Message::default().number(1, 6).switch(2, true).message(5, &inner);
        let read = fields(outer.encoded()).unwrap();
        assert_eq!(read[..2], [(1, Value::Number(6)), (2, Value::Number(1))]);
        let within = fields(read[2].1.inner()).unwrap();
        assert_eq!(within, [(1, Value::Bytes(b"post-restore")), (2, Value::Number(4_000_000))]);
        assert_eq!(Value::Number((-1i64) as u64).signed(), -1);
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_read_past() {
        for bytes in
            [&b"\x08"[..], b"\x12\x07test", b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x09abc"]
        {
            assert!(fields(bytes).is_err(), "{bytes:?}");
        }
        // Every cut of a good message is either a shorter good one or refused.
        let whole = Message::default().number(1, 300).text(2, "abc").message(3, &Message::default().number(1, 1));
        for length in 0..whole.encoded().len() {
            let _ = fields(&whole.encoded()[..length]);
        }
    }
}
