//! Bearer tokens (RFC 6750).

use crate::config::Secret;
use crate::http::request::{RequestHead, trim_ows};
use crate::http::response::ErrorResponse;

/// Rejects a request without the token, if one is configured. A wrong token gets another text than a missing one, so that
/// an operator knows which of the two ends to correct.
pub(crate) fn check_token(
    head: &RequestHead<'_>,
    token: Option<&Secret>,
) -> Result<(), ErrorResponse> {
    let Some(token) = token else { return Ok(()) };
    let in_header = bearer_token(head).map(|text| text.as_bytes().to_vec());
    let in_query = head.query_value("token");
    let given: Vec<Vec<u8>> = in_header.into_iter().chain(in_query).collect();
    if given.iter().any(|candidate| token.matches(candidate)) {
        return Ok(());
    }
    let (text, challenge) = match given.iter().all(Vec::is_empty) {
        true => {
            let path = head.path;
            let how = format!("\"Authorization: Bearer TOKEN\" or {path}?token=TOKEN");
            (format!("token required: {how}"), "WWW-Authenticate: Bearer")
        }
        false => (
            "wrong token: it is not the token of this port".to_owned(),
            "WWW-Authenticate: Bearer error=\"invalid_token\"",
        ),
    };
    Err(ErrorResponse::new("401 Unauthorized", text).header(challenge))
}

/// The token in `Authorization`.
pub(crate) fn bearer_token<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    let (scheme, credentials) = head.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| trim_ows(credentials))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, headers: &str) -> Result<(), ErrorResponse> {
        let text = format!("GET {target} HTTP/1.1\r\n{headers}\r\n");
        let mut slots = RequestHead::header_slots();
        let parsed = RequestHead::parse(text.as_bytes(), &mut slots).expect("a valid head");
        check_token(&parsed.expect("a complete head").0, Some(&Secret::new("s3cret".into())))
    }

    #[test]
    fn accepts_the_token_in_header_or_query() {
        for (target, headers) in [
            ("/usage", "Authorization: Bearer s3cret\r\n"),
            ("/usage", "authorization: bearer  s3cret \r\n"),
            ("/usage?token=s3cret", ""),
            ("/usage?a=b&token=s%33cret", "Authorization: Basic YTpi\r\n"),
            ("/usage?token=s3cret", "Authorization: Bearer wrong\r\n"),
        ] {
            assert!(check(target, headers).is_ok(), "{target} {headers}");
        }
    }

    #[test]
    fn distinguishes_missing_from_wrong_tokens() {
        for (target, headers) in [
            ("/usage", ""),
            ("/usage?token=", ""),
            ("/usage?tokens=s3cret", ""),
            ("/usage", "Authorization: Basic s3cret\r\n"),
            ("/usage", "Authorization: Bearer\r\n"),
            ("/usage", "Authorization: Bearer \t\r\n"),
        ] {
            let error = check(target, headers).unwrap_err();
            assert!(error.text.starts_with("token required: "), "{target} {headers}");
            assert_eq!(error.headers, "WWW-Authenticate: Bearer\r\n");
        }
        for (target, headers) in [
            ("/usage", "Authorization: Bearer s3cre\r\n"),
            ("/usage", "Authorization: Bearer s3crets\r\n"),
            ("/usage?token=%ff", ""),
            ("/usage?token=S3CRET", "Authorization: Basic s3cret\r\n"),
        ] {
            let error = check(target, headers).unwrap_err();
            assert!(error.text.starts_with("wrong token"), "{target} {headers}");
            let challenge = "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n";
            assert_eq!((error.status, &*error.headers), ("401 Unauthorized", challenge));
        }
    }
}
