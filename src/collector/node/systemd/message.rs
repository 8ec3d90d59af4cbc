//! Messages of D-Bus, as far as method calls with texts and their replies need them ("D-Bus Specification", "Message Protocol").
//! No I/O, and no panics, because the bytes are those of another process.
//!
//! ```text
//! byte order, type, flags, version: 1 byte each; length of the body, serial: 4 bytes each
//! header fields: array of structures (code, variant), 4 bytes of length before them; then zeros up to a multiple of 8
//! body: the arguments, whose types are the header field "signature"
//! ```
//!
//! Every value is aligned to its size, structures to 8 bytes; a text is its length, its bytes and a zero.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

/// `ListUnits` of a machine with 10 000 units has 4 MB; the bus itself permits 128 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Up to the length of the header fields.
pub const PREFIX_BYTES: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const METHOD_CALL: u8 = 1;
/// The peer is not started for this message: it runs, or there is nothing to show.
const NO_AUTO_START: u8 = 2;
const VERSION: u8 = 1;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Call of a method whose arguments are texts.
#[derive(Debug, Clone, Copy)]
pub struct MethodCall<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [&'a str],
}

impl MethodCall<'_> {
    /// The bytes of the message. `serial` must not be 0.
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.arguments.iter().for_each(|argument| body.text(argument));
        let mut out = Writer(vec![LITTLE_ENDIAN, METHOD_CALL, NO_AUTO_START, VERSION]);
        out.number(length(body.0.len()));
        out.number(serial);
        let mut fields = Writer::default();
        fields.field(FIELD_PATH, "o", self.path);
        fields.field(FIELD_DESTINATION, "s", self.destination);
        fields.field(FIELD_INTERFACE, "s", self.interface);
        fields.field(FIELD_MEMBER, "s", self.member);
        if !self.arguments.is_empty() {
            fields.align(8);
            fields.0.push(FIELD_SIGNATURE);
            fields.signature("g");
            fields.signature(&"s".repeat(self.arguments.len()));
        }
        out.number(length(fields.0.len()));
        // The fields begin at 16, so they are aligned as they were alone.
        out.0.append(&mut fields.0);
        out.align(8);
        out.0.append(&mut body.0);
        out.0
    }
}

/// A message of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The serial of the call that it answers.
    pub reply_serial: Option<u32>,
    /// `None`: no error.
    pub error_name: Option<&'a str>,
    /// Types of the body.
    pub signature: &'a str,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Length of the message that begins with these bytes.
    pub fn length(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, Malformed> {
        let mut reader = Reader::new(prefix);
        let [order, _, _, version] = reader.array()?;
        if order != LITTLE_ENDIAN {
            return Err(Malformed("byte order"));
        }
        if version != VERSION {
            return Err(Malformed("version of the protocol"));
        }
        let (body, _serial, fields) = (reader.size()?, reader.number()?, reader.size()?);
        let header = fields.checked_add(PREFIX_BYTES).map(|bytes| bytes.next_multiple_of(8));
        let total = header.and_then(|header| header.checked_add(body));
        total.filter(|total| *total <= MAX_MESSAGE_BYTES).ok_or(Malformed("length"))
    }

    /// Decodes a whole message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let prefix = bytes.first_chunk().ok_or(Malformed("length"))?;
        if Self::length(prefix)? != bytes.len() {
            return Err(Malformed("length"));
        }
        let mut reader = Reader::new(bytes);
        reader.skip(12)?;
        let end = reader.size()?.saturating_add(PREFIX_BYTES);
        let mut message =
            Message { reply_serial: None, error_name: None, signature: "", body: &[] };
        while reader.at < end {
            reader.align(8)?;
            let [code] = reader.array()?;
            let value = reader.variant()?;
            match (code, value) {
                (FIELD_ERROR_NAME, Value::Text(name)) => message.error_name = Some(name),
                (FIELD_REPLY_SERIAL, Value::Number(serial)) => {
                    message.reply_serial = u32::try_from(serial).ok();
                }
                (FIELD_SIGNATURE, Value::Text(signature)) => message.signature = signature,
                _ => {}
            }
        }
        reader.align(8)?;
        message.body = bytes.get(reader.at..).unwrap_or_default();
        Ok(message)
    }

    /// The body, if its types are `signature`.
    pub fn body(&self, signature: &str) -> Result<Reader<'a>, Malformed> {
        match self.signature == signature {
            true => Ok(Reader::new(self.body)),
            false => Err(Malformed("types of the body")),
        }
    }
}

