//! A connection to the system bus. Every wait has the deadline of the run of the collector.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use crate::collector::node::systemd::message::{
    Malformed, Message, MethodCall, PREFIX_BYTES, Reader,
};
use crate::sys;
use crate::sys::Interest;
use crate::sys::users::effective_uid;

/// The response to an authentication has a name and an identifier.
const MAX_LINE_BYTES: usize = 512;

const HELLO: MethodCall<'static> = MethodCall {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "Hello",
    arguments: &[],
};

pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    last_serial: u32,
    /// The last message.
    received: Vec<u8>,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The connection must be closed.
    Io(io::Error),
    /// The name of the error that the peer returned.
    Returned(String),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Malformed> for CallError {
    fn from(Malformed(what): Malformed) -> Self {
        let error = format!("malformed message: {what}");
        Self::Io(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl Bus {
    pub fn connect(path: &Path, deadline: Instant) -> Result<Self, CallError> {
        let stream = sys::net::connect_unix(path)?;
        let mut bus = Self { stream, deadline, last_serial: 0, received: Vec::new() };
        bus.authenticate()?;
        bus.call(&HELLO, "s")?;
        Ok(bus)
    }

    /// Limits the calls from now on.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Calls a method. Returns the values of the reply, which must have the types of `signature`.
    pub fn call(
        &mut self,
        call: &MethodCall<'_>,
        signature: &str,
    ) -> Result<Reader<'_>, CallError> {
        self.last_serial = self.last_serial.checked_add(1).unwrap_or(1);
        self.write(&call.encode(self.last_serial))?;
        loop {
            self.receive()?;
            // Signals and late replies are skipped.
            if Message::decode(&self.received)?.reply_serial == Some(self.last_serial) {
                break;
            }
        }
        let reply = Message::decode(&self.received)?;
        match reply.error_name {
            Some(name) => Err(CallError::Returned(name.to_owned())),
            None => Ok(reply.body(signature)?),
        }
    }

    /// SASL with the mechanism EXTERNAL: the peer compares the uid with that of the socket's credentials.
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = effective_uid().to_string();
        let uid: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let line = self.read_line()?;
        if !line.starts_with(b"OK ") {
            let refused = io::Error::new(io::ErrorKind::PermissionDenied, "authentication failed");
            return Err(refused);
        }
        self.write(b"BEGIN\r\n")
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() == MAX_LINE_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // Byte by byte, because messages follow.
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            line.extend(byte);
        }
        Ok(line)
    }

    fn receive(&mut self) -> Result<(), CallError> {
        if Instant::now() >= self.deadline {
            // Signals could arrive without a pause.
            return Err(CallError::Io(io::ErrorKind::TimedOut.into()));
        }
        let mut prefix = [0; PREFIX_BYTES];
        self.read_exact(&mut prefix)?;
        let length = Message::length(&prefix)?;
        let mut bytes = prefix.to_vec();
        bytes.resize(length, 0);
        self.read_exact(bytes.get_mut(PREFIX_BYTES..).unwrap_or_default())?;
        self.received = bytes;
        Ok(())
    }

    fn read_exact(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => bytes = bytes.split_at_mut(count).1,
                Err(error) => self.wait(error, Interest::Readable)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.split_at(count).1,
                Err(error) => self.wait(error, Interest::Writable)?,
            }
        }
        Ok(())
    }

    fn wait(&self, error: io::Error, interest: Interest) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                let left = self.deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sys::wait([(self.stream.as_fd(), interest)], Some(left));
                Ok(())
            }
            _ => Err(error),
        }
    }
}
