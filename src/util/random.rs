//! Random ids.

use std::io;

/// A random UUID (version 4). Fails if the system has no random numbers.
pub fn uuid() -> io::Result<String> {
    let mut random = [0; 16];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut random).map_err(|_| io::Error::other("system has no random numbers"))?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_differ_and_have_version_4() {
        let (one, other) = (uuid().unwrap(), uuid().unwrap());
        assert!(one != other && one.len() == 36 && one.as_bytes()[14] == b'4', "{one} {other}");
    }
}