/// A text, or a number without sign. Other types are not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// Reads values one after the other. Alignment is relative to the start.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn skip(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        const EARLY_END: Malformed = Malformed("early end");
        let end = self.at.checked_add(count).ok_or(EARLY_END)?;
        let skipped = self.bytes.get(self.at..end).ok_or(EARLY_END)?;
        self.at = end;
        Ok(skipped)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.skip(N)?.try_into().map_err(|_| Malformed("early end"))
    }

    pub fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let padding = self.at.next_multiple_of(to).saturating_sub(self.at);
        self.skip(padding).map(|_| ())
    }

    pub fn number(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.number()?).map_err(|_| Malformed("length"))
    }

    /// A text or the path of an object.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.size()?;
        self.terminated(length)
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let [length] = self.array()?;
        self.terminated(length.into())
    }

    fn terminated(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = self.skip(length)?;
        if self.array()? != [0] {
            return Err(Malformed("end of a text"));
        }
        std::str::from_utf8(text).map_err(|_| Malformed("text that is not UTF-8"))
    }

    /// A value with its type before it.
    pub fn variant(&mut self) -> Result<Value<'a>, Malformed> {
        Ok(match self.signature()? {
            "s" | "o" => Value::Text(self.text()?),
            "g" => Value::Text(self.signature()?),
            "u" => Value::Number(self.number()?.into()),
            "t" => {
                self.align(8)?;
                Value::Number(u64::from_le_bytes(self.array()?))
            }
            _ => return Err(Malformed("type of a variant")),
        })
    }

    /// The end of an array whose elements are aligned to 8 bytes and begin here.
    pub fn array_end(&mut self) -> Result<usize, Malformed> {
        let length = self.size()?;
        self.align(8)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        end.ok_or(Malformed("length of an array"))
    }

    pub fn is_before(&self, end: usize) -> bool {
        self.at < end
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        self.text(value);
    }
}

