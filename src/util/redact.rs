//! Removes secrets from text that peers send.

use crate::util::percent;
use crate::util::text::escape_for_log;

/// Replaces a secret.
const REDACTED: &str = "(redacted)";
/// Secrets and prefixes of secrets up to this length are not redacted: they reveal nothing and occur in ordinary text, which
/// replacing them would garble.
const MAX_HARMLESS_CHARS: usize = 3;

/// Secrets that a server may send back and that must not reach the log or a status page.
#[derive(Default)]
pub struct Redactor(Vec<String>);

impl Redactor {
    pub fn new(mut secrets: Vec<String>) -> Self {
        secrets.retain(|secret| secret.chars().count() > MAX_HARMLESS_CHARS);
        // The longest first: replacing a part of a secret would leave the rest of it visible.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    pub fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| redact(&text, secret))
    }
}

/// Redacts a secret in every form in which a server may send it back: plain, percent-encoded, and escaped for the log; and
/// the beginning of each form where the text was cut.
fn redact(text: &str, secret: &str) -> String {
    let forms = [
        secret.to_owned(),
        percent::encode(secret),
        secret.escape_debug().to_string(),
        secret.as_bytes().escape_ascii().to_string(),
        escape_for_log(secret, usize::MAX),
    ];
    let mut text = text.to_owned();
    for form in forms {
        text = text.replace(&form, REDACTED);
        let cuts: Vec<usize> =
            form.char_indices().skip(MAX_HARMLESS_CHARS).map(|(end, _)| end).collect();
        for end in cuts.into_iter().rev() {
            text = text.replace(&format!("{}…", &form[..end]), &format!("{REDACTED}…"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_every_form_of_a_secret_and_cut_ones() {
        let secret = "a \"b\" ü=c";
        for form in
            [secret, "a%20%22b%22%20%C3%BC%3Dc", "a \\\"b\\\" ü=c", "a \\\"b\\\" \\xc3\\xbc=c"]
        {
            assert_eq!(redact(&format!("x{form}y{form}"), secret), "x(redacted)y(redacted)");
        }
        assert_eq!(redact("x a \"b…", secret), "x (redacted)…");
        assert_eq!(redact("x a%20%22…", secret), "x (redacted)…");
        assert_eq!(redact("x a …", secret), "x a …");
    }

    #[test]
    fn redacts_the_longer_of_two_overlapping_secrets() {
        let redactor = Redactor::new(vec!["secret".to_owned(), "user:secret".to_owned()]);
        assert_eq!(redactor.redact("user:secret, secret"), "(redacted), (redacted)");
    }

    #[test]
    fn ignores_empty_and_very_short_secrets() {
        let secrets = ["", "a", "abc", "abcd"].map(str::to_owned).to_vec();
        assert_eq!(Redactor::new(secrets).redact("a cab, abc, abcd"), "a cab, abc, (redacted)");
    }
}
