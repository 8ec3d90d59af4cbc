//! The shim: parse arguments, run, exit code.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // ssh gives whom it asks for a password a question, and no verb.
    if let Some(code) = hm_agent::remote::askpass::answer() {
        return ExitCode::from(code);
    }
    let arguments = std::env::args_os().skip(1);
    match hm_agent::cli::parse(arguments).and_then(hm_agent::cli::Command::carry_out) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nothing is left to tell if this cannot be written; the exit code still says it.
            let _ = writeln!(std::io::stderr(), "hm-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
