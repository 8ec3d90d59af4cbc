//! Texts that must not be printed.

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

/// A text that must not be printed. It has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, to be sent to a peer.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Compares digests in constant time, so that response times reveal neither the secret nor, as a comparison of slices of
    /// different lengths would, its length.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        sha256(self.0.as_bytes()).ct_eq(&sha256(candidate)).into()
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}
