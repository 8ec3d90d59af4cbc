//! Entry point: parses arguments, runs the command, returns its exit code.

use std::io::Write;
use std::process::ExitCode;

use hm_agent::util::text::escape_for_terminal;

fn main() -> ExitCode {
    // ssh runs this program as SSH_ASKPASS with a prompt as its only argument, not with a subcommand.
    if let Some(code) = hm_agent::remote::ssh::askpass::run_if_requested() {
        return ExitCode::from(code);
    }
    let arguments = std::env::args_os().skip(1);
    match hm_agent::cli::parse(arguments).and_then(hm_agent::cli::Command::execute) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // If standard error cannot be written, the exit code still reports the failure.
            let text = format!("hm-agent: {error}");
            let _ = writeln!(std::io::stderr(), "{}", escape_for_terminal(&text));
            ExitCode::from(error.exit_code())
        }
    }
}
