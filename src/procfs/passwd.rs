//! `/etc/passwd`: names of users, see passwd(5). A real line:
//!
//! ```text
//! alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash
//! ```

use crate::util::text::parse_decimal;

/// Name of the first user with this ID.
pub fn parse_name(text: &[u8], uid: u32) -> Option<String> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        let is_found = parse_decimal(id) == Some(uid.into()) && !name.is_empty();
        is_found.then(|| String::from_utf8_lossy(name).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const TEXT: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n+nis\nalice:x:1000:1000:Alice,,,:/home/alice:/bin/bash\nbob:x:1000:1000::/:/bin/sh\n";

    #[test]
    fn finds_first_user_with_id() {
        assert_eq!(parse_name(TEXT, 0).as_deref(), Some("root"));
        assert_eq!(parse_name(TEXT, 1000).as_deref(), Some("alice"));
        assert_eq!(parse_name(TEXT, 1001), None);
    }

    #[test]
    fn ignores_malformed_lines() {
        for bad in [&b""[..], b"a", b"a:x", b"a:x:-1:", b":x:7:7", &[b'9'; 400]] {
            assert_eq!(parse_name(bad, 7), None);
        }
        parse_every_prefix(TEXT, |text| parse_name(text, 1000).ok_or(()));
    }
}
