//! The files of TLS: renewals, certificates of clients, `hm-hub check`, and the subcommands that talk to the hub.

use std::process::Output;

use rustls::pki_types::CertificateDer;

use crate::support::hub::{Node, hm_hub};
use crate::support::tls_server::{Authority, connect};
use crate::support::{TempDir, wait_until};
use crate::tls::{TlsHub, get};

impl TlsHub {
    /// The certificate that a new connection to the web port gets.
    fn certificate(&self) -> CertificateDer<'static> {
        let socket = connect(self.hub.web, &self.client).unwrap();
        socket.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Writes a new certificate and key to other files, `new.pem` and `new.key`.
    fn renew(&self) {
        self.authority.files(&self.state, "new", &["127.0.0.1"]);
    }

    /// Replaces a file by its new one.
    fn replace(&self, extension: &str) {
        let path = |name: &str| self.state.0.join(format!("{name}.{extension}"));
        std::fs::rename(path("new"), path("hub")).unwrap();
    }

    fn count_log(&self, text: &str) -> usize {
        self.hub.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Runs `hm-hub` with the hub's settings.
    fn run(&self, settings: &[&str], arguments: &[&str]) -> Output {
        let mut command = hm_hub();
        let ports =
            [format!("core.listen={}", self.hub.core), format!("web.listen={}", self.hub.web)];
        let own = self.settings.iter().chain(&ports).map(String::as_str);
        for setting in own.chain(settings.iter().copied()) {
            command.args(["-s", setting]);
        }
        command.args(arguments).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn new_connections_get_the_renewed_certificate() {
    let tls = TlsHub::start(&[]);
    let before = tls.certificate();
    let mut node = tls.node();
    assert_eq!(node.online("a"), 0);
    tls.renew();
    tls.replace("key");
    tls.replace("pem");
    wait_until("the new certificate", || (tls.certificate() != before).then_some(()));
    tls.hub.wait_log("TLS certificate reloaded from ");
    assert_eq!(node.report(1), 0, "the earlier connection stays");
    assert_eq!(tls.count_log(" warn "), 0, "{:#?}", tls.hub.log());
}

#[test]
fn broken_renewal_keeps_the_certificate_and_recovers() {
    let tls = TlsHub::start(&[]);
    let before = tls.certificate();
    let complete = std::fs::read_to_string(tls.state.0.join("hub.pem")).unwrap();
    tls.state.write("hub.pem", &complete[..complete.len() / 3]);
    tls.hub.wait_log("TLS certificate reload failed, keeping previous: cannot read ");
    assert_eq!(tls.certificate(), before);
    // The other way: a certificate whose key is missing.
    tls.renew();
    tls.replace("pem");
    tls.hub.signal("-HUP");
    tls.hub.wait_log("configuration reload failed, keeping previous: ");
    assert!(tls.count_log("is not the key of the certificate") == 1, "{:#?}", tls.hub.log());
    assert_eq!(tls.certificate(), before);
    tls.replace("key");
    tls.hub.wait_log("TLS certificate recovered from ");
    assert_ne!(tls.certificate(), before);
    assert_eq!(tls.count_log("TLS certificate reload failed"), 1, "{:#?}", tls.hub.log());
}

#[test]
fn sighup_reads_the_files_again() {
    let tls = TlsHub::start(&[]);
    let before = tls.certificate();
    tls.renew();
    tls.replace("key");
    tls.replace("pem");
    tls.hub.signal("-HUP");
    tls.hub.wait_log("configuration reloaded");
    assert_ne!(tls.certificate(), before);
}

#[test]
fn clients_need_a_certificate_of_the_configured_authority() {
    let tls = TlsHub::start(&["tls.client_ca_file=CA_FILE"]);
    let own = tls.authority.files(&tls.state, "client", &["client"]);
    let with_certificate = tls.authority.client(Some(&own));
    let response = get(tls.hub.web, &with_certificate, "/-/healthy").unwrap();
    assert!(response.ends_with("OK\n"), "{response}");
    let socket = connect(tls.hub.address, &with_certificate).unwrap();
    let mut node = Node::over(socket, tls.hub.address, "").unwrap();
    assert_eq!(node.online("a"), 0);
    let (stranger, scratch) = (Authority::with_name("stranger"), TempDir::new("stranger"));
    let foreign = stranger.files(&scratch, "client", &["client"]);
    for refused in [tls.authority.client(None), tls.authority.client(Some(&foreign))] {
        let error = get(tls.hub.web, &refused, "/-/healthy").unwrap_err().to_string();
        assert!(error.contains("received fatal alert"), "{error}");
    }
    tls.hub.wait_log("TLS handshake failed: peer sent no certificates");
    tls.hub.wait_log("TLS handshake failed: invalid peer certificate: UnknownIssuer");
    let status = tls.run(&[], &["status"]);
    assert!(text(&status).starts_with("OK - 1 online"), "{status:?}");
}

#[test]
fn subcommands_verify_the_hub() {
    let tls = TlsHub::start(&[]);
    let mut node = tls.node();
    assert_eq!(node.online("gpu-17"), 0);
    let listed = tls.run(&[], &["node", "list"]);
    assert!(listed.status.success() && text(&listed).contains("gpu-17  online"), "{listed:?}");
    let status = tls.run(&[], &["status"]);
    assert!(text(&status).starts_with("OK - 1 online"), "{status:?}");
    // Another hub's certificate.
    let (stranger, scratch) = (Authority::with_name("stranger"), TempDir::new("stranger"));
    let (chain, key) = stranger.files(&scratch, "hub", &["127.0.0.1"]);
    let other = [format!("tls.certificate_file={chain}"), format!("tls.key_file={key}")];
    let other = other.each_ref().map(String::as_str);
    let refused = tls.run(&other, &["node", "list"]);
    assert!(
        text(&refused).contains("the authority of the server's certificate is unknown"),
        "{refused:?}"
    );
    let refused = tls.run(&["core.tls=false"], &["node", "list"]);
    assert!(text(&refused).contains("this port requires TLS"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn subcommand_explains_a_port_without_tls() {
    let tls = TlsHub::start(&["core.tls=false"]);
    let refused = tls.run(&["core.tls=true"], &["node", "list"]);
    assert!(text(&refused).contains("the server does not use TLS here"), "{refused:?}");
    assert!(tls.run(&[], &["node", "list"]).status.success());
}

#[test]
fn check_says_what_is_wrong_with_the_files() {
    let (authority, state) = (Authority::new(), TempDir::new("hub"));
    let (chain, key) = authority.files(&state, "hub", &["localhost"]);
    let (_, other_key) = authority.files(&state, "other", &["localhost"]);
    let check = |settings: &[&str]| {
        let mut command = hm_hub();
        for setting in settings {
            command.args(["-s", setting]);
        }
        let output = command.arg("check").output().unwrap();
        (output.status.code(), text(&output))
    };
    let (chain, key) = (format!("tls.certificate_file={chain}"), format!("tls.key_file={key}"));
    let (code, shown) = check(&[&chain, &key, "core.tls=false"]);
    assert!(code == Some(0) && shown.contains("core.tls = false"), "{shown}");
    assert!(!shown.contains("every user can read it"), "{shown}");
    let other_key = format!("tls.key_file={other_key}");
    for (settings, why) in [
        (&[&*chain, &*other_key][..], "tls.key_file: "),
        (&[&chain, &other_key], "other.key is not the key of the certificate in "),
        (&[&chain, "tls.key_file=/nonexistent"], "cannot read /nonexistent: no such file"),
        (&[&chain], "tls.certificate_file: needs tls.key_file"),
        (&["web.tls=true"], "web.tls: needs tls.certificate_file and tls.key_file"),
        (&[&chain, &key, "tls.client_ca_file=/nonexistent"], "tls.client_ca_file: cannot read /n"),
    ] {
        let (code, shown) = check(settings);
        assert!(code == Some(2) && shown.contains(why), "{settings:?}: {shown}");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(state.0.join("hub.key"), mode).unwrap();
    let (code, shown) = check(&[&chain, &key]);
    assert!(code == Some(0) && shown.contains("contains a secret and every user can read it"));
}
