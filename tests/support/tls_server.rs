//! TLS servers and clients with certificates of an authority that the test makes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rcgen::{Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::{TEST_TIMEOUT, TempDir};

pub struct Authority(CertifiedIssuer<'static, KeyPair>, String);

/// What is wrong with the server's certificate.
#[derive(PartialEq)]
pub enum Flaw {
    None,
    Name,
    Expired,
}

impl Authority {
    pub fn new() -> Self {
        Self::with_name("authority of the tests")
    }

    /// Another authority with the same name has another key.
    pub fn with_name(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self(issuer, format!("intermediate {name}"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The authority's certificate in a file.
    pub fn file(&self, scratch: &TempDir) -> String {
        scratch.write("ca.pem", &self.pem())
    }

    pub fn server(&self, flaw: &Flaw) -> Arc<ServerConfig> {
        self.server_with(flaw, rustls::DEFAULT_VERSIONS)
    }

    /// The server resumes sessions. Its certificate is valid until 2040.
    pub fn server_with(
        &self,
        flaw: &Flaw,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let name = if *flaw == Flaw::Name { "elsewhere.example" } else { "localhost" };
        let (chain, key) = self.issue(&[name], if *flaw == Flaw::Expired { 2020 } else { 2040 });
        let chain = chain.iter().map(|each| each.der().clone()).collect();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// A certificate for DNS names and addresses, that of the intermediate authority that has signed it, and the key.
    fn issue(&self, names: &[&str], expires: i32) -> ([Certificate; 2], KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(expires, 1, 1);
        let key = KeyPair::generate().unwrap();
        let mut intermediate = CertificateParams::default();
        intermediate.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        intermediate.distinguished_name.push(rcgen::DnType::CommonName, &*self.1);
        let intermediate =
            CertifiedIssuer::signed_by(intermediate, KeyPair::generate().unwrap(), &self.0)
                .unwrap();
        let certificate = params.signed_by(&key, &intermediate).unwrap();
        ([certificate, intermediate.as_ref().clone()], key)
    }

    /// Files with a new certificate and its key, as `NAME.pem` and `NAME.key`.
    pub fn files(&self, scratch: &TempDir, name: &str, names: &[&str]) -> (String, String) {
        let (chain, key) = self.issue(names, 2040);
        let chain: String = chain.iter().map(Certificate::pem).collect();
        let key = scratch.write(&format!("{name}.key"), &key.serialize_pem());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        (scratch.write(&format!("{name}.pem"), &chain), key)
    }

    /// A client that trusts this authority only, with the certificate and key of these files, if any.
    pub fn client(&self, files: Option<&(String, String)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match files {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_file_iter(chain).unwrap();
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        })
    }
}

pub type TlsSocket = StreamOwned<ClientConnection, TcpStream>;

/// Connects to a server on this machine and completes the handshake.
pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsSocket> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(TEST_TIMEOUT))?;
    let name = ServerName::from(address.ip());
    let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
