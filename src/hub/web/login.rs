//! Login on the page: an operator's token starts a session, whose id is in a cookie.

use log::Level;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::listener::ClientConnection;
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response};
use crate::hub::Hub;
use crate::hub::authorization::{Accepts, operator_token, proxy_header};
use crate::hub::operators::Role;
use crate::hub::sessions;
use crate::util::error::reason;

/// The operator that uses the page, and what the page may offer.
pub fn session(hub: &Hub, head: &RequestHead<'_>, commands_enabled: bool) -> Response {
    let access = hub.access();
    let token = || operator_token(hub, head, Accepts::BearerOrSession);
    to_response(match &access.operators.0 {
        None if proxy_header(head).is_some() => {
            json!({"authenticated": false, "login": false})
        }
        None => authenticated(None, Role::Command, commands_enabled),
        Some(_) => match token().and_then(|token| access.operators.find(token.as_bytes()).cloned())
        {
            Some(operator) => authenticated(Some(&operator.name), operator.role, commands_enabled),
            None => json!({"authenticated": false, "login": true}),
        },
    })
}

fn to_response(session: Value) -> Response {
    Response::new(OK, "application/json", session.to_string().into_bytes().into())
}

fn authenticated(name: Option<&str>, role: Role, commands_enabled: bool) -> Value {
    json!({"authenticated": true, "login": name.is_some(), "name": name, "role": role.name(),
        "commands_enabled": commands_enabled})
}

/// Starts a session if the body has an operator's token: `{"token":"…"}`. The response is that to `/api/session`.
pub fn log_in(
    hub: &Hub,
    head: &RequestHead<'_>,
    client: &ClientConnection<'_>,
    commands_enabled: bool,
) -> Result<Response, ErrorResponse> {
    #[derive(Deserialize)]
    struct Body {
        token: String,
    }
    // A form of another site cannot send this type.
    if head.header("content-type") != Some("application/json") {
        let text = "the body of a login is application/json";
        return Err(ErrorResponse::new("415 Unsupported Media Type", text));
    }
    let Body { token } = serde_json::from_slice(head.body).map_err(|_| {
        ErrorResponse::new("400 Bad Request", "the body of a login is {\"token\":\"TOKEN\"}")
    })?;
    let access = hub.access();
    if access.operators.0.is_none() {
        let text = "no login is needed: operators.tokens_file is not set";
        return Err(ErrorResponse::new("400 Bad Request", text));
    }
    let Some(operator) = access.operators.find(token.as_bytes()) else {
        let peer = client.peer;
        hub.log.write(Level::Warn, || format!("{peer}: login with an unknown token refused"));
        return Err(ErrorResponse::new("401 Unauthorized", "unknown token"));
    };
    if let Some(former) = sessions::session_id(head) {
        hub.sessions.end(former);
    }
    let id = hub
        .sessions
        .start(&token)
        .map_err(|error| ErrorResponse::new("500 Internal Server Error", reason(&error)))?;
    log::info!("operator {} has logged in", operator.name);
    let session = authenticated(Some(&operator.name), operator.role, commands_enabled);
    Ok(to_response(session).header(&sessions::set_cookie(Some(&id), is_secure(hub, head))))
}

/// Ends the session.
pub fn log_out(hub: &Hub, head: &RequestHead<'_>) -> Response {
    if let Some(id) = sessions::session_id(head) {
        hub.sessions.end(id);
    }
    let session = json!({"authenticated": false, "login": true});
    to_response(session).header(&sessions::set_cookie(None, is_secure(hub, head)))
}

/// Whether the browser uses HTTPS: to this port, or to a proxy, as that tells.
fn is_secure(hub: &Hub, head: &RequestHead<'_>) -> bool {
    hub.tls.web || head.header("x-forwarded-proto") == Some("https")
}
