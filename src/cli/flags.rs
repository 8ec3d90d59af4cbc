//! The only list of subcommands and flags: the parser and `--help` use it, and `tests/agent/packaging.rs` compares the man page and the
//! completions with `--help`.

/// A subcommand that users call.
pub struct Subcommand {
    /// The command line after `hm-agent`.
    pub synopsis: &'static str,
    pub description: &'static str,
}

/// A command line flag.
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    /// The placeholder of its value; `None`: the flag takes no value.
    pub value: Option<&'static str>,
    /// The subcommands that accept it; empty: all of them.
    pub subcommands: &'static [&'static str],
    /// Empty: `--help` does not list the flag.
    pub description: &'static str,
}

pub(super) const SUPERVISE: &str = "run --supervise";

pub const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        synopsis: "[run]",
        description: "Run the agent in the foreground until SIGTERM or SIGINT. SIGHUP reloads the configuration.",
    },
    Subcommand {
        synopsis: "run --supervise [--pid-file FILE] [--syslog] [--detach]",
        description: "Run the agent and restart it when it exits, for machines without a service manager. The restart delay doubles from 1 s to 60 s. SIGTERM and SIGINT stop the supervisor and the agent.",
    },
    Subcommand {
        synopsis: "check [--user NAME]",
        description: "Validate the configuration, as the agent's user, and print every setting with its source.",
    },
    Subcommand { synopsis: "sample [--json]", description: "Measure this machine once." },
    Subcommand {
        synopsis: "events [--json] [--since T]",
        description: "Print what happened to this node: the event log of the running agent.",
    },
    Subcommand {
        synopsis: "health [--json] [--acknowledge ID]",
        description: "Nagios plugin: print what is wrong with this node and what to do, from the running agent. Exit codes are 0 to 3.",
    },
    Subcommand {
        synopsis: "status [APP_ID] [--url URL]",
        description: "Nagios plugin: print the heartbeat status of an application or of the host. Exit codes are 0 to 3.",
    },
    Subcommand {
        synopsis: "beat [--id APP_ID] [--every MS] [--url URL] -- COMMAND...",
        description: "Run COMMAND and send heartbeats until it exits.",
    },
];

pub const FLAGS: &[Flag] = &[
    Flag {
        long: "config",
        short: Some('c'),
        value: Some("FILE"),
        subcommands: &[],
        description: "Configuration file. Default: /etc/hm-agent/hm-agent.toml, if it exists.",
    },
    Flag {
        long: "set",
        short: Some('s'),
        value: Some("KEY=VALUE"),
        subcommands: &[],
        description: "Set one setting. Overrides the environment (HM_AGENT_KEY) and the file. May be repeated.",
    },
    Flag {
        long: "supervise",
        short: None,
        value: None,
        subcommands: &["run"],
        description: "Restart the agent when it exits.",
    },
    Flag {
        long: "pid-file",
        short: None,
        value: Some("FILE"),
        subcommands: &[SUPERVISE],
        description: "Write the supervisor's process id to FILE and lock it. A second supervisor refuses to start.",
    },
    Flag {
        long: "syslog",
        short: None,
        value: None,
        subcommands: &[SUPERVISE],
        description: "Log to /dev/log with facility daemon instead of standard error. Default with --detach, which then requires a running syslog daemon.",
    },
    Flag {
        long: "detach",
        short: None,
        value: None,
        subcommands: &[SUPERVISE],
        description: "Run in the background with / as working directory. Returns when the agent listens, or prints why it does not.",
    },
    Flag {
        long: "supervised",
        short: None,
        value: Some("PID"),
        subcommands: &["run"],
        // The supervisor passes it to the agent that it starts.
        description: "",
    },
    Flag {
        long: "user",
        short: None,
        value: Some("NAME"),
        subcommands: &["check"],
        description: "Test the files as this user. Default, if root calls it: the user of the systemd unit, else hm-agent.",
    },
    Flag {
        long: "json",
        short: None,
        value: None,
        subcommands: &["sample", "events", "health"],
        description: "Print JSON: the messages of subscribe:detail, or the response of /events or /health.",
    },
    Flag {
        long: "acknowledge",
        short: None,
        value: Some("ID"),
        subcommands: &["health"],
        description: "Acknowledge a finding, as root or as the agent's user: it does not count any more until its cause occurs again.",
    },
    Flag {
        long: "since",
        short: None,
        value: Some("T"),
        subcommands: &["events"],
        description: "Print events of this time or later: 90s, 15m, 2h or 3d ago, a date and time in UTC, or Unix seconds. Default: all.",
    },
    Flag {
        long: "url",
        short: None,
        value: Some("URL"),
        subcommands: &["status", "beat"],
        description: "Heartbeat server. Default: HB_URL, else http://HB_HOST:HB_PORT, else http://127.0.0.1:8888.",
    },
    Flag {
        long: "id",
        short: None,
        value: Some("APP_ID"),
        subcommands: &["beat"],
        description: "Application id. Default: APP_ID from the environment, else COMMAND's file name.",
    },
    Flag {
        long: "every",
        short: None,
        value: Some("MS"),
        subcommands: &["beat"],
        description: "Heartbeat interval in milliseconds. Default: 5000.",
    },
    Flag {
        long: "help",
        short: Some('h'),
        value: None,
        subcommands: &[],
        description: "Print the help.",
    },
    Flag {
        long: "version",
        short: Some('V'),
        value: None,
        subcommands: &[],
        description: "Print the version, the commit and the target.",
    },
];
