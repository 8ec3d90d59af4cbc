//! Values that PostgreSQL accepts.

use std::borrow::Cow;

/// PostgreSQL has no U+0000 in texts. A client that sends one must not make the writes of others fail.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}").into(),
        false => text.into(),
    }
}

pub(super) fn optional_text(value: Option<&str>) -> Option<Cow<'_, str>> {
    value.map(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_no_null_characters() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        assert!(matches!(text("a"), Cow::Borrowed("a")));
    }
}
