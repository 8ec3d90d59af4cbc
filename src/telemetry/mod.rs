//! The telemetry port: `/usage` (WebSocket), `/metrics`, `/snapshot`, `/events`, `/history`, `/health`, the dashboard and health checks.

mod dashboard;
mod detail;
pub mod messages;
pub mod responses;
pub mod router;
pub mod snapshot_json;
pub mod subscription;
