//! How a proxy that hands a primary's part over tells all others.
//!
//! It holds a lock on the primary for as long as it takes, from two probe intervals before it holds
//! requests itself until the others have seen the new primary. Whoever probes the primary sees
//! that, and holds what needs it at its own gate. The lock goes with its connection, so nobody waits
//! for a proxy that is gone; and as only one can have it, no two hand over at a time.

use std::time::Duration;

/// Name of the lock on MySQL and MariaDB (`GET_LOCK`).
pub const LOCK_NAME: &str = "tiffin.handover";
/// The lock on PostgreSQL: two keys of an advisory lock in the database of the service user, "tiff"
/// in ASCII and one more. An application that had the same would make every proxy wait.
pub const LOCK_KEYS: (i32, i32) = (0x7469_6666, 1);

/// A lock that has been held for longer is taken for forgotten: the machine of the proxy that had it
/// went without a word, and the server has not noticed. Requests wait for `gate.hold` at most anyway,
/// which is shorter by default.
pub const FORGOTTEN: Duration = Duration::from_secs(60);

/// How long a proxy waits until all others have seen what it says: each asks the primary once per
/// interval, and its answer has to come back.
pub fn seen_by_all(interval: Duration) -> Duration {
    interval * 2
}
