//! The dashboard at `/`. It contains no data, so it needs no token; its script reads `/usage` with the token that its user
//! enters.

use crate::http::document::Document;
use crate::http::response::{ErrorResponse, Response};

static DOCUMENT: Document = Document::new(include_bytes!(concat!(env!("OUT_DIR"), "/page.gz")));

pub(super) fn response(accepts_gzip: bool) -> Result<Response, ErrorResponse> {
    DOCUMENT.response(accepts_gzip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_small_and_safe() {
        DOCUMENT.assert_small_and_safe(65_000, 20_000);
    }
}
