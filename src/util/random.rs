//! Random ids and tokens.

use std::io;

/// A random UUID (version 4). Fails if the system has no random numbers.
pub fn uuid() -> io::Result<String> {
    Ok(uuid::Builder::from_random_bytes(bytes()?).into_uuid().to_string())
}

/// A random text of 43 characters that are safe in URLs. Fails if the system has no random numbers.
#[cfg(feature = "hub")]
pub fn token() -> io::Result<String> {
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bytes::<32>()?))
}

fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut random = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut random).map_err(|_| io::Error::other("system has no random numbers"))?;
    Ok(random)
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