/// The agent's own messages have some hundred bytes.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    /// Replies of systemd 252 on dbus-daemon 1.14 to `Get` of SystemState, of a property that does not exist, of NRestarts of a
    /// service, and of LastTriggerUSec of a timer.
    const SYSTEM_STATE: &[u8] = b"l\x02\x01\x01\x11\x00\x00\x00\xc1\x00\x00\x00-\x00\x00\x00\x05\x01u\x00\x02\x00\x00\x00\x06\x01s\x00\x04\x00\x00\x00:1.3\x00\x00\x00\x00\x08\x01g\x00\x01v\x00\x00\x07\x01s\x00\x04\x00\x00\x00:1.0\x00\x00\x00\x00\x01s\x00\x00\x08\x00\x00\x00degraded\x00";
    const ERROR: &[u8] = b"l\x03\x01\x01L\x00\x00\x00\xc2\x00\x00\x00e\x00\x00\x00\x05\x01u\x00\x03\x00\x00\x00\x06\x01s\x00\x04\x00\x00\x00:1.3\x00\x00\x00\x00\x04\x01s\x00*\x00\x00\x00org.freedesktop.DBus.Error.UnknownProperty\x00\x00\x00\x00\x00\x00\x08\x01g\x00\x01s\x00\x00\x07\x01s\x00\x04\x00\x00\x00:1.0\x00\x00\x00\x00G\x00\x00\x00Unknown interface org.freedesktop.systemd1.Manager or property Nothing.\x00";
    const RESTARTS: &[u8] = b"l\x02\x01\x01\x08\x00\x00\x00\xc3\x00\x00\x00-\x00\x00\x00\x05\x01u\x00\x04\x00\x00\x00\x06\x01s\x00\x04\x00\x00\x00:1.3\x00\x00\x00\x00\x08\x01g\x00\x01v\x00\x00\x07\x01s\x00\x04\x00\x00\x00:1.0\x00\x00\x00\x00\x01u\x00\x00\xc7\x00\x00\x00";
    const LAST_TRIGGER: &[u8] = b"l\x02\x01\x01\x10\x00\x00\x00\xc4\x00\x00\x00-\x00\x00\x00\x05\x01u\x00\x05\x00\x00\x00\x06\x01s\x00\x04\x00\x00\x00:1.3\x00\x00\x00\x00\x08\x01g\x00\x01v\x00\x00\x07\x01s\x00\x04\x00\x00\x00:1.0\x00\x00\x00\x00\x01t\x00\x00\x00\x00\x00\x00\x03\xa6V\xf2\x8aa\x06\x00";

    /// A call that the same daemon has answered.
    const CALL: &[u8] = b"l\x01\x02\x014\x00\x00\x00\x03\x00\x00\x00\x90\x00\x00\x00\x01\x01o\x00\x19\x00\x00\x00/org/freedesktop/systemd1\x00\x00\x00\x00\x00\x00\x00\x06\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00\x02\x01s\x00\x1f\x00\x00\x00org.freedesktop.DBus.Properties\x00\x03\x01s\x00\x03\x00\x00\x00Get\x00\x00\x00\x00\x00\x08\x01g\x00\x02ss\x00 \x00\x00\x00org.freedesktop.systemd1.Manager\x00\x00\x00\x00\x07\x00\x00\x00Nothing\x00";

    fn variant(bytes: &[u8]) -> Result<Value<'_>, Malformed> {
        Message::decode(bytes)?.body("v")?.variant()
    }

    #[test]
    fn encodes_a_call_as_the_specification_demands() {
        let call = MethodCall {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            arguments: &["org.freedesktop.systemd1.Manager", "Nothing"],
        };
        assert_eq!(call.encode(3), CALL);
        let hello = MethodCall { arguments: &[], ..call }.encode(1);
        assert_eq!(Message::decode(&hello).unwrap().signature, "");
    }

    #[test]
    fn decodes_real_replies() {
        assert_eq!(Message::decode(SYSTEM_STATE).unwrap().reply_serial, Some(2));
        assert_eq!(variant(SYSTEM_STATE), Ok(Value::Text("degraded")));
        assert_eq!(variant(RESTARTS), Ok(Value::Number(199)));
        assert_eq!(variant(LAST_TRIGGER), Ok(Value::Number(1_796_099_259_409_923)));
        let error = Message::decode(ERROR).unwrap();
        assert_eq!(error.error_name, Some("org.freedesktop.DBus.Error.UnknownProperty"));
        assert_eq!(error.body("v").unwrap_err(), Malformed("types of the body"));
    }

    #[test]
    fn rejects_malformed_messages() {
        for real in [SYSTEM_STATE, ERROR, RESTARTS, LAST_TRIGGER, CALL] {
            parse_every_prefix(real, |bytes| variant(bytes).map(|_| ()));
            for at in 0..real.len() {
                for byte in [0, 1, 0x7f, 0xff] {
                    let mut bytes = real.to_vec();
                    bytes[at] = byte;
                    let _ = variant(&bytes);
                }
            }
        }
        let length = |fields: u32, body: u32| {
            let mut prefix = *b"l\x02\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0";
            prefix[4..8].copy_from_slice(&body.to_le_bytes());
            prefix[12..].copy_from_slice(&fields.to_le_bytes());
            Message::length(&prefix)
        };
        assert_eq!(length(9, 7), Ok(39));
        assert_eq!(length(0, 20 << 20), Err(Malformed("length")));
        assert_eq!(length(u32::MAX, u32::MAX), Err(Malformed("length")));
        assert_eq!(variant(&[b"B", &SYSTEM_STATE[1..]].concat()), Err(Malformed("byte order")));
    }
}
