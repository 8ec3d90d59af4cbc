//! HTTP proxies that tunnel TCP connections with CONNECT.

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
            && hosts.split(',').any(|entry| matches_no_proxy(&url.host, entry.trim()))
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

/// Whether an entry of `NO_PROXY` matches `host`: the host itself or a parent domain.
fn matches_no_proxy(host: &str, entry: &str) -> bool {
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
            ("hub", "", false),
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
