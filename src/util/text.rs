//! Text from outside: escaped for the log, parsed as a number.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

/// Enough of an offending text for an error message.
pub const EXCERPT_CHARS: usize = 40;

/// Escapes everything that is not printable and truncates the text after `max_chars` characters. Peers write in any language, so
/// printable Unicode is kept; control characters could forge log lines or move a terminal's cursor.
pub fn escape_for_log(text: impl AsRef<[u8]>, max_chars: usize) -> String {
    let mut out = String::new();
    let mut left = max_chars;
    for chunk in text.as_ref().utf8_chunks() {
        let valid = chunk.valid().chars().map(Ok);
        for item in valid.chain(chunk.invalid().iter().map(|byte| Err(*byte))) {
            let Some(rest) = left.checked_sub(1) else {
                out.push('…');
                return out;
            };
            left = rest;
            match item {
                Ok(character) if !character.is_ascii() => out.extend(character.escape_debug()),
                Ok(character) => out.extend((character as u8).escape_ascii().map(char::from)),
                Err(byte) => out.extend(byte.escape_ascii().map(char::from)),
            }
        }
    }
    out
}

/// Parses digits only, without a sign. `None` if the number overflows.
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_digits_that_fit() {
        assert_eq!(parse_decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b"18446744073709551616"[..], b"", b"-1", b"+1", b"1.0", b"0x10", b"12x4"] {
            assert_eq!(parse_decimal(bad), None, "{}", escape_for_log(bad, EXCERPT_CHARS));
        }
    }

    #[test]
    fn escapes_control_characters_and_invalid_bytes() {
        assert_eq!(escape_for_log("12x4\x1b[2J\n\"", 40), r#"12x4\x1b[2J\n\""#);
        assert_eq!(escape_for_log(b"a\xff\xc3(", 40), r"a\xff\xc3(");
        assert_eq!(escape_for_log("Zürich \u{202e}", 40), r"Zürich \u{202e}");
    }

    #[test]
    fn truncates_after_the_given_number_of_characters() {
        assert_eq!(escape_for_log("äöü", 3), "äöü");
        assert_eq!(escape_for_log("äöüß", 3), "äöü…");
        assert_eq!(escape_for_log("", 0), "");
        assert_eq!(escape_for_log("\n\n", 1), r"\n…");
    }
}
