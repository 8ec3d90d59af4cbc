//! Messages of `/monitor`: requests, responses and notifications of "Argusyes-backend". Its document shows one event;
//! the others are those of its published implementation.
//!
//! The messages resemble JSON-RPC, but `params` is a list of hosts, a response always has `id`, `result` and `error`,
//! and no message has `jsonrpc`.

pub mod events;
pub mod request;

use serde_json::{Value, json};

/// Builds the response to a request. `error` names the hosts that failed, and why.
pub fn response(id: &Value, error: Option<&str>) -> String {
    json!({ "id": id, "result": null, "error": error }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_id_result_and_error() {
        assert_eq!(response(&json!("a"), None), r#"{"error":null,"id":"a","result":null}"#);
        assert_eq!(response(&Value::Null, Some("x")), r#"{"error":"x","id":null,"result":null}"#);
    }
}
