//! `--detach`: the supervisor leaves the terminal, where its parent waits until the first agent is ready.

use std::io::{self, PipeWriter, Read, Write};

use crate::sys::{process, service};
use crate::util::error::Error;

/// The process in which [`detach`] returns.
pub enum Side {
    /// The one at the terminal, with the exit code that the other one has sent.
    Foreground(u8),
    /// The one that stays. Standard error is the terminal until [`Terminal::release`].
    Background(Terminal),
}

/// The process that waits at the terminal.
pub struct Terminal(PipeWriter);

impl Terminal {
    /// Ends it with this exit code, and closes standard error.
    pub fn release(mut self, code: u8) {
        // It fails only when that process was interrupted.
        let _ = self.0.write_all(&[code]);
        let _ = service::redirect_stderr_to_stdout();
    }
}

/// Goes to the background: in `/`, so that no filesystem stays busy, and in a session without a terminal, which this process
/// does not lead, so that it cannot acquire one.
pub fn detach() -> Result<Side, Error> {
    let fail = |error| Error::system("go to the background", error);
    let (mut reader, writer) = io::pipe().map_err(fail)?;
    if let Some(child) = service::fork().map_err(fail)? {
        drop(writer);
        service::wait_child(child);
        let mut code = [0];
        let ended = |_| io::Error::other("the background process ended unexpectedly");
        reader.read_exact(&mut code).map_err(ended).map_err(fail)?;
        return Ok(Side::Foreground(code[0]));
    }
    service::setsid().map_err(fail)?;
    if service::fork().map_err(fail)?.is_some() {
        process::exit_immediately(0);
    }
    std::env::set_current_dir("/").map_err(fail)?;
    service::redirect_stdio_to_null().map_err(|error| Error::system("open /dev/null", error))?;
    Ok(Side::Background(Terminal(writer)))
}
