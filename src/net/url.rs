//! Where a WebSocket server is: `ws://` and `wss://` addresses, and the proxy on the way there.

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `wss://`.
    pub secure: bool,
    /// Name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is asked for there: path and query.
    pub target: String,
}

impl Address {
    /// Reads `ws://HOST[:PORT][/PATH][?QUERY]` or the same with `wss://`. The error says what is wrong.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (secure, rest) = match (url.strip_prefix("ws://"), url.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("it must begin with ws:// or wss://".to_owned()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it must not hold a user's name".to_owned());
        }
        let (host, port) = host_and_port(authority, if secure { 443 } else { 80 })?;
        let target = target.split('#').next().unwrap_or_default();
        if let Some(odd) = target.chars().find(|letter| !letter.is_ascii_graphic()) {
            return Err(format!("\"{}\" must be percent-encoded", odd.escape_debug()));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { secure, host, port, target: format!("{slash}{target}") })
    }

    /// Host and port as they stand in a `Host` header and in CONNECT.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// What may be a secret in its query: each value, and the whole. A few letters are none, and would be found everywhere.
    pub fn secrets(&self) -> Vec<String> {
        const LEAST: usize = 6;
        let Some((_, query)) = self.target.split_once('?') else { return Vec::new() };
        let values =
            query.split('&').map(|item| item.split_once('=').map_or(item, |(_, value)| value));
        let decoded = |text: &str| {
            String::from_utf8(percent_encoding::percent_decode_str(text).collect()).ok()
        };
        let values = values.flat_map(|value| [Some(value.to_owned()), decoded(value)]).flatten();
        let all = [query.to_owned()].into_iter().chain(values);
        all.filter(|text| text.len() >= LEAST).collect()
    }

    /// The whole, without its query, which may hold a secret.
    pub fn shown(&self) -> String {
        let scheme = if self.secure { "wss" } else { "ws" };
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{scheme}://{}{path}", self.authority())
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn host_and_port(authority: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, port))) => (host, port.strip_prefix(':')),
        Some(None) => return Err("a \"]\" is missing".to_owned()),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || ".-_:%".contains(letter);
    if host.is_empty() || !host.chars().all(allowed) {
        return Err("its host is missing or no name".to_owned());
    }
    let port = match port {
        None | Some("") => default,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            // Which is not repeated: it may be a part of a password that was not percent-encoded.
            .ok_or("its port is no number from 1 to 65535")?,
    };
    Ok((host.to_owned(), port))
}

/// A proxy that passes TCP connections on (`CONNECT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `user:password`, if the address names them.
    pub credentials: Option<String>,
}

impl Proxy {
    /// The proxy on the way to `address`, if the environment names one: `HTTPS_PROXY` for `wss://`,
    /// `HTTP_PROXY` for `ws://` (in small letters only, as curl has it: a CGI script's client can set the
    /// other), `ALL_PROXY` for both; not for hosts in `NO_PROXY`. `variable` reads one.
    pub fn for_address(
        address: &Address,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let set = |names: &[&'static str]| {
            names
                .iter()
                .find_map(|name| Some((*name, variable(name)?)))
                .filter(|(_, v)| !v.is_empty())
        };
        if let Some((_, hosts)) = set(&["no_proxy", "NO_PROXY"])
            && hosts.split(',').any(|entry| is_excepted(&address.host, entry.trim()))
        {
            return Ok(None);
        }
        let own: &[&str] =
            if address.secure { &["https_proxy", "HTTPS_PROXY"] } else { &["http_proxy"] };
        let Some((name, text)) = set(own).or_else(|| set(&["all_proxy", "ALL_PROXY"])) else {
            return Ok(None);
        };
        Self::parse(&text).map(Some).map_err(|why| format!("{name}: {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                // Anything else may be a part of what was meant otherwise.
                let kinds = ["https", "socks4", "socks4a", "socks5", "socks5h"];
                let scheme = kinds.into_iter().find(|kind| *kind == scheme).unwrap_or("that kind");
                return Err(format!("a proxy of {scheme} is not understood, only http"));
            }
            None => text,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, rest),
        };
        let (host, port) = host_and_port(authority, 80)?;
        let decoded =
            credentials.map(|text| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>());
        let credentials = decoded.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Self { host, port, credentials })
    }

    /// What it may repeat and nobody must see: what was said to it, and the password alone.
    pub fn secrets(&self) -> Vec<String> {
        let Some(known) = &self.credentials else { return Vec::new() };
        let password = known.split_once(':').map(|(_, password)| password.to_owned());
        let said = data_encoding::BASE64.encode(known.as_bytes());
        [known.clone(), said].into_iter().chain(password).collect()
    }

    /// What is said to it first: the request for a connection to `address`.
    pub fn request(&self, address: &Address) -> String {
        let authority = address.authority();
        let authorization = self.credentials.as_ref().map(|credentials| {
            let encoded = data_encoding::BASE64.encode(credentials.as_bytes());
            format!("Proxy-Authorization: Basic {encoded}\r\n")
        });
        let authorization = authorization.unwrap_or_default();
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n")
    }
}

