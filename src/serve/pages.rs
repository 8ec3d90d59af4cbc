//! The page for the person who opens the telemetry port in a browser: one document that needs nothing else, assembled
//! when this is compiled. It holds no data, so whoever reaches the port may have it; what it shows it gets from /usage,
//! as any other client, with the token that /usage wants.

use std::sync::OnceLock;

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

macro_rules! style {
    () => {
        include_str!("../page/page.css")
    };
}

/// One script of several files, in this order: what runs is in the last.
macro_rules! script {
    () => {
        concat!(
            include_str!("../page/text.js"),
            include_str!("../page/history.js"),
            include_str!("../page/troubles.js"),
            include_str!("../page/panels.js"),
            include_str!("../page/gpus.js"),
            include_str!("../page/link.js"),
            include_str!("../page/page.js"),
        )
    };
}

/// The document.
pub const PAGE: &str = concat!(
    include_str!("../page/head.html"),
    "<style>",
    style!(),
    "</style>\n",
    include_str!("../page/body.html"),
    "<script type=\"module\">",
    script!(),
    "</script>\n",
);

/// Its kind.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// Its other header lines, each ended by CR LF. Only this style and this script count, and nobody is connected to but
/// this port; text can become no markup, should the script ever try; no other site can show the page as its own. The
/// next version of the agent has another page, so a browser asks before it shows one again.
pub fn headers() -> &'static str {
    static HEADERS: OnceLock<String> = OnceLock::new();
    HEADERS.get_or_init(|| {
        let hash = |text: &str| BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref());
        let (style, script) = (hash(style!()), hash(script!()));
        format!(
            "Content-Security-Policy: default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; \
             img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'\r\n\
             Referrer-Policy: no-referrer\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small() {
        assert!(PAGE.len() < 60_000, "{} bytes", PAGE.len());
    }

    #[test]
    fn nothing_in_the_page_ends_its_style_or_script_early() {
        for (part, end) in [(style!(), "</style"), (script!(), "</script")] {
            assert!(!part.to_lowercase().contains(end) && !part.contains("<!--"), "{end}");
        }
    }

    #[test]
    fn the_script_makes_no_markup_of_text() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!script!().contains(way), "{way}");
        }
    }
}
