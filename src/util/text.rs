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

use std::borrow::Cow;

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

/// Whether a terminal would act on a character instead of showing it: control characters, and those that reorder text or break
/// lines.
fn is_terminal_control(character: char) -> bool {
    let reorders = [
        '\u{61c}'..='\u{61c}',
        '\u{200e}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2066}'..='\u{2069}',
    ];
    let breaks_line = ['\u{2028}', '\u{2029}'].contains(&character);
    character.is_control() || breaks_line || reorders.iter().any(|range| range.contains(&character))
}

/// Escapes what a terminal would act on, line ends included. Everything else is kept, so escaped text stays as it is.
pub fn escape_for_terminal(text: &str) -> Cow<'_, str> {
    if !text.contains(is_terminal_control) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match is_terminal_control(character) {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out.into()
}

/// [`escape_for_terminal`] for each line of a text.
pub fn escape_lines_for_terminal(text: &str) -> String {
    let lines = text.split('\n').map(escape_for_terminal);
    lines.collect::<Vec<_>>().join("\n")
}

/// Escapes in JSON what a terminal would act on. A JSON encoder does that for ASCII control characters only, and outside of
/// strings there are no other characters.
pub fn escape_json_for_terminal(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match is_terminal_control(character) && character != '\n' {
            true => {
                let mut units = [0; 2];
                let units = character.encode_utf16(&mut units);
                units.iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            false => out.push(character),
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

/// Parses digits, after a minus sign if the number is negative. `None` if it overflows.
pub fn parse_signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(parse_decimal(digits)?),
        None => i64::try_from(parse_decimal(text)?).ok(),
    }
}

/// What node_exporter makes of a device's name in a label or a metric name: lower-case letters, digits, colons and underscores; all
/// other characters become underscores, except at the ends.
pub fn sanitize_name(text: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | ':' | '_') => letter,
        _ => '_',
    };
    text.chars().map(letter).collect::<String>().trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_negative_numbers() {
        assert_eq!(parse_signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_signed(b"9223372036854775807"), Some(i64::MAX));
        for bad in [&b"-9223372036854775809"[..], b"9223372036854775808", b"-", b"", b"--1", b"+1"]
        {
            assert_eq!(parse_signed(bad), None, "{}", escape_for_log(bad, EXCERPT_CHARS));
        }
    }

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
    fn escapes_what_a_terminal_acts_on_and_nothing_else() {
        let line = "OK - fine application [a\\x7cb \"Zürich\" हिन्दी]| od=0.00;3;5;0;6";
        assert_eq!(escape_for_terminal(line), line);
        for (text, escaped) in [
            ("\x1b]0;a\x07", r"\u{1b}]0;a\u{7}"),
            ("a\r\nb\tc\x08\x7f", r"a\r\nb\tc\u{8}\u{7f}"),
            ("\u{9b}31m\u{85}", r"\u{9b}31m\u{85}"),
            ("a\u{202e}b\u{2066}\u{200f}\u{61c}", r"a\u{202e}b\u{2066}\u{200f}\u{61c}"),
            ("a\u{2028}b", r"a\u{2028}b"),
        ] {
            assert_eq!(escape_for_terminal(text), escaped);
            let lines = escape_lines_for_terminal(&format!("{text}\n"));
            assert!(!lines.contains(|each| is_terminal_control(each) && each != '\n'), "{lines:?}");
            let json = serde_json::to_string(text).unwrap();
            let safe = escape_json_for_terminal(&json);
            assert!(!safe.contains(is_terminal_control), "{safe:?}");
            assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }
    }

    #[test]
    fn truncates_after_the_given_number_of_characters() {
        assert_eq!(escape_for_log("äöü", 3), "äöü");
        assert_eq!(escape_for_log("äöüß", 3), "äöü…");
        assert_eq!(escape_for_log("", 0), "");
        assert_eq!(escape_for_log("\n\n", 1), r"\n…");
    }
}
