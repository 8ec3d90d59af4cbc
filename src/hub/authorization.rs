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
pub fn refuse_pages(head: &RequestHead<'_>) -> Result<(), ErrorResponse> {
    let text = "browsers have access under an IP address or localhost only, and pages of other origins have none";
    csrf::check_host_and_origin(head, &[]).map_err(|_| ErrorResponse::new("403 Forbidden", text))
}

/// Refuses requests of pages of other origins. Where tokens are in force, the hub may have any host name: a page that has bound its own
/// name to the address of the hub gets no session and no token from the browser.
pub fn refuse_other_origins(
    operators: &Operators,
    head: &RequestHead<'_>,
) -> Result<(), ErrorResponse> {
    if !csrf::is_same_origin(head) {
        return Err(ErrorResponse::new("403 Forbidden", "pages of other origins have no access"));
    }
    match operators.0 {
        Some(_) => Ok(()),
        None => csrf::check_host(head).map_err(|_| {
            let text = "without operators.tokens_file, browsers have access under an IP address or localhost only";
            ErrorResponse::new("403 Forbidden", text)
        }),
    }
}

/// Refuses a request that a proxy has forwarded: the settings permit every client of this machine, which this one may not be.
pub fn refuse_proxied(head: &RequestHead<'_>, setting: &str) -> Result<(), ErrorResponse> {
    const HEADERS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
    match HEADERS.iter().find(|name| head.header(name).is_some()) {
        Some(name) => {
            let text =
                format!("request with the header {name} of a proxy: set {setting} of the hub");
            Err(ErrorResponse::new("403 Forbidden", text))
        }
        None => Ok(()),
    }
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
    let bearer = bearer_token(head).map(str::to_owned);
    let session = || match accepts {
        Accepts::Bearer => None,
        Accepts::BearerOrSession => {
            let id = sessions::cookie(head)?;
            hub.sessions.token(id)
        }
    };
    let token = bearer.or_else(session);
    let result = access.operators.check(token.as_deref().map(str::as_bytes), role);
    if let (Err(_), Some(token)) = (&result, &token)
        && let Some(operator) = access.operators.find(token.as_bytes())
    {
        hub.audit.refused(&operator.name, head, "the role of the token does not permit it");
    }
    result.map(OperatorName::of)
}

/// The same for a request to the REST API: `path` is what follows `/api/v1/`.
pub fn authorize_rest(
    hub: &Hub,
    head: &RequestHead<'_>,
    accepts: Accepts,
) -> Result<OperatorName, ErrorResponse> {
    let role = match head.method {
        "GET" | "HEAD" => Role::Read,
        "POST" => Role::Command,
        // DELETE.
        _ => Role::Operate,
    };
    authorize(hub, head, role, accepts)
}
