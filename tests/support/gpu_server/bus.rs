//! A system bus with a systemd, for the collector systemd: answers calls as the two do, without knowing more of D-Bus than that.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Types of a reply, and its body. Empty types: the error `UnknownProperty`; `!` and a name: that error.
pub type Reply = (&'static str, Vec<u8>);

/// Accepts connections at `path` until the process ends. `answer` gets the bytes of each call; `None` closes the connection.
pub fn serve(path: &Path, answer: impl Fn(&[u8]) -> Option<Reply> + Send + 'static) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One connection after the other is enough. The client may close it at any time.
            let _ = converse(stream, &answer);
        }
    });
}

fn converse(
    mut stream: UnixStream,
    answer: &impl Fn(&[u8]) -> Option<Reply>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    assert!(line.starts_with("\0AUTH EXTERNAL 3"), "{line:?}");
    stream.write_all(b"OK 7a4642ff9e004e2c9fc1c1596b0e4aec\r\n")?;
    reader.read_line(&mut line)?;
    assert!(line.ends_with("BEGIN\r\n"), "{line:?}");
    loop {
        let call = read_message(&mut reader)?;
        let Some((signature, body)) = answer(&call) else { return Ok(()) };
        stream.write_all(&message(&call[8..12], signature, &body))?;
    }
}

fn read_message(reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 16];
    reader.read_exact(&mut bytes)?;
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let length = (16 + number(12)).next_multiple_of(8) + number(4);
    bytes.resize(length, 0);
    reader.read_exact(&mut bytes[16..])?;
    Ok(bytes)
}

/// A signal, which clients must skip, and the reply to the call of this serial.
fn message(serial: &[u8], signature: &str, body: &[u8]) -> Vec<u8> {
    let mut fields = [b"\x05\x01u\0", serial].concat();
    let error = if signature.is_empty() { "!UnknownProperty" } else { signature };
    let message_type = if let Some(name) = error.strip_prefix('!') {
        fields.extend(b"\x04\x01s\0");
        push_text(&mut fields, &format!("org.freedesktop.DBus.Error.{name}"));
        3
    } else {
        fields.extend([8, 1, b'g', 0, signature.len() as u8]);
        fields.extend(signature.bytes().chain([0]));
        2
    };
    let mut reply = vec![b'l', message_type, 1, 1];
    reply.extend((body.len() as u32).to_le_bytes());
    reply.extend([9, 0, 0, 0]);
    reply.extend((fields.len() as u32).to_le_bytes());
    reply.append(&mut fields);
    reply.resize(reply.len().next_multiple_of(8), 0);
    reply.extend(body);
    let signal = *b"l\x04\x01\x01\0\0\0\0\x08\0\0\0\x0a\0\0\0\x03\x01s\0\x01\0\0\0S\0\0\0\0\0\0\0";
    [&signal[..], &reply].concat()
}

/// A body with one variant that is a text.
pub fn text(value: &str) -> Reply {
    let mut body = b"\x01s\0\0".to_vec();
    push_text(&mut body, value);
    ("v", body)
}

/// A body with one variant that is a 32-bit number.
pub fn number(value: u32) -> Reply {
    ("v", [b"\x01u\0\0", &value.to_le_bytes()[..]].concat())
}

/// A body with one variant that is a 64-bit number.
pub fn long_number(value: u64) -> Reply {
    ("v", [b"\x01t\0\0\0\0\0\0", &value.to_le_bytes()[..]].concat())
}

/// The reply of `ListUnits`: name, load state, active state and sub state of each unit.
pub fn units(units: &[[&str; 4]]) -> Reply {
    let mut array = Vec::new();
    for [name, load_state, active_state, sub_state] in units {
        array.resize(array.len().next_multiple_of(8), 0);
        let path = format!("/org/freedesktop/systemd1/unit/{}", name.replace('.', "_2e"));
        for text in [name, "A unit", load_state, active_state, sub_state, "", &path] {
            push_text(&mut array, text);
        }
        array.resize(array.len().next_multiple_of(4), 0);
        array.extend([0; 4]);
        push_text(&mut array, "");
        push_text(&mut array, "/");
    }
    // Elements begin at a multiple of 8 bytes.
    ("a(ssssssouso)", [&(array.len() as u32).to_le_bytes()[..], &[0; 4], &array].concat())
}

/// The reply of `Hello`.
pub fn unique_name() -> Reply {
    let mut body = Vec::new();
    push_text(&mut body, ":1.18");
    ("s", body)
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes().chain([0]));
}
