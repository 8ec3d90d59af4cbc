//! The dashboard at `/`. It contains no data, so it needs no token; its script reads `/usage`, `/history`, `/events` and
//! `/health` with the token that its user enters.

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
        DOCUMENT.assert_small_and_safe(95_000, 28_000);
    }

    #[test]
    fn names_of_xids_are_those_of_the_metrics() {
        let names = include_str!("../../metrics/xid_names.rs");
        let of_page = include_str!("xids.js").lines().filter(|line| line.starts_with("  "));
        for line in of_page.clone() {
            let (code, name) = line.trim().trim_end_matches(',').split_once(": ").unwrap();
            assert!(names.contains(&format!("    ({code}, {name}),\n")), "{line}");
        }
        assert!(of_page.count() > 30);
    }
}
