//! `/proc/uptime`: seconds since boot, and idle seconds summed over all CPUs.
//!
//! Format: proc(5). A real line:
//!
//! ```text
//! 350735.47 234388.90
//! ```

use crate::procfs::{ParseError, fields, fraction};

/// Returns the seconds since boot.
pub fn parse(text: &[u8]) -> Result<f64, ParseError> {
    fraction(1, fields(text.trim_ascii()).next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn parses_a_real_sample() {
        assert_eq!(parse(b"350735.47 234388.90\n"), Ok(350735.47));
        assert!(parse(b"").is_err());
        assert!(parse(b"soon\n").is_err());
        parse_every_prefix(b"350735.47 234388.90\n", parse);
    }
}
