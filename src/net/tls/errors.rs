//! Explains errors of TLS handshakes to an operator.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::net::disconnect::DisconnectReason;
use crate::util::error::reason;
use crate::util::logger::utc;

/// What rustls' ring provider verifies. Also in docs/configuration.md.
const REMEDY: &str = "issue one with RSA of 2048 to 8192 bits, ECDSA P-256 or P-384 with SHA-256 or SHA-384, or Ed25519";

/// Signature and key algorithms, and elliptic curves, by object identifier.
const ALGORITHMS: [(&str, &str); 22] = [
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.10040.4.3", "dsa-with-SHA1"),
    ("2.16.840.1.101.3.4.3.2", "dsa-with-SHA256"),
    ("1.2.840.10045.2.1", "ECDSA"),
    ("1.2.840.10045.4.1", "ecdsa-with-SHA1"),
    ("1.2.840.10045.4.3.1", "ecdsa-with-SHA224"),
    ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256"),
    ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384"),
    ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512"),
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.2.840.113549.1.1.1", "RSA"),
    ("1.2.840.113549.1.1.4", "md5WithRSAEncryption"),
    ("1.2.840.113549.1.1.5", "sha1WithRSAEncryption"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS with other parameters"),
    ("1.2.840.113549.1.1.14", "sha224WithRSAEncryption"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
];

/// Classifies an error of a handshake. An error of TLS itself needs an operator; a broken connection, for example while a
/// server restarts, does not.
pub fn disconnect_reason(error: &io::Error) -> DisconnectReason {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(error) => DisconnectReason::Tls(describe(error)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            DisconnectReason::Lost("closed during the TLS handshake".to_owned())
        }
        None => DisconnectReason::Lost(reason(error)),
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => {
            format!("invalid peer certificate: {}", describe_certificate(why))
        }
        // The server does not send what is missing. Mostly it is the algorithm of its key.
        Error::AlertReceived(AlertDescription::HandshakeFailure) => format!(
            "{error}: server has no certificate or cipher suite that this agent supports, for example its key is P-521, Ed448 or DSA; {REMEDY}"
        ),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            format!("{error}: server supports neither TLS 1.2 nor TLS 1.3")
        }
        error => error.to_string(),
    }
}

/// As rustls describes it, but with readable times and algorithms. A wrong clock on this machine is as likely as a wrong
/// certificate.
fn describe_certificate(why: &CertificateError) -> String {
    use CertificateError as E;
    match why {
        E::ExpiredContext { time, not_after } => {
            let (now, end) = (utc(time.as_secs()), utc(not_after.as_secs()));
            format!("expired at {end}; local clock is {now}")
        }
        E::NotValidYetContext { time, not_before } => {
            let (now, start) = (utc(time.as_secs()), utc(not_before.as_secs()));
            format!("not valid before {start}; local clock is {now}")
        }
        E::UnknownIssuer => {
            "UnknownIssuer, no trusted authority has signed it; see tls.ca_file".to_owned()
        }
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id: id, .. } => {
            format!("signed with {}, which is not supported; {REMEDY}", algorithm(id))
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: signature,
            public_key_algorithm_id: key,
        } => format!(
            "signed with {} by a key of type {}, which is not supported; {REMEDY}",
            algorithm(signature),
            algorithm(key),
        ),
        E::BadSignature => {
            format!(
                "BadSignature, its authority has another key, or the key is not supported; {REMEDY}"
            )
        }
        E::Other(other) => match other.to_string() {
            name if name == "CaUsedAsEndEntity" => {
                "it is that of an authority (CA:TRUE), which cannot be a server's".to_owned()
            }
            name if name == "UnsupportedCertVersion" => {
                "X.509 version 1 or 2, only version 3 is supported".to_owned()
            }
            name => name,
        },
        why => why.to_string(),
    }
}

/// Names the algorithm of an X.509 `AlgorithmIdentifier`, with the curve of an elliptic key.
fn algorithm(der: &[u8]) -> String {
    let Some((oid, parameters)) = split_oid(der) else { return "an unknown algorithm".to_owned() };
    match split_oid(parameters) {
        Some((curve, _)) => format!("{} {}", name(oid), name(curve)),
        None => name(oid),
    }
}

/// The content of the object identifier that `der` begins with, and the rest.
fn split_oid(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const OBJECT_IDENTIFIER: u8 = 6;
    match der {
        [OBJECT_IDENTIFIER, length @ 1..=127, rest @ ..] => {
            rest.split_at_checked(usize::from(*length))
        }
        _ => None,
    }
}

fn name(oid: &[u8]) -> String {
    let dotted = dotted(oid);
    let known = ALGORITHMS.iter().find(|(oid, _)| *oid == dotted);
    known.map_or(dotted, |(_, name)| (*name).to_owned())
}

/// An object identifier's content (X.690, 8.19) in dotted form.
fn dotted(oid: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut arc = 0u64;
    for byte in oid {
        arc = arc << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    // The first number holds the first two arcs.
    if let Some(first) = arcs.first_mut() {
        let root = (*first / 40).min(2);
        *first -= root * 40;
        arcs.insert(0, root);
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An `AlgorithmIdentifier`'s content.
    fn identifier(oids: &[&[u8]]) -> Vec<u8> {
        oids.iter().flat_map(|oid| [&[6, oid.len() as u8][..], oid].concat()).collect()
    }

    #[test]
    fn names_algorithms_and_curves() {
        let ecdsa = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1][..];
        for (oids, name) in [
            (&[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4][..]][..], "ecdsa-with-SHA512"),
            (&[&[0x2b, 0x65, 0x71][..]], "Ed448"),
            (&[ecdsa, &[0x2b, 0x81, 4, 0, 35]], "ECDSA P-521"),
            (&[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 2][..]], "dsa-with-SHA256"),
            (&[&[0x2a, 0x83, 9][..]], "1.2.393"),
        ] {
            assert_eq!(algorithm(&identifier(oids)), name);
        }
    }

    #[test]
    fn malformed_identifiers_do_not_panic() {
        for der in [&[][..], &[6], &[6, 0], &[6, 5, 1], &[6, 200, 1], &[48, 3, 6, 1, 1]] {
            assert_eq!(algorithm(der), "an unknown algorithm");
        }
        assert_eq!(algorithm(&[[6, 100].as_slice(), &[0xff; 100]].concat()), "");
    }
}
