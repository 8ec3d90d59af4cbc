//! Protects against pages of other sites in a user's browser: cross-site requests and DNS rebinding.

use crate::http::request::RequestHead;
use crate::http::response::ErrorResponse;
use crate::http::websocket::origin_allowed;

/// Headers that browsers send and that a page cannot suppress. `Origin` is missing for images, links, and requests to the
/// page's own origin; the `Sec-Fetch-` headers are missing unless the target is `https` or this host; `Referer` is missing if
/// the page's policy says so. A page can choose the value of `Accept-Language`, and in some browsers of `User-Agent`, but
/// cannot remove the header.
const BROWSER_HEADERS: [&str; 5] =
    ["origin", "sec-fetch-site", "sec-fetch-mode", "referer", "accept-language"];

/// Whether a browser sent this request, or a program that imitates one.
pub(crate) fn is_browser(head: &RequestHead<'_>) -> bool {
    let is_mozilla = |agent: &str| agent.starts_with("Mozilla/");
    BROWSER_HEADERS.iter().any(|name| head.header(name).is_some())
        || head.header_values("user-agent").any(is_mozilla)
}

/// Rejects a browser's request from a page that is not `allowed`. The page is recognized by its `Origin` or by the host name in
/// the request: the owner of a domain can point it at this host after the page was loaded (DNS rebinding), and then the
/// page sends requests to its own origin, without `Origin`. No domain owner controls IP addresses or `localhost`.
pub(crate) fn check_host_and_origin(
    head: &RequestHead<'_>,
    allowed: &[String],
) -> Result<(), ErrorResponse> {
    let reject = |what: &str| {
        let text = format!("{what} not allowed; see usage.allowed_origins");
        Err(ErrorResponse::new("403 Forbidden", text))
    };
    if !origin_allowed(head, allowed) {
        return reject("origin");
    }
    let is_listed =
        |host: &str| allowed.iter().any(|origin| origin == "*" || host_of(origin) == host);
    let is_safe = |host: &str| is_listed(host) || is_ip_address(host) || host == "localhost";
    match head.hosts().all(|host| is_safe(&without_port(host).to_ascii_lowercase())) {
        false if is_browser(head) => reject("host name"),
        _ => Ok(()),
    }
}

/// Whether the request comes from a page of this host, or from no page. Scheme and port count as the browser shows them to the user:
/// behind a proxy that adds TLS, only the host is known here.
pub fn is_same_origin(head: &RequestHead<'_>) -> bool {
    let is_host = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        head.hosts().any(|host| authority.is_some_and(|it| it.eq_ignore_ascii_case(host)))
    };
    // A link from another site to a page of this host is no danger.
    let is_link =
        matches!(head.method, "GET" | "HEAD") && head.header("sec-fetch-mode") == Some("navigate");
    let mut sites = head.header_values("sec-fetch-site");
    head.header_values("origin").all(is_host)
        && (is_link || sites.all(|site| matches!(site, "same-origin" | "none")))
}

/// Rejects a browser's request under a host name that the owner of a domain can have pointed at this host.
pub fn check_host(head: &RequestHead<'_>) -> Result<(), ErrorResponse> {
    let is_safe = |host: &str| is_ip_address(host) || host == "localhost";
    match head.hosts().all(|host| is_safe(&without_port(host).to_ascii_lowercase())) {
        false if is_browser(head) => {
            Err(ErrorResponse::new("403 Forbidden", "host name not allowed"))
        }
        _ => Ok(()),
    }
}

fn host_of(origin: &str) -> String {
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    without_port(host).to_ascii_lowercase()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_ip_address(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_head<R>(headers: &str, then: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        let mut slots = RequestHead::header_slots();
        let parsed = RequestHead::parse(text.as_bytes(), &mut slots).expect("a valid head");
        then(&parsed.expect("a complete head").0)
    }

    #[test]
    fn recognizes_browsers_but_not_programs() {
        for headers in [
            "Host: a\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n",
            "User-Agent: Wget/1.21.3\r\nAccept: */*\r\nAccept-Encoding: identity\r\n",
            "User-Agent: python-requests/2.32\r\nAccept-Encoding: gzip, deflate\r\n",
            "User-Agent: Prometheus/2.42.0\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n",
            "",
        ] {
            assert!(!with_head(headers, is_browser), "{headers}");
        }
        // An image on a page of any site, requested from an address of the internal network.
        let image = "Host: 10.0.0.5:8888\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: image/*\r\n";
        assert!(with_head(image, is_browser));
        // What remains if the page changes `User-Agent` and suppresses `Referer`.
        let hidden = "Host: evil.example:8888\r\nUser-Agent: curl\r\nAccept-Language: \r\n";
        assert!(with_head(hidden, is_browser));
    }

    #[test]
    fn distinguishes_pages_of_this_host_from_others() {
        let post = |headers: &str| {
            let text = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            let mut slots = RequestHead::header_slots();
            let parsed = RequestHead::parse(text.as_bytes(), &mut slots).expect("a valid head");
            is_same_origin(&parsed.expect("a complete head").0)
        };
        assert!(post("Host: hub:9520\r\n"), "a program");
        assert!(post(
            "Host: hub:9520\r\nOrigin: https://Hub:9520\r\nSec-Fetch-Site: same-origin\r\n"
        ));
        for headers in [
            "Host: hub\r\nOrigin: https://evil.example\r\n",
            "Host: hub\r\nOrigin: null\r\n",
            "Host: hub:9520\r\nOrigin: http://hub:9999\r\n",
            "Host: hub\r\nSec-Fetch-Site: same-site\r\n",
        ] {
            assert!(!post(headers), "{headers}");
        }
        let link = "Host: hub\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
        assert!(with_head(link, is_same_origin) && !post(link));
        let image = "Host: hub\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
        assert!(!with_head(image, is_same_origin));
    }

    #[test]
    fn rejects_browser_that_uses_a_rebound_host_name() {
        let browser = "Accept-Language: en\r\n";
        let allowed = |headers: &str, list: &[&str]| {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            with_head(headers, |head| check_host_and_origin(head, &list).is_ok())
        };
        let list = ["https://dash.example", "http://[::1]:8080"];
        for host in
            ["10.0.0.5:33931", "[fe80::1]:33931", "localhost:33931", "Dash.example", "[::1]"]
        {
            assert!(allowed(&format!("Host: {host}\r\n{browser}"), &list), "{host}");
        }
        for host in
            ["evil.example:33931", "dash.example.evil", "127.0.0.1.evil.example", "", "[::1"]
        {
            assert!(!allowed(&format!("Host: {host}\r\n{browser}"), &list), "{host}");
            // A program may use any name, and with "*" so may a page.
            assert!(allowed(&format!("Host: {host}\r\n"), &list), "{host}");
            assert!(allowed(&format!("Host: {host}\r\n{browser}"), &["*"]), "{host}");
        }
        assert!(!allowed(&format!("Host: localhost\r\nHost: evil.example\r\n{browser}"), &list));
        assert!(!allowed("Host: localhost\r\nOrigin: https://evil.example\r\n", &list));
    }
}
