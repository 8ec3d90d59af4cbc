//! Port 9097, `/monitor`: clients name hosts, the agent logs in to them over SSH and sends what changes there as
//! notifications.

mod client_load;
mod client_outbox;
pub mod collect;
mod host;
pub mod hosts;
mod login_limiter;
pub mod protocol;
pub mod server;
pub mod ssh;
