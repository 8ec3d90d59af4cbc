//! Numbers of the advisory locks of hubs.

/// One hub at a time migrates; the others wait until it has.
pub const MIGRATION: i64 = 0x686d_0000;
/// The first of two numbers; the other is the hash of a hub's name. A running hub has its own.
pub const NAME: i32 = 0x686d_0001;
/// The leader has it.
pub const LEADER: i64 = 0x686d_0002;
/// One hub at a time creates, detaches or drops partitions.
pub const PARTITIONS: i64 = 0x686d_0003;
/// One hub at a time runs maintenance.
pub const MAINTENANCE: i64 = 0x686d_0004;
