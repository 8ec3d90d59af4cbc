use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::*;
use crate::http::stream::{HandshakeError, ServerStream};
use crate::util::deadline_stream::DeadlineStream;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("hm-tls-files-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a new certificate and its key.
    fn write(&self, certificate: &str, key: &str) {
        let (made, pair) = certificate_and_key();
        fs::write(self.path(certificate), made).unwrap();
        fs::write(self.path(key), pair.serialize_pem()).unwrap();
    }

    fn files(&self, certificate: &str, key: &str) -> TlsFiles {
        TlsFiles { certificate: self.path(certificate), key: self.path(key), client_ca: None }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn certificate_and_key() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key)
}

fn error(files: &TlsFiles) -> (&'static str, String) {
    let error = TlsAcceptor::new(files.clone()).unwrap_err();
    (error.setting, error.why)
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let dir = Dir::new("errors");
    dir.write("c", "k");
    dir.write("other-c", "other-k");
    assert!(TlsAcceptor::new(dir.files("c", "k")).is_ok());
    let key = fs::read_to_string(dir.path("k")).unwrap();
    fs::write(dir.path("half"), &key[..key.len() / 2]).unwrap();
    fs::write(dir.path("encrypted"), key.replace("PRIVATE", "ENCRYPTED PRIVATE")).unwrap();
    fs::write(
        dir.path("garbled"),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    fs::write(
        dir.path("no-x509"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    for (certificate, key, setting, why) in [
        ("missing", "k", "certificate_file", "cannot read DIR/missing: no such file or directory"),
        ("k", "k", "certificate_file", "DIR/k contains no certificate in PEM format"),
        ("no-x509", "k", "certificate_file", "the first certificate in DIR/no-x509 is not valid"),
        ("c", "missing", "key_file", "cannot read DIR/missing: no such file or directory"),
        ("c", "c", "key_file", "DIR/c contains no private key in PEM format"),
        ("c", "half", "key_file", "cannot read DIR/half: it ends within a private key"),
        ("c", "encrypted", "key_file", "cannot read DIR/encrypted: the private key is encrypted"),
        ("c", "garbled", "key_file", "cannot use the key in DIR/garbled: "),
        ("c", "other-k", "key_file", "DIR/other-k is not the key of the certificate in DIR/c"),
    ] {
        let (found, text) = error(&dir.files(certificate, key));
        let text = text.replace(dir.0.to_str().unwrap(), "DIR");
        assert!(found == setting && text.starts_with(why), "{certificate} {key}: {found} {text}");
    }
    let client_ca = Some(dir.path("k"));
    let (setting, why) = error(&TlsFiles { client_ca, ..dir.files("c", "k") });
    assert_eq!(setting, "client_ca_file");
    assert!(why.ends_with("/k contains no certificate in PEM format"), "{why}");
}

/// `openssl` writes keys in the formats that rcgen does not.
#[test]
#[ignore = "needs openssl"]
fn accepts_keys_in_every_format() {
    let dir = Dir::new("formats");
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.current_dir(&dir.0).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    openssl("genrsa -out rsa 2048");
    openssl("rsa -in rsa -traditional -out pkcs1");
    openssl("ecparam -name prime256v1 -genkey -noout -out sec1");
    openssl("pkcs8 -topk8 -nocrypt -in sec1 -out pkcs8");
    openssl("genpkey -algorithm ed25519 -out ed25519");
    for (name, begin) in [
        ("pkcs1", "RSA PRIVATE"),
        ("sec1", "EC PRIVATE"),
        ("pkcs8", "PRIVATE"),
        ("ed25519", "PRIVATE"),
    ] {
        let key = fs::read_to_string(dir.path(name)).unwrap();
        assert!(key.starts_with(&format!("-----BEGIN {begin} KEY-----")), "{key}");
        openssl(&format!("req -x509 -new -key {name} -subj /CN=localhost -days 1 -out {name}.pem"));
        TlsAcceptor::new(dir.files(&format!("{name}.pem"), name)).unwrap();
    }
}

#[test]
fn broken_renewal_keeps_the_former_certificate() {
    let dir = Dir::new("renewal");
    dir.write("c", "k");
    dir.write("new-c", "new-k");
    let tls = TlsAcceptor::new(dir.files("c", "k")).unwrap();
    let state = || lock(&tls.reload).state;
    let first = tls.config();
    tls.reload_if_changed();
    assert!(Arc::ptr_eq(&first, &tls.config()), "unchanged files are not read again");
    // The certificate is replaced before its key.
    fs::rename(dir.path("new-c"), dir.path("c")).unwrap();
    for expected in [ReloadState::Failed, ReloadState::Warned, ReloadState::Warned] {
        tls.reload_if_changed();
        assert_eq!(state(), expected);
        assert!(Arc::ptr_eq(&first, &tls.config()));
    }
    fs::rename(dir.path("new-k"), dir.path("k")).unwrap();
    tls.reload_if_changed();
    assert_eq!(state(), ReloadState::Current);
    assert!(!Arc::ptr_eq(&first, &tls.config()));
    fs::remove_file(dir.path("k")).unwrap();
    tls.reload_if_changed();
    assert_eq!(state(), ReloadState::Failed);
}

/// The server's end of a connection in memory. Every second call reports WouldBlock; the others transfer a few bytes.
#[derive(Default)]
struct SlowSocket {
    input: VecDeque<u8>,
    output: Vec<u8>,
    calls: usize,
}

impl SlowSocket {
    fn is_blocked(&mut self) -> bool {
        self.calls += 1;
        self.calls.is_multiple_of(2)
    }
}

impl Read for SlowSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_blocked() || self.input.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = buffer.len().min(7);
        self.input.read(&mut buffer[..length])
    }
}

impl Write for SlowSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_blocked() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = bytes.len().min(1000);
        self.output.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Calls `work` until it does not report WouldBlock, and passes the bytes of both ends on after each call.
fn drive<R>(
    stream: &mut TlsStream<SlowSocket>,
    client: &mut ClientConnection,
    mut work: impl FnMut(&mut TlsStream<SlowSocket>) -> io::Result<R>,
) -> R {
    for _ in 0..1_000_000 {
        while client.wants_write() {
            client.write_tls(&mut stream.socket_mut().input).unwrap();
        }
        let result = work(stream);
        let mut output = &std::mem::take(&mut stream.socket_mut().output)[..];
        while !output.is_empty() {
            client.read_tls(&mut output).unwrap();
            client.process_new_packets().unwrap();
        }
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result.unwrap(),
        }
    }
    panic!("no progress");
}

