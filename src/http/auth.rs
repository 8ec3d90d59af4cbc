//! Bearer tokens.

use crate::config::Secret;
use crate::http::request::{RequestHead, trim_ows};
use crate::http::response::ErrorResponse;

/// Rejects a request without the token, if one is configured.
pub(crate) fn check_token(
    head: &RequestHead<'_>,
    token: Option<&Secret>,
) -> Result<(), ErrorResponse> {
    let Some(token) = token else { return Ok(()) };
    if has_token(head, token) {
        return Ok(());
    }
    let path = head.path;
    let text = format!("token required: \"Authorization: Bearer TOKEN\" or {path}?token=TOKEN");
    Err(ErrorResponse::new("401 Unauthorized", text).header("WWW-Authenticate: Bearer"))
}

fn has_token(head: &RequestHead<'_>, token: &Secret) -> bool {
    let bearer = head.header("authorization").and_then(|value| {
        let (scheme, credentials) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| trim_ows(credentials))
    });
    let in_header = bearer.is_some_and(|bearer| token.matches(bearer.as_bytes()));
    let in_query = head.query_value("token").is_some_and(|candidate| token.matches(&candidate));
    in_header || in_query
}
