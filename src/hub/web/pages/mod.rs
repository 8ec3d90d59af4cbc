//! The fleet page and the page of a node. They contain no data, so they need no token; their scripts use the API with the
//! session of the operator.

use crate::http::document::Document;
use crate::http::response::{ErrorResponse, Response};

static FLEET: Document = Document::new(include_bytes!(concat!(env!("OUT_DIR"), "/fleet.gz")));
static NODE: Document = Document::new(include_bytes!(concat!(env!("OUT_DIR"), "/node.gz")));

pub fn fleet(accepts_gzip: bool) -> Result<Response, ErrorResponse> {
    FLEET.response(accepts_gzip)
}

/// The agent's dashboard, for a node of the fleet.
pub fn node(accepts_gzip: bool) -> Result<Response, ErrorResponse> {
    NODE.response(accepts_gzip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_small_and_safe() {
        FLEET.assert_small_and_safe(60_000, 20_000);
        NODE.assert_small_and_safe(108_000, 32_000);
    }
}
