//! TLS servers with certificates of an authority that the test makes.

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::TempDir;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is wrong with the server's certificate.
#[derive(PartialEq)]
pub enum Flaw {
    None,
    Name,
    Expired,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
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
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let expires = if *flaw == Flaw::Expired { 2020 } else { 2040 };
        params.not_after = date_time_ymd(expires, 1, 1);
        let key = KeyPair::generate().unwrap();
        // Signed by an intermediate.
        let mut intermediate = CertificateParams::default();
        intermediate.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        intermediate.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
        let intermediate =
            CertifiedIssuer::signed_by(intermediate, KeyPair::generate().unwrap(), &self.0)
                .unwrap();
        let certificate = params.signed_by(&key, &intermediate).unwrap();
        let chain = [certificate.der(), intermediate.der()];
        let chain = chain.map(|each| CertificateDer::from(each.to_vec())).to_vec();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}
