//! What browsers are to be told less than programs: their pages may belong to anybody.

use crate::http::message::{ErrorResponse, Head};

/// What browsers say of themselves and no page can keep them from saying. `Origin` is left out with images, links, and what
/// a page asks its own address; the `Sec-Fetch-` headers where that address is neither `https` nor this machine;
/// `Referer` where the page wants it so. A page can choose what `Accept-Language` says, and in some browsers `User-Agent`,
/// but not that there is none.
const SIGNS: [&str; 5] =
    ["origin", "sec-fetch-site", "sec-fetch-mode", "referer", "accept-language"];

/// Whether a browser sent this, or a program that wants to look like one.
pub fn is_from(head: &Head<'_>) -> bool {
    let mozilla = |agent: &str| agent.starts_with("Mozilla/");
    SIGNS.iter().any(|name| head.one(name).is_some()) || head.all("user-agent").any(mozilla)
}

/// Refuses what a page may be behind that is none of `allowed`. Its origin says so, or the name by which it found us: who
/// has a name can have it lead here when the page is there already (DNS rebinding), and then the page asks its own origin,
/// without `Origin`. Nobody else has an address, or `localhost`.
pub fn check(head: &Head<'_>, allowed: &[String]) -> Result<(), ErrorResponse> {
    let refuse = |what: &str| {
        let text = format!("pages of this {what} may not ask; see usage.allowed_origins");
        Err(ErrorResponse::new("403 Forbidden", text))
    };
    if !super::websocket::origin_allowed(head, allowed) {
        return refuse("origin");
    }
    let named = |host: &str| allowed.iter().any(|origin| origin == "*" || host_of(origin) == host);
    let known = |host: &str| named(host) || is_address(host) || host == "localhost";
    match head.all("host").all(|host| known(&without_port(host).to_ascii_lowercase())) {
        false if is_from(head) => refuse("name"),
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

fn is_address(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<R>(headers: &str, then: impl FnOnce(&Head<'_>) -> R) -> R {
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        let mut lines = Head::lines();
        then(&Head::parse(text.as_bytes(), &mut lines).expect("a head").expect("whole").0)
    }

    #[test]
    fn programs_are_no_browsers() {
        for headers in [
            "Host: a\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n",
            "User-Agent: Wget/1.21.3\r\nAccept: */*\r\nAccept-Encoding: identity\r\n",
            "User-Agent: python-requests/2.32\r\nAccept-Encoding: gzip, deflate\r\n",
            "User-Agent: Prometheus/2.42.0\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n",
            "",
        ] {
            assert!(!with(headers, is_from), "{headers}");
        }
        // An image on a page of any site, asked from an address of the inner network.
        let image = "Host: 10.0.0.5:8888\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: image/*\r\n";
        assert!(with(image, is_from));
        // What is left if the page has its browser call itself something else and keep its address to itself.
        assert!(with(
            "Host: evil.example:8888\r\nUser-Agent: curl\r\nAccept-Language: \r\n",
            is_from
        ));
    }

    #[test]
    fn a_name_that_leads_here_is_not_enough() {
        let browser = "Accept-Language: en\r\n";
        let allowed = |headers: &str, list: &[&str]| {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            with(headers, |head| check(head, &list).is_ok())
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
            // A program may call us anything, and where all pages may ask they may have any name.
            assert!(allowed(&format!("Host: {host}\r\n"), &list), "{host}");
            assert!(allowed(&format!("Host: {host}\r\n{browser}"), &["*"]), "{host}");
        }
        assert!(!allowed(&format!("Host: localhost\r\nHost: evil.example\r\n{browser}"), &list));
        assert!(!allowed("Host: localhost\r\nOrigin: https://evil.example\r\n", &list));
    }
}
