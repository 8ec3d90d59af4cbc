//! `/etc/os-release`: the distribution.
//!
//! Format: os-release(5), one shell assignment a line. A real line:
//!
//! ```text
//! PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
//! ```

use crate::procfs::{key_value, lines};

/// The variables that identify the system; empty if the file does not set them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    pub build_id: String,
    pub id: String,
    pub id_like: String,
    pub image_id: String,
    pub image_version: String,
    pub name: String,
    pub pretty_name: String,
    pub variant: String,
    pub variant_id: String,
    pub version: String,
    pub version_codename: String,
    pub version_id: String,
}

impl OsRelease {
    /// E.g. `Debian GNU/Linux 12 (bookworm)`.
    pub fn display_name(&self) -> Option<String> {
        let names = [&self.pretty_name, &self.name];
        names.into_iter().find(|name| !name.is_empty()).cloned()
    }
}

/// Unknown and malformed lines are ignored.
pub fn parse(text: &[u8]) -> OsRelease {
    let mut found = OsRelease::default();
    for (_, line) in lines(text) {
        let Some((key, value)) = key_value(line, b'=') else { continue };
        let slot = match key {
            b"BUILD_ID" => &mut found.build_id,
            b"ID" => &mut found.id,
            b"ID_LIKE" => &mut found.id_like,
            b"IMAGE_ID" => &mut found.image_id,
            b"IMAGE_VERSION" => &mut found.image_version,
            b"NAME" => &mut found.name,
            b"PRETTY_NAME" => &mut found.pretty_name,
            b"VARIANT" => &mut found.variant,
            b"VARIANT_ID" => &mut found.variant_id,
            b"VERSION" => &mut found.version,
            b"VERSION_CODENAME" => &mut found.version_codename,
            b"VERSION_ID" => &mut found.version_id,
            _ => continue,
        };
        *slot = unquote(value);
    }
    found
}

fn unquote(value: &[u8]) -> String {
    let quoted = |quote: u8| value.strip_prefix(&[quote])?.strip_suffix(&[quote]);
    let inner = quoted(b'"').or_else(|| quoted(b'\'')).unwrap_or(value);
    let text = String::from_utf8_lossy(inner);
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for letter in text.chars() {
        escaped = letter == '\\' && !escaped;
        if !escaped {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    fn display_name(text: &[u8]) -> Option<String> {
        parse(text).display_name()
    }

    #[test]
    fn parses_a_real_sample() {
        let real = b"# a comment\nNAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nHOME_URL=\"https://www.debian.org/\"\n";
        assert_eq!(display_name(real).unwrap(), "Debian GNU/Linux 12 (bookworm)");
        let found = parse(real);
        assert_eq!((&*found.id, &*found.version_id, &*found.variant), ("debian", "12", ""));
        assert_eq!(found.version, "12 (bookworm)");
        parse_every_prefix(real, |text| Ok::<_, ()>(parse(text)));
    }

    #[test]
    fn removes_shell_quotes_and_escapes() {
        assert_eq!(display_name(b"PRETTY_NAME='Alpine Linux'\n").unwrap(), "Alpine Linux");
        assert_eq!(display_name(b"NAME=Gentoo\n").unwrap(), "Gentoo");
        assert_eq!(display_name(b"NAME=\"a \\\"b\\\" \\\\ c\"\n").unwrap(), "a \"b\" \\ c");
        assert_eq!(display_name(b"PRETTY_NAME=\"\"\n"), None);
        assert_eq!(display_name(b"\xff\xfe"), None);
    }
}
