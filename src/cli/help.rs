//! What `--help` and `--version` print.

pub(super) const HELP: &str = "\
hm-agent watches a GPU node and tells whoever asks.

usage:
  hm-agent [run]    run in the foreground until SIGTERM or SIGINT; SIGHUP reads the settings again
  hm-agent run --supervise [--pid-file FILE] [--log-file FILE | --syslog] [--detach]
                    keep it alive where no service manager does: start it again when it dies, after 1 s, doubling to
                    60 s; SIGTERM and SIGINT stop both, SIGHUP also opens the log anew
  hm-agent check    validate the settings; print them all with where each comes from
  hm-agent sample   one look at this machine
  hm-agent status [APP_ID] [--url URL]
                    how an application, or the host, beats: a Nagios plugin, exit code 0 to 3
  hm-agent beat [--id APP_ID] [--every MS] [--url URL] -- COMMAND...
                    run COMMAND, beat while it lives
  hm-agent --help | --version

options:
  -c, --config FILE     settings file (default: /etc/hm-agent/hm-agent.toml, if it exists)
  -s, --set KEY=VALUE   one setting, over environment (HM_AGENT_KEY) and file; may be repeated
      --pid-file FILE   the supervisor's number, and a lock: a second one is refused
      --log-file FILE   at 10 MB it becomes FILE.1 (default: standard error)
      --syslog          to /dev/log, facility daemon (default with --detach)
      --detach          in the background, in /; returns when the agent listens, or says why it does not
      --json            with sample: as JSON, the messages of subscribe:detail
      --url URL         the heartbeat server (default: HB_URL, else http://HB_HOST:HB_PORT, else
                        http://127.0.0.1:8888)
      --id APP_ID       who beats (default: APP_ID from the environment, else COMMAND's name)
      --every MS        milliseconds between two beats (default: 5000)

Telemetry is at ws://HOST:33931/usage, heartbeats at http://127.0.0.1:8888. Exit codes: 0 stopped or done, 1 failed, 2 wrong arguments
or settings.
";

/// Version, commit if it is known, target: see build.rs.
pub(super) const VERSION: &str =
    concat!("hm-agent ", env!("CARGO_PKG_VERSION"), " (", env!("HM_BUILD"), ")\n");
