//! Whether a request may do what it requests: the operator's role, and the protection against pages of other sites.

use crate::http::auth::bearer_token;
use crate::http::csrf;
use crate::http::request::RequestHead;
use crate::http::response::ErrorResponse;
use crate::hub::Hub;
use crate::hub::operators::{Operators, Role};
use crate::hub::sessions;

/// What counts as an operator's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    Bearer,
    /// Also the session of a browser.
    BearerOrSession,
}

/// Name of an operator, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorName(pub String);

impl OperatorName {
    /// Without `operators.tokens_file`, every user of this machine is an operator.
    fn of(name: Option<&str>) -> Self {
        Self(name.unwrap_or("(user of this machine)").to_owned())
    }
}

/// Refuses requests of pages that a user of this host visits in a browser: they must not read the fleet's state.
pub fn check_browser_access(head: &RequestHead<'_>) -> Result<(), ErrorResponse> {
    let text =
        "open this address by IP or as localhost; requests from pages of other origins are refused";
    csrf::check_host_and_origin(head, &[]).map_err(|_| ErrorResponse::new("403 Forbidden", text))
}

/// Refuses requests of pages of other origins. With tokens, any host name is accepted: after DNS rebinding, the browser sends the
/// attacker's page neither cookie nor token.
pub fn check_web_browser_access(
    operators: &Operators,
    head: &RequestHead<'_>,
) -> Result<(), ErrorResponse> {
    if !csrf::is_same_origin(head) {
        return Err(ErrorResponse::new("403 Forbidden", "pages of other origins have no access"));
    }
    match operators.0 {
        Some(_) => Ok(()),
        None => csrf::check_host(head).map_err(|_| {
            let text =
                "operators.tokens_file is not set: browsers must use an IP address or localhost";
            ErrorResponse::new("403 Forbidden", text)
        }),
    }
}

/// A header that shows that a proxy has forwarded the request.
pub fn proxy_header(head: &RequestHead<'_>) -> Option<&'static str> {
    const HEADERS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
    HEADERS.into_iter().find(|name| head.header(name).is_some())
}

/// Refuses a request that a proxy has forwarded: the settings permit every client of this machine, which this one may not be.
pub fn refuse_proxied(head: &RequestHead<'_>, setting: &str) -> Result<(), ErrorResponse> {
    match proxy_header(head) {
        Some(name) => {
            let text =
                format!("request with the header {name} of a proxy: set {setting} of the hub");
            Err(ErrorResponse::new("403 Forbidden", text))
        }
        None => Ok(()),
    }
}

/// The token of the request, or of its session.
pub fn operator_token(hub: &Hub, head: &RequestHead<'_>, accepts: Accepts) -> Option<String> {
    let session = || match accepts {
        Accepts::Bearer => None,
        Accepts::BearerOrSession => hub.sessions.use_session(sessions::session_id(head)?),
    };
    bearer_token(head).map(str::to_owned).or_else(session)
}

/// The operator's name if it has the role.
pub fn authorize(
    hub: &Hub,
    head: &RequestHead<'_>,
    role: Role,
    accepts: Accepts,
) -> Result<OperatorName, ErrorResponse> {
    let access = hub.access();
    if access.operators.0.is_none() {
        refuse_proxied(head, "operators.tokens_file")?;
    }
    let token = operator_token(hub, head, accepts);
    let result = access.operators.check(token.as_deref().map(str::as_bytes), role);
    if let (Err(_), Some(token)) = (&result, &token)
        && let Some(operator) = access.operators.find(token.as_bytes())
    {
        hub.audit.record_refusal(&operator.name, head, "the role of the token does not permit it");
    }
    result.map(OperatorName::of)
}

/// Checks the role that a request to the REST API needs.
pub fn authorize_rest(
    hub: &Hub,
    head: &RequestHead<'_>,
    accepts: Accepts,
) -> Result<OperatorName, ErrorResponse> {
    let role = match head.method {
        "GET" | "HEAD" => Role::Read,
        "POST" => Role::Command,
        "DELETE" => Role::Operate,
        _ => Role::Command,
    };
    authorize(hub, head, role, accepts)
}
