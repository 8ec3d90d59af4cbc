pub mod dashboard;
pub mod detail;
pub mod fan;
pub mod messages;
pub mod responses;
pub mod router;
pub mod snapshot_json;
pub mod subscription;
