//! Messages of D-Bus: calls as bytes, bytes as answers. D-Bus Specification, "Message Format".

use super::wire::{Malformed, Reader, Value, pad};

/// Longest message that is read. The specification allows 128 MiB; what systemd tells us has a few hundred bytes, and
/// the properties that it announces on its private socket some thousands.
const LONGEST: usize = 1 << 20;

/// The fixed part: byte order, type, flags, version, length of the body, serial, length of the fields.
pub(super) const FIXED: usize = 16;

const NO_REPLY_EXPECTED: u8 = 1;

/// What is to be called.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: Vec<Value>,
}

impl Call<'_> {
    /// The bytes of the call; without `reply` nobody answers it.
    pub(super) fn encode(&self, serial: u32, reply: bool) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments.iter().for_each(|argument| argument.put(&mut body));
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        let mut fields = vec![
            field(1, Value::Path(self.path.into())),
            field(2, Value::text(self.interface)),
            field(3, Value::text(self.member)),
            field(6, Value::text(self.destination)),
        ];
        if !signature.is_empty() {
            fields.push(field(8, Value::Signature(signature)));
        }
        let mut out = vec![b'l', 1, if reply { 0 } else { NO_REPLY_EXPECTED }, 1];
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(serial.to_le_bytes());
        Value::List("(yv)".into(), fields).put(&mut out);
        pad(&mut out, 8);
        out.extend(body);
        out
    }
}

fn field(code: u8, value: Value) -> Value {
    Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
}

/// Which kind of message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Call,
    Return,
    Error,
    Signal,
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Type,
    /// Serial of the call that it answers.
    pub(super) answers: Option<u32>,
    pub(super) interface: String,
    pub(super) member: String,
    /// Name of an error.
    pub(super) error: String,
    pub(super) sender: String,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The length of the whole message, from its first [`FIXED`] bytes.
    pub(super) fn length(fixed: &[u8; FIXED]) -> Result<usize, Malformed> {
        if fixed[0] != b'l' {
            return Err("a message that is not little-endian");
        }
        if fixed[3] != 1 {
            return Err("a message of another version of the protocol");
        }
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]) as usize;
        let (body, fields) = (number(4), number(12));
        if body > LONGEST || fields > LONGEST {
            return Err("a message of more than a mebibyte");
        }
        Ok((FIXED + fields).next_multiple_of(8) + body)
    }

    /// Reads a whole message of the length that [`Message::length`] told.
    pub(super) fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let kind = match bytes.get(1) {
            Some(1) => Type::Call,
            Some(2) => Type::Return,
            Some(3) => Type::Error,
            Some(4) => Type::Signal,
            _ => return Err("a message of an unknown type"),
        };
        let number = |at: usize| bytes.get(at..at + 4).map(|of| u32::from_le_bytes([of[0], of[1], of[2], of[3]]));
        let fields = number(12).ok_or("a message without its header")? as usize;
        let end = FIXED.checked_add(fields).ok_or("a length beyond its end")?;
        let header = bytes.get(..end).ok_or("a length beyond its end")?;
        let body = bytes.get(end.next_multiple_of(8)..).ok_or("a length beyond its end")?.to_vec();
        let empty = String::new;
        let mut message = Message {
            kind,
            answers: None,
            interface: empty(),
            member: empty(),
            error: empty(),
            sender: empty(),
            signature: empty(),
            body,
        };
        message.read_fields(Reader::from(header, FIXED))?;
        Ok(message)
    }

    fn read_fields(&mut self, mut reader: Reader<'_>) -> Result<(), Malformed> {
        while !reader.at_end() {
            reader.align(8)?;
            match (reader.byte()?, reader.variant()?) {
                (2, Value::Text(name)) => self.interface = name,
                (3, Value::Text(name)) => self.member = name,
                (4, Value::Text(name)) => self.error = name,
                (5, Value::U32(serial)) => self.answers = Some(serial),
                (7, Value::Text(name)) => self.sender = name,
                (8, Value::Signature(signature)) => self.signature = signature,
                (2..=5 | 7..=8, _) => return Err("a header field of the wrong type"),
                _ => {}
            }
        }
        Ok(())
    }

    /// A reader of the body, if it has the wanted signature (or begins with it).
    pub(super) fn body(&self, signature: &str) -> Result<Reader<'_>, Malformed> {
        match self.signature.starts_with(signature) {
            true => Ok(Reader::new(&self.body)),
            false => Err("an answer of another type than documented"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Call<'static> {
        Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            arguments: Vec::new(),
        }
    }

    /// What `dbus-send` of libdbus 1.14 puts on the wire, but for the order of the fields.
    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let mut expected = b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x6e\0\0\0".to_vec();
        expected.extend(b"\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0");
        expected.extend(b"\x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0");
        expected.extend(b"\x03\x01s\0\x05\0\0\0Hello\0\0\0");
        expected.extend(b"\x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0");
        let fields = expected.len() - FIXED;
        expected[12] = fields as u8;
        expected.extend([0; 3]);
        let bytes = hello().encode(1, true);
        assert_eq!(bytes, expected, "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(hello().encode(1, false)[2], NO_REPLY_EXPECTED);
        assert_eq!(Message::length(bytes[..FIXED].try_into().unwrap()), Ok(bytes.len()));
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let call = Call { arguments: vec![Value::text("x"), Value::U32(7)], ..hello() };
        let message = Message::decode(&call.encode(9, true)).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (Type::Call, "Hello"));
        let mut body = message.body("su").unwrap();
        assert_eq!((body.text(), body.u32()), (Ok("x"), Ok(7)));
        assert!(message.body("o").is_err());
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = hello().encode(1, true);
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        let length = |bytes: &[u8]| Message::length(bytes[..FIXED].try_into().unwrap());
        assert!(length(&with(0, b'B')).is_err());
        assert!(length(&with(3, 2)).is_err());
        assert!(length(&with(7, 0x7f)).is_err(), "a body of 2 GiB");
        assert!(length(&with(15, 0xff)).is_err(), "fields of 4 GiB");
        assert!(Message::decode(&with(1, 9)).is_err());
        assert!(Message::decode(&with(14, 1)).is_err(), "fields beyond the end");
        assert!(Message::decode(&with(12, good[12] - 1)).is_err(), "fields cut in a string");
        assert!(Message::decode(&good[..FIXED]).is_err());
        assert!(Message::decode(&[]).is_err());
        // Whatever byte is damaged: an error or a message, never a panic.
        for at in 0..good.len() {
            for byte in [0, 1, 7, 0x7f, 0xff] {
                let _ = Message::decode(&with(at, byte));
            }
        }
    }
}
