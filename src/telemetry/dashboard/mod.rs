//! The dashboard at `/`: one HTML document without external resources, assembled and compressed by `build.rs`. It contains no
//! data, so it needs no token; its script reads `/usage` with the token that its user enters.

use std::sync::{Arc, OnceLock};

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

use crate::http::gzip;
use crate::http::response::{ErrorResponse, OK, Response};

/// The document, compressed as browsers accept it.
const COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.gz"));

const STYLE: (&str, &str) = ("<style>", "</style>");
const SCRIPT: (&str, &str) = ("<script type=\"module\">", "</script>");

/// The document in both encodings, and the policy that allows its script and style.
struct Document {
    compressed: Arc<[u8]>,
    plain: Arc<[u8]>,
    content_security_policy: String,
}

pub(super) fn response(accepts_gzip: bool) -> Result<Response, ErrorResponse> {
    let document = document()?;
    let body = if accepts_gzip { &document.compressed } else { &document.plain };
    // A browser must revalidate the document: the next version of the agent has another one.
    let response = Response::new(OK, "text/html; charset=utf-8", body.clone())
        .header(&document.content_security_policy)
        .header("Referrer-Policy: no-referrer")
        .header("Cache-Control: no-cache")
        .header("Vary: Accept-Encoding");
    Ok(match accepts_gzip {
        true => response.header("Content-Encoding: gzip"),
        false => response,
    })
}

fn document() -> Result<&'static Document, ErrorResponse> {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    if let Some(document) = DOCUMENT.get() {
        return Ok(document);
    }
    let plain = gzip::decompress(COMPRESSED).map_err(|error| {
        let text = format!("cannot decompress the embedded dashboard: {error}");
        ErrorResponse::new("500 Internal Server Error", text)
    })?;
    Ok(DOCUMENT.get_or_init(|| Document {
        compressed: COMPRESSED.into(),
        content_security_policy: content_security_policy(&plain),
        plain: plain.into(),
    }))
}

/// Allows this script and style only, and connections to this port only. Text cannot become markup, even by a bug in the
/// script, and no other site can embed the page.
fn content_security_policy(page: &[u8]) -> String {
    let hash = |(begin, end)| BASE64.encode(digest(&SHA256, between(page, begin, end)).as_ref());
    let (style, script) = (hash(STYLE), hash(SCRIPT));
    format!(
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; \
         img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

fn between<'a>(page: &'a [u8], begin: &str, end: &str) -> &'a [u8] {
    let find =
        |page: &[u8], part: &str| page.windows(part.len()).position(|it| it == part.as_bytes());
    let after = find(page, begin).map_or(page.len(), |at| at + begin.len());
    let rest = &page[after..];
    &rest[..find(rest, end).unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        String::from_utf8(gzip::decompress(COMPRESSED).unwrap()).unwrap()
    }

    #[test]
    fn document_stays_small() {
        let (plain, compressed) = (page().len(), COMPRESSED.len());
        assert!(plain < 60_000 && compressed < 20_000, "{plain} bytes, {compressed} compressed");
    }

    #[test]
    fn style_and_script_contain_no_end_tag() {
        let page = page();
        for (begin, end) in [STYLE, SCRIPT] {
            let part = std::str::from_utf8(between(page.as_bytes(), begin, end)).unwrap();
            assert!(part.len() > 1000 && !part.contains("<!--"), "{begin}");
            for mark in [begin, end] {
                let found = page.to_lowercase().matches(&mark[..mark.len() - 1]).count();
                assert_eq!(found, 1, "{mark}");
            }
        }
    }

    #[test]
    fn script_never_parses_text_as_markup() {
        let page = page();
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!page.contains(sink), "{sink}");
        }
    }
}
