//! `--detach`: the supervisor leaves the terminal, where somebody waits until its first agent listens.

use std::io::{self, PipeWriter, Read, Write};

use crate::sys::{process, service};
use crate::util::error::Error;

/// Which of the two processes this is.
pub enum Side {
    /// The one that was started. The other one has told its exit code.
    Terminal(u8),
    /// The one that stays.
    Background(Background),
}

/// Whoever waits at the terminal.
pub struct Background(PipeWriter);

impl Background {
    /// Tells it the exit code.
    pub fn tell(&mut self, code: u8) {
        // Who does not wait any more does not want to know.
        let _ = self.0.write_all(&[code]);
    }
}

/// Goes on in the background, in a session that has no terminal and, as nobody leads it, gets none; in `/`, so that no file system
/// is held.
pub fn detach() -> Result<Side, Error> {
    let fail = |error| Error::system("go to the background", error);
    let (mut reader, writer) = io::pipe().map_err(fail)?;
    if let Some(child) = service::fork().map_err(fail)? {
        drop(writer);
        service::wait_for(child);
        let mut code = [0];
        let nothing = |_| io::Error::other("nothing was heard from there");
        reader.read_exact(&mut code).map_err(nothing).map_err(fail)?;
        return Ok(Side::Terminal(code[0]));
    }
    service::lead_session().map_err(fail)?;
    if service::fork().map_err(fail)?.is_some() {
        process::end_now(0);
    }
    std::env::set_current_dir("/").map_err(fail)?;
    service::silence().map_err(|error| Error::system("open /dev/null", error))?;
    Ok(Side::Background(Background(writer)))
}
