//! Verifies a server's certificate against the authorities of this moment. rustls' own verifier keeps them all, 0.2 MB
//! for as long as the agent runs, and never hears of a bundle that was renewed.

use std::path::PathBuf;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use webpki::EndEntityCert;

use crate::net::tls::provider::SIGNATURES;

/// Does what rustls' own verifier does without revocation lists, and by the same functions.
#[derive(Debug)]
pub struct Verifier {
    /// `tls.ca_file`.
    pub ca_file: Option<PathBuf>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // An authority is looked for by name, wherever a chain of these certificates may end.
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .filter_map(|each| EndEntityCert::try_from(each).ok())
            .collect();
        let names: Vec<&[u8]> = chain.iter().map(|each| each.issuer()).collect();
        let roots = super::roots(self.ca_file.as_deref(), &names).map_err(Error::General)?.store;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            SIGNATURES.all,
        )?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &SIGNATURES)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}
