//! The table of settings.

use crate::config::Schema;
use crate::config::schema::TakesEffect::{OnReload, OnRestart};
use crate::config::schema::{ADDRESS, LOG_LEVEL, NAME, NAMES, PATH, row, seconds};
use crate::config::value::Kind;
use crate::hub::config::parse_duration;
use crate::hub::store::postgres::url::PostgresUrl;
use crate::net::url::Url;

const DURATION: Kind = Kind::Text {
    what: "a number with a unit, such as 90s, 30m, 24h or 30d",
    check: |text| parse_duration(text).is_some(),
};

pub static SCHEMA: Schema = Schema {
    program: "hm-hub",
    environment_prefix: "HM_HUB_",
    default_file: "/etc/hm-hub/hm-hub.toml",
    rows: &[
        row("log_level", Some("info"), LOG_LEVEL, OnReload, "error, warn, info, debug or trace."),
        row(
            "state_dir",
            Some("/var/lib/hm-hub"),
            PATH,
            OnRestart,
            "Directory of audit.log and, with SQLite, of the database.",
        ),
        row(
            "store",
            Some("sqlite"),
            Kind::SecretText {
                what: "sqlite, or a URL such as postgres://USER:PASSWORD@HOST/NAME",
                check: |text| text == "sqlite" || PostgresUrl::is_url(text),
            },
            OnRestart,
            "Database: sqlite, in state_dir, for one hub; or the URL of a PostgreSQL database, 15 or later, which several hubs may share. It verifies the server with sslmode=verify-full, with sslrootcert=FILE by an authority of its own.",
        ),
        row(
            "hub.instance",
            None,
            NAME,
            OnRestart,
            "Name of this hub among those that share a PostgreSQL database. Default: the host name.",
        ),
        row(
            "hub.url",
            None,
            Kind::Text {
                what: "the address of a web server, such as https://hub1.example.org:9520",
                check: |text| Url::parse_web(text).is_ok(),
            },
            OnRestart,
            "Address of the web port of this hub for the other hubs, which pass requests for its nodes on to it, and for Prometheus (/sd).",
        ),
        row(
            "hm.listen",
            Some("127.0.0.1:9521"),
            ADDRESS,
            OnRestart,
            "Address and port for hm nodes. Beyond loopback, nodes.admission must be set.",
        ),
        row(
            "hm.job",
            Some("hm"),
            NAME,
            OnRestart,
            "Value of the label job in /metrics/prometheus of the hm port.",
        ),
        row(
            "core.listen",
            Some("127.0.0.1:9999"),
            ADDRESS,
            OnRestart,
            "Address and port for Core nodes, monitor clients and the REST API. Beyond loopback, nodes.admission and operators.tokens_file must be set.",
        ),
        row(
            "web.listen",
            Some("127.0.0.1:9520"),
            ADDRESS,
            OnRestart,
            "Address and port of the fleet page, its API and the REST API; for Prometheus, the list of nodes, their metrics and those of the hub; and for health endpoints. Beyond loopback, operators.tokens_file must be set.",
        ),
        row(
            "hm.tls",
            None,
            Kind::Flag,
            OnRestart,
            "Whether hm.listen requires TLS. Default: true, if tls.certificate_file is set.",
        ),
        row("core.tls", None, Kind::Flag, OnRestart, "The same for core.listen."),
        row("web.tls", None, Kind::Flag, OnRestart, "The same for web.listen."),
        row(
            "tls.certificate_file",
            None,
            PATH,
            OnRestart,
            "PEM file with the certificate of the hub and those of intermediate authorities. It and the next two are read again when they change.",
        ),
        row(
            "tls.key_file",
            None,
            Kind::SecretFile,
            OnRestart,
            "PEM file with the key of the certificate: PKCS#8, PKCS#1 or SEC1, without a password.",
        ),
        row(
            "tls.client_ca_file",
            None,
            PATH,
            OnRestart,
            "PEM file with certificate authorities. If it is set, clients must present a certificate of one of them to every port with TLS.",
        ),
        row(
            "operators.tokens_file",
            None,
            Kind::SecretFile,
            OnReload,
            "File with one operator per line: TOKEN ROLE NAME, where ROLE is read, operate or command. Needed unless core.listen and web.listen are loopback addresses; once set it applies to them, too.",
        ),
        row(
            "commands.enabled",
            Some("false"),
            Kind::Flag,
            OnRestart,
            "Accept commands for Core nodes on the REST API.",
        ),
        row(
            "nodes.admission",
            None,
            Kind::Text { what: "open or token", check: |text| matches!(text, "open" | "token") },
            OnReload,
            "open: every node may connect. token: nodes that send a token of nodes.tokens_file. Default: open, if hm.listen and core.listen are loopback addresses.",
        ),
        row(
            "nodes.tokens_file",
            None,
            Kind::SecretFile,
            OnReload,
            "File with one token per line: TOKEN [node=ID] [group=NAME].",
        ),
        row(
            "nodes.offline_after",
            Some("60"),
            seconds(86_400),
            OnRestart,
            "Seconds after which a node that has lost its connection is offline, 1 to 86400.",
        ),
        row(
            "fleet.on_change",
            None,
            NAMES,
            OnRestart,
            "Program and arguments to run when nodes come online or go offline, once for all that have changed.",
        ),
        row(
            "history.raw",
            Some("24h"),
            DURATION,
            OnRestart,
            "How long reports and metrics are kept.",
        ),
        row(
            "history.means",
            Some("30d"),
            DURATION,
            OnRestart,
            "How long 5-minute sums of hm reports, and commands, are kept.",
        ),
    ],
};
