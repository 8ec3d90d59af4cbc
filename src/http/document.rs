//! An HTML document without external resources, assembled and compressed by `build.rs`.

use std::sync::{Arc, OnceLock};

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

use crate::http::gzip;
use crate::http::response::{ErrorResponse, OK, Response};

const STYLE: (&str, &str) = ("<style>", "</style>");
const SCRIPT: (&str, &str) = ("<script type=\"module\">", "</script>");

/// A document with one style and one script.
pub struct Document {
    gzip: &'static [u8],
    prepared: OnceLock<Prepared>,
}

/// The document in both encodings, and the policy that allows its script and style.
struct Prepared {
    compressed: Arc<[u8]>,
    plain: Arc<[u8]>,
    content_security_policy: String,
}

impl Document {
    pub const fn new(gzip: &'static [u8]) -> Self {
        Self { gzip, prepared: OnceLock::new() }
    }

    pub fn response(&self, accepts_gzip: bool) -> Result<Response, ErrorResponse> {
        let document = self.prepared()?;
        let body = if accepts_gzip { &document.compressed } else { &document.plain };
        // A browser must revalidate the document: the next version of the program has another one.
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

    fn prepared(&self) -> Result<&Prepared, ErrorResponse> {
        if let Some(prepared) = self.prepared.get() {
            return Ok(prepared);
        }
        let plain = gzip::decompress(self.gzip).map_err(|error| {
            let text = format!("cannot decompress the embedded document: {error}");
            ErrorResponse::new("500 Internal Server Error", text)
        })?;
        Ok(self.prepared.get_or_init(|| Prepared {
            compressed: self.gzip.into(),
            content_security_policy: content_security_policy(&plain),
            plain: plain.into(),
        }))
    }
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
impl Document {
    /// Asserts that the document is small, that its policy covers all of its style and script, and that the script never parses
    /// text as markup.
    pub fn assert_small_and_safe(&self, max_plain: usize, max_compressed: usize) {
        let page = String::from_utf8(gzip::decompress(self.gzip).unwrap()).unwrap();
        let (plain, compressed) = (page.len(), self.gzip.len());
        let is_small = plain < max_plain && compressed < max_compressed;
        assert!(is_small, "{plain} bytes, {compressed} compressed");
        for (begin, end) in [STYLE, SCRIPT] {
            let part = std::str::from_utf8(between(page.as_bytes(), begin, end)).unwrap();
            assert!(part.len() > 1000 && !part.contains("<!--"), "{begin}");
            for mark in [begin, end] {
                let found = page.to_lowercase().matches(&mark[..mark.len() - 1]).count();
                assert_eq!(found, 1, "{mark}");
            }
        }
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!page.contains(sink), "{sink}");
        }
        assert!(!page.contains(" style="), "the policy forbids style attributes");
    }
}
