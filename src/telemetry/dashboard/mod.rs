//! The page for the person who opens the telemetry port in a browser: one document that needs nothing else, assembled
//! and compressed by `build.rs`. It holds no data, so whoever reaches the port may have it; what it shows it gets from
//! /usage, as any other client, with the token that /usage wants.

use std::sync::OnceLock;

use data_encoding::BASE64;
use miniz_oxide::inflate::decompress_to_vec;
use ring::digest::{SHA256, digest};

use crate::http::gzip;
use crate::http::message::ErrorResponse;

/// The page in gzip format (RFC 1952), as most browsers accept it.
pub const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.gz"));

/// Its kind.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// The document, for who cannot read it as it is carried.
pub fn plain() -> Result<Vec<u8>, ErrorResponse> {
    decompress_to_vec(gzip::deflated(PAGE)).map_err(|error| {
        let text = format!("the page in this agent is damaged: {error}");
        ErrorResponse::new("500 Internal Server Error", text)
    })
}

/// Its other header lines, each ended by CR LF. Only this style and this script count, and nobody is connected to but
/// this port; text can become no markup, should the script ever try; no other site can show the page as its own. The
/// next version of the agent has another page, so a browser asks before it shows one again.
pub fn headers() -> Result<&'static str, ErrorResponse> {
    static HEADERS: OnceLock<String> = OnceLock::new();
    if let Some(headers) = HEADERS.get() {
        return Ok(headers);
    }
    let page = plain()?;
    let hash = |(begin, end)| BASE64.encode(digest(&SHA256, between(&page, begin, end)).as_ref());
    let (style, script) = (hash(STYLE), hash(SCRIPT));
    Ok(HEADERS.get_or_init(|| {
        format!(
            "Content-Security-Policy: default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; \
             img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'\r\n\
             Referrer-Policy: no-referrer\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n"
        )
    }))
}

/// Where the style and the script begin and end.
const STYLE: (&str, &str) = ("<style>", "</style>");
const SCRIPT: (&str, &str) = ("<script type=\"module\">", "</script>");

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
        let plain = plain().unwrap_or_else(|refusal| panic!("{}", refusal.text));
        String::from_utf8(plain).unwrap()
    }

    #[test]
    fn the_page_is_small() {
        let (plain, carried) = (page().len(), PAGE.len());
        assert!(plain < 60_000 && carried < 20_000, "{plain} bytes, {carried} of them carried");
    }

    #[test]
    fn nothing_in_the_page_ends_its_style_or_script_early() {
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
    fn the_script_makes_no_markup_of_text() {
        let page = page();
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!page.contains(way), "{way}");
        }
    }
}
