//! `/proc/vmstat`: counters of the memory management, of which one is wanted.
//!
//! Format: one `name value` a line; `oom_kill` since kernel 4.13. A real line:
//!
//! ```text
//! oom_kill 0
//! ```

use super::{ParseError, fields, lines, number};

/// Processes killed since boot because memory ran out; `None` on kernels that do not count them.
pub fn parse_oom_kills(text: &[u8]) -> Result<Option<u64>, ParseError> {
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        if fields.next() == Some(b"oom_kill") {
            return number(at, fields.next()).map(Some);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::testing::survives_every_cut;
    use super::*;

    #[test]
    fn finds_the_one_counter() {
        let real = b"nr_free_pages 5786345\npgfault 9938474\noom_kill 3\nnuma_hit 1\n";
        assert_eq!(parse_oom_kills(real), Ok(Some(3)));
        assert_eq!(parse_oom_kills(b"nr_free_pages 5786345\n"), Ok(None));
        assert!(parse_oom_kills(b"oom_kill many\n").is_err());
        survives_every_cut(real, parse_oom_kills);
    }
}
