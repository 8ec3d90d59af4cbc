//! Errors of transactions of which another one was in the way.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Whether the transaction may succeed if it is repeated.
pub fn is_conflict(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::UNIQUE_VIOLATION,
            // A partition, or a node, that another hub has just dropped.
            SqlState::UNDEFINED_TABLE,
            SqlState::FOREIGN_KEY_VIOLATION,
        ]
        .contains(code)
    })
}
