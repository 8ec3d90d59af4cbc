//! Reads certificates and private keys in PEM format.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::util::error::reason;

/// The bundles of distributions have 200 KB to 500 KB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The certificates of a file, at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |why: String| format!("cannot read {}: {why}", path.display());
    let text = read_regular_file(path).map_err(|error| cannot(reason(&error)))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| cannot(describe(&error, "certificate")))?;
    match certificates.is_empty() {
        true => Err(format!("{} contains no certificate in PEM format", path.display())),
        false => Ok(certificates),
    }
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1.
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let cannot = |why: String| format!("cannot read {}: {why}", path.display());
    let text = read_regular_file(path).map_err(|error| cannot(reason(&error)))?;
    // "BEGIN ENCRYPTED PRIVATE KEY", and "Proc-Type: 4,ENCRYPTED" of OpenSSL's own format.
    if text.windows(9).any(|part| part == b"ENCRYPTED") {
        return Err(cannot("the private key is encrypted with a password".to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            format!("{} contains no private key in PEM format", path.display())
        }
        error => cannot(describe(&error, "private key")),
    })
}

/// A FIFO or a device in the place of the file would block the caller, or never end.
fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn describe(error: &pem::Error, item: &str) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => format!("it ends within a {item}"),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is not PEM".to_owned(),
        error => error.to_string(),
    }
}