/// Whether an entry of `NO_PROXY` means `host`: itself, or a domain that it is in.
fn is_excepted(host: &str, entry: &str) -> bool {
    let domain = entry.trim_start_matches("*.").trim_start_matches('.');
    let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
    if entry == "*" {
        return true;
    }
    !domain.is_empty()
        && host.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Address {
        Address::parse(url).unwrap()
    }

    #[test]
    fn addresses() {
        let hub = parse("ws://hub:9521/websocket");
        assert_eq!((hub.secure, hub.host.as_str(), hub.port), (false, "hub", 9521));
        assert_eq!(hub.target, "/websocket");
        let core = parse("wss://core.example?token=s3cret");
        assert_eq!((core.port, core.target.as_str()), (443, "/?token=s3cret"));
        assert_eq!(core.shown(), "wss://core.example:443/");
        let six = parse("ws://[2001:db8::1]/x#y");
        assert_eq!((six.host.as_str(), six.port, six.target.as_str()), ("2001:db8::1", 80, "/x"));
        assert_eq!(six.authority(), "[2001:db8::1]:80");
        for bad in [
            "http://x",
            "ws://",
            "ws:///path",
            "ws://a:b",
            "ws://a:0",
            "ws://a:65536",
            "ws://[::1",
            "ws://u@h",
            "ws://h h/",
            "ws://h/ä",
            "ws://h/a b",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    fn proxy(url: &str, environment: &[(&str, &str)]) -> Option<String> {
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let found = Proxy::for_address(&parse(url), variable).unwrap()?;
        Some(format!("{}:{}", found.host, found.port))
    }

    #[test]
    fn proxies_are_those_of_the_environment() {
        let both = [("https_proxy", "http://p:3128"), ("http_proxy", "q:8080/")];
        assert_eq!(proxy("wss://hub/", &both).as_deref(), Some("p:3128"));
        assert_eq!(proxy("ws://hub/", &both).as_deref(), Some("q:8080"));
        assert_eq!(proxy("ws://hub/", &[("HTTP_PROXY", "q")]), None);
        assert_eq!(proxy("ws://hub/", &[("ALL_PROXY", "q")]).as_deref(), Some("q:80"));
        for (host, entries, direct) in [
            ("hub.example.org", "localhost, .example.org", true),
            ("hub.example.org", "example.org", true),
            ("hub.example.org", "*.example.org", true),
            ("notexample.org", "example.org", false),
            ("hub", "*", true),
            ("hub", "", false),
        ] {
            let environment = [("HTTPS_PROXY", "p"), ("NO_PROXY", entries)];
            let found = proxy(&format!("wss://{host}/"), &environment);
            assert_eq!(found.is_none(), direct, "{host} and {entries:?}");
        }
    }

    #[test]
    fn a_proxy_is_asked_for_a_connection() {
        let with = Proxy::parse("http://us%40er:pa:ss@p:1").unwrap();
        assert_eq!(with.credentials.as_deref(), Some("us@er:pa:ss"));
        assert_eq!(
            with.request(&parse("wss://hub/x")),
            "CONNECT hub:443 HTTP/1.1\r\nHost: hub:443\r\nProxy-Authorization: Basic dXNAZXI6cGE6c3M=\r\n\r\n"
        );
        assert!(Proxy::parse("socks5://p:1").is_err());
        assert_eq!(with.secrets(), ["us@er:pa:ss", "dXNAZXI6cGE6c3M=", "pa:ss"]);
    }

    #[test]
    fn what_is_wrong_with_a_proxy_is_said_without_its_password() {
        // A slash that was not encoded ends the authority, and the rest looks like a port.
        for proxy in
            ["http://me:pass/word@p:1", "me:password", "password://p:1", "http://p:password"]
        {
            let why = Proxy::parse(proxy).unwrap_err();
            assert!(!why.contains("pass"), "{why}");
        }
    }

    #[test]
    fn what_may_be_secret_in_an_address_is_known() {
        let address = parse("ws://hub/x?a=1&key=top%20secret&odd&longer-one");
        let whole = "a=1&key=top%20secret&odd&longer-one";
        let known = [whole, "top%20secret", "top secret", "longer-one", "longer-one"];
        assert_eq!(address.secrets(), known);
        assert!(parse("ws://hub/?a=1").secrets().is_empty());
    }
}
