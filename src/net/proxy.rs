//! HTTP proxies that tunnel TCP connections with CONNECT.

use std::net::IpAddr;

use crate::net::url::Url;

/// Schemes that other programs accept in the same variables, named in the error.
const UNSUPPORTED_SCHEMES: [&str; 5] = ["https", "socks4", "socks4a", "socks5", "socks5h"];

/// A proxy between this machine and a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// The proxy for connections to `url`, from the environment: `HTTPS_PROXY` for `wss://`, `http_proxy` for `ws://`
    /// (lower case only, as in curl: a CGI client can set `HTTP_PROXY`), `ALL_PROXY` for both; none for hosts in
    /// `NO_PROXY`. `variable` reads an environment variable.
    pub fn from_environment(
        url: &Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let first_set = |names: &[&'static str]| {
            let set = names.iter().find_map(|name| Some((*name, variable(name)?)));
            set.filter(|(_, value)| !value.is_empty())
        };
        if let Some((_, hosts)) = first_set(&["no_proxy", "NO_PROXY"])
            && bypasses_proxy(&url.host, url.port, &hosts)
        {
            return Ok(None);
        }
        let names: &[&str] = match url.is_secure() {
            true => &["https_proxy", "HTTPS_PROXY"],
            false => &["http_proxy"],
        };
        let Some((name, text)) =
            first_set(names).or_else(|| first_set(&["all_proxy", "ALL_PROXY"]))
        else {
            return Ok(None);
        };
        Self::parse(&text).map(Some).map_err(|why| format!("{name}: {why}"))
    }

    /// Parses `[http://][USER:PASSWORD@]HOST[:PORT]`. Errors never contain a part of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = match text.split_once("://") {
            Some(("http", _)) => Url::parse(text),
            // Only known schemes are repeated: anything else may be a part of a password.
            Some((scheme, _)) => Err(match UNSUPPORTED_SCHEMES.contains(&scheme) {
                true => format!("{scheme} proxies are not supported, only http"),
                false => "only http proxies are supported".to_owned(),
            }),
            None => Url::parse(&format!("http://{text}")),
        }?;
        Ok(Self(url))
    }

    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// What the proxy may send back and must not be shown.
    pub fn secret_parts(&self) -> Vec<String> {
        self.0.secret_parts()
    }

    /// The request for a tunnel to `server`.
    pub fn connect_request(&self, server: &Url) -> String {
        let authority = server.authority();
        let authorization = self.0.userinfo.as_ref().map(|userinfo| {
            let encoded = data_encoding::BASE64.encode(userinfo.as_bytes());
            format!("Proxy-Authorization: Basic {encoded}\r\n")
        });
        let authorization = authorization.unwrap_or_default();
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n")
    }
}

/// Whether `NO_PROXY` lists `host`, as in curl 7.86: entries between commas and blanks, each a host, a domain or a network. Ports
/// are accepted in addition, as in Go. `*` counts only alone.
fn bypasses_proxy(host: &str, port: u16, no_proxy: &str) -> bool {
    let mut entries = no_proxy.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
    let matches_host = |entry: &str| match host.parse::<IpAddr>() {
        Ok(ip) => network_contains(entry, ip.to_canonical()),
        Err(_) => domain_contains(entry, host),
    };
    no_proxy.trim_matches([' ', '\t']) == "*"
        || entries.any(|entry| {
            matches_host(entry)
                || split_port(entry).is_some_and(|(rest, only)| only == port && matches_host(rest))
        })
}

/// Splits `HOST:PORT`. An IPv6 address has brackets.
fn split_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = entry.rsplit_once(':')?;
    let is_host = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
    port.parse().ok().filter(|_| is_host).map(|port| (host, port))
}