fn client(dir: &Dir) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    let chain = crate::net::tls::read_certificates(&dir.path("c")).unwrap();
    roots.add_parsable_certificates(chain);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client =
        ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    client.set_buffer_limit(None);
    client
}

#[test]
fn slow_socket_that_changes_hands_loses_nothing() {
    let dir = Dir::new("stream");
    dir.write("c", "k");
    let tls = TlsAcceptor::new(dir.files("c", "k")).unwrap();
    let mut client = client(&dir);
    let connection = ServerConnection::new(tls.config()).unwrap();
    let mut stream = TlsStream::new(connection, SlowSocket::default());
    drive(&mut stream, &mut client, TlsStream::handshake);
    let message: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
    client.writer().write_all(&message).unwrap();
    let mut received = Vec::new();
    while received.len() < message.len() {
        // A byte at a time: more has been decrypted when the socket changes hands.
        let mut part = vec![0; if received.len() < 100 { 1 } else { 4000 }];
        let read = drive(&mut stream, &mut client, |stream| stream.read(&mut part));
        received.extend_from_slice(&part[..read]);
        if received.len() == 50 {
            let moved = MaybeTlsStream::Tls(Box::new(stream)).try_map(Ok).unwrap();
            let MaybeTlsStream::Tls(moved) = moved else { panic!("without TLS") };
            stream = *moved;
        }
    }
    assert!(received == message, "received other bytes");
    let mut rest = &message[..];
    let mut sent_back = Vec::new();
    while !rest.is_empty() {
        let written = drive(&mut stream, &mut client, |stream| stream.write(rest));
        rest = &rest[written..];
        drive(&mut stream, &mut client, TlsStream::flush);
        let _ = client.reader().read_to_end(&mut sent_back);
    }
    assert!(sent_back == message, "sent other bytes");
}

#[test]
fn handshake_counts_from_the_complete_hello() {
    let dir = Dir::new("hello");
    dir.write("c", "k");
    let tls = TlsAcceptor::new(dir.files("c", "k")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let shutdown = Shutdown::new().unwrap();
    let mut hello = Vec::new();
    client(&dir).write_tls(&mut hello).unwrap();
    for (length, expected) in [(0, false), (hello.len() - 1, false), (hello.len(), true)] {
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = DeadlineStream::new(listener.accept().unwrap().0, &shutdown).unwrap();
        peer.write_all(&hello[..length]).unwrap();
        let mut is_counted = false;
        // The client waits for the answer, or ends at once.
        let ended = std::thread::spawn(move || {
            let answered = expected && peer.read(&mut [0]).is_ok_and(|read| read > 0);
            // Data that is not read would reset the connection while the server still sends its answer.
            peer.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            while answered && peer.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
            drop(peer);
            answered
        });
        let accepted = ServerStream::accept_tls(stream, tls.config(), || is_counted = true);
        assert!(matches!(accepted, Err(HandshakeError::Io(_))), "without the client's end");
        assert_eq!((is_counted, ended.join().unwrap()), (expected, expected), "{length}");
    }
}
