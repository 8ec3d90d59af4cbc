//! URLs of servers and proxies.

use http::Uri;
use percent_encoding::percent_decode_str;

/// Shorter values of a query are not treated as secrets: replacing them would garble unrelated text.
const MIN_SECRET_LENGTH: usize = 6;

/// A URL with the schemes `ws`, `wss`, `http` or `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub scheme: Scheme,
    /// Name or IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query; at least "/".
    pub target: String,
    /// `user:password`, decoded.
    pub userinfo: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Ws,
    Wss,
    Http,
    Https,
}

impl Scheme {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "ws" => Some(Self::Ws),
            "wss" => Some(Self::Wss),
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Ws | Self::Http => 80,
            Self::Wss | Self::Https => 443,
        }
    }
}

impl Url {
    /// Parses the URL of a WebSocket server. Errors never contain a part of the URL, which may hold a secret.
    pub fn parse_websocket(url: &str) -> Result<Self, String> {
        if !url.starts_with("ws://") && !url.starts_with("wss://") {
            return Err("must begin with ws:// or wss://".to_owned());
        }
        let url = Self::parse(url)?;
        match url.userinfo {
            Some(_) => Err("must not contain a user name".to_owned()),
            None => Ok(url),
        }
    }

    /// Parses the address of a web server, without a path. Errors never contain a part of the URL, which may hold a secret.
    pub fn parse_web(url: &str) -> Result<Self, String> {
        let url = Self::parse(url)?;
        match (url.scheme, url.target.as_str()) {
            (Scheme::Ws | Scheme::Wss, _) => Err("must begin with http:// or https://".to_owned()),
            _ if url.userinfo.is_some() => Err("must not contain a user name".to_owned()),
            (_, "/" | "") => Ok(url),
            _ => Err("must not have a path".to_owned()),
        }
    }

    /// Parses a URL. Errors never contain a part of it, which may hold a secret.
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(
                "spaces, control and non-ASCII characters must be percent-encoded".to_owned()
            );
        }
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let scheme = uri.scheme_str().and_then(Scheme::from_name).ok_or("unknown scheme")?;
        let authority = uri.authority().ok_or("host missing")?;
        let (userinfo, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, authority.as_str()),
        };
        // `Authority::port` is `None` also for a port that is not a number.
        let port = match host_and_port.strip_prefix(authority.host()) {
            Some("" | ":") => scheme.default_port(),
            Some(port) => parse_port(port)?,
            None => return Err("host missing".to_owned()),
        };
        let host = authority.host();
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = in_brackets.unwrap_or(host);
        if host.is_empty() {
            return Err("host missing".to_owned());
        }
        if host.contains(['[', ']']) || in_brackets.is_some_and(|host| !host.contains(':')) {
            return Err("only an IPv6 address has brackets".to_owned());
        }
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            target: format!("{}{query}", uri.path()),
            userinfo: userinfo.map(decode),
        })
    }

    /// Host and port as in a `Host` header and in CONNECT.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub fn add_query(&mut self, query: &str) {
        if !query.is_empty() {
            self.target.push(if self.target.contains('?') { '&' } else { '?' });
            self.target.push_str(query);
        }
    }

    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Wss | Scheme::Https)
    }

    /// Parts that may be secret and that a server may send back: the password, and the query with each of its values.
    pub fn secret_parts(&self) -> Vec<String> {
        let mut parts = self.userinfo_parts();
        let Some((_, query)) = self.target.split_once('?') else { return parts };
        let values =
            query.split('&').map(|item| item.split_once('=').map_or(item, |(_, value)| value));
        let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let values = values.flat_map(|value| [Some(value.to_owned()), decode(value)]).flatten();
        let all = [query.to_owned()].into_iter().chain(values);
        parts.extend(all.filter(|text| text.len() >= MIN_SECRET_LENGTH));
        parts
    }

    /// The URL without user, password and query.
    pub fn redacted(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme.name(), self.authority())
    }

    /// User and password together, as Basic authentication encodes them, and the password alone.
    fn userinfo_parts(&self) -> Vec<String> {
        let Some(userinfo) = &self.userinfo else { return Vec::new() };
        let basic = data_encoding::BASE64.encode(userinfo.as_bytes());
        let password = userinfo.split_once(':').map(|(_, password)| password.to_owned());
        [userinfo.clone(), basic].into_iter().chain(password).collect()
    }
}

/// The error does not repeat the port: it may be a part of a password that is not percent-encoded.
fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.strip_prefix(':').and_then(|port| port.parse().ok());
    port.filter(|port| *port > 0).ok_or_else(|| "port must be a number from 1 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Url {
        Url::parse_websocket(url).unwrap()
    }

    #[test]
    fn parses_websocket_urls() {
        let hm = parse("ws://hub:9521/websocket");
        assert_eq!((hm.is_secure(), hm.host.as_str(), hm.port), (false, "hub", 9521));
        assert_eq!(hm.target, "/websocket");
        let core = parse("wss://core.example?token=s3cret");
        assert_eq!((core.port, core.target.as_str()), (443, "/?token=s3cret"));
        assert_eq!(core.redacted(), "wss://core.example:443/");
        let ipv6 = parse("ws://[2001:db8::1]/x#y");
        assert_eq!(
            (ipv6.host.as_str(), ipv6.port, ipv6.target.as_str()),
            ("2001:db8::1", 80, "/x")
        );
        assert_eq!(ipv6.authority(), "[2001:db8::1]:80");
        assert_eq!(parse("ws://a:").port, 80);
    }

    #[test]
    fn rejects_invalid_websocket_urls() {
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
            "ws://:80",
            "ws://part[c]:8/",
            "ws://a]",
            "ws://[name]/",
        ] {
            assert!(Url::parse_websocket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn query_and_its_values_are_secret_parts() {
        let url = parse("ws://hub/x?a=1&key=top%20secret&odd&longer-one");
        let whole = "a=1&key=top%20secret&odd&longer-one";
        let secrets = [whole, "top%20secret", "top secret", "longer-one", "longer-one"];
        assert_eq!(url.secret_parts(), secrets);
        assert!(parse("ws://hub/?a=1").secret_parts().is_empty());
    }
}