/// Whether `entry` is `ip`, or a network in CIDR notation that contains it.
fn network_contains(entry: &str, ip: IpAddr) -> bool {
    let (address, length) = match entry.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (entry, None),
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let Ok(network) = bare.unwrap_or(address).parse::<IpAddr>() else { return false };
    let Some(length) = length else { return network.to_canonical() == ip };
    let (network, ip, bits) = match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            (u128::from(network.to_bits()), u128::from(ip.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => (network.to_bits(), ip.to_bits(), 128),
        _ => return false,
    };
    match length.parse::<u32>() {
        Ok(length) if length <= bits => {
            let host_bits = bits - length;
            // A shift by all 128 bits leaves nothing.
            (network ^ ip).checked_shr(host_bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Whether `host` is `entry` or a name below it. Dots around either, and `*.` before the entry, mean nothing.
fn domain_contains(entry: &str, host: &str) -> bool {
    let domain = entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry);
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    !domain.is_empty()
        && host.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Url {
        Url::parse_websocket(url).unwrap()
    }

    fn proxy(url: &str, environment: &[(&str, &str)]) -> Option<String> {
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let found = Proxy::from_environment(&server(url), variable).unwrap()?;
        Some(format!("{}:{}", found.host(), found.port()))
    }

    #[test]
    fn reads_proxy_variables_as_curl_does() {
        let both = [("https_proxy", "http://p:3128"), ("http_proxy", "q:8080/")];
        assert_eq!(proxy("wss://hub/", &both).as_deref(), Some("p:3128"));
        assert_eq!(proxy("ws://hub/", &both).as_deref(), Some("q:8080"));
        assert_eq!(proxy("ws://hub/", &[("HTTP_PROXY", "q")]), None);
        assert_eq!(proxy("ws://hub/", &[("ALL_PROXY", "q")]).as_deref(), Some("q:80"));
    }

    #[test]
    fn no_proxy_matches_hosts_and_domains() {
        for (host, entries, direct) in [
            ("hub.example.org", "localhost, .example.org", true),
            ("hub.example.org", "example.org", true),
            ("hub.example.org", "*.example.org", true),
            ("notexample.org", "example.org", false),
            ("hub", "*", true),
            ("hub", " * ", true),
            ("hub", "other,*", false),
            ("hub", "", false),
            ("hub", " , ,\t", false),
            ("hub", ".", false),
            ("hub.example.org", "other.example\texample.org", true),
            ("hub.example.org", "other,  Example.ORG.  ,", true),
            ("hub.example.org.", ".example.org", true),
            ("hub.example.org", "example.org:443", true),
            ("hub.example.org", "example.org:80", false),
            ("hub.example.org", "hub.example.org:", false),
            ("hub", "10.0.0.0/8", false),
        ] {
            let environment = [("HTTPS_PROXY", "p"), ("NO_PROXY", entries)];
            let found = proxy(&format!("wss://{host}/"), &environment);
            assert_eq!(found.is_none(), direct, "{host} and {entries:?}");
        }
    }

    #[test]
    fn no_proxy_matches_addresses_and_networks() {
        for (host, entries, direct) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "1.2.3", false),
            ("10.1.2.3", "localhost, 192.168.0.0/16,10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "10.1.2.2/31", true),
            ("10.1.2.4", "10.1.2.2/31", false),
            ("10.1.2.3", "10.1.2.3/32", true),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "10.0.0.0/33", false),
            ("10.1.2.3", "10.0.0.0/", false),
            ("10.1.2.3", "10.0.0.0/x", false),
            ("10.1.2.3", "::/0", false),
            ("10.1.2.3", "10.1.2.3:443", true),
            ("10.1.2.3", "10.1.2.3:80", false),
            ("10.1.2.3", "10.0.0.0/8:443", true),
            ("[2001:db8::1]", "2001:db8::1", true),
            ("[2001:db8::1]", "[2001:db8::1]", true),
            ("[2001:db8::1]", "[2001:db8::1]:443", true),
            ("[2001:db8::1]", "[2001:db8::1]:80", false),
            ("[2001:db8::1]", "2001:db8::/32", true),
            ("[2001:db9::1]", "2001:db8::/32", false),
            ("[2001:db8::1]", "::/0", true),
            ("[2001:db8::1]", "2001:db8::/129", false),
            ("[2001:db8::1]", "0.0.0.0/0", false),
            ("[2001:db8::443]", "2001:db8:", false),
            ("[::ffff:10.1.2.3]", "10.0.0.0/8", true),
        ] {
            let environment = [("HTTPS_PROXY", "p"), ("NO_PROXY", entries)];
            let found = proxy(&format!("wss://{host}/"), &environment);
            assert_eq!(found.is_none(), direct, "{host} and {entries:?}");
        }
    }

    #[test]
    fn sends_userinfo_as_basic_authentication() {
        let proxy = Proxy::parse("http://us%40er:pa:ss@p:1").unwrap();
        assert_eq!(
            proxy.connect_request(&server("wss://hub/x")),
            "CONNECT hub:443 HTTP/1.1\r\nHost: hub:443\r\nProxy-Authorization: Basic dXNAZXI6cGE6c3M=\r\n\r\n"
        );
        assert_eq!(proxy.secret_parts(), ["us@er:pa:ss", "dXNAZXI6cGE6c3M=", "pa:ss"]);
        assert!(Proxy::parse("socks5://p:1").is_err());
    }

    #[test]
    fn errors_never_repeat_the_password() {
        // An unencoded slash ends the authority, so that a part of the password looks like a port.
        for text in [
            "http://me:pass/word@p:1",
            "me:password",
            "password://p:1",
            "http://p:password",
            "http://me:pass word@p:1",
            "http://me:pass^word@p:1",
        ] {
            let why = Proxy::parse(text).unwrap_err();
            assert!(!why.contains("pass"), "{why}");
        }
    }
}
