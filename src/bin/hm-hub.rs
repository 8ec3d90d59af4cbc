//! Entry point of hm-hub: runs the command, returns its exit code.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match hm_agent::hub::cli::execute(std::env::args_os().skip(1)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // If standard error cannot be written, the exit code still reports the failure.
            let _ = writeln!(std::io::stderr(), "hm-hub: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
