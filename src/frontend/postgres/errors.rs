//! What errors of servers mean to the proxy, and the proxy's own in their place.

use crate::backend::postgres::replies::Limit;
use crate::protocol::postgres::error::{ErrorFields, Report};

/// What the server says of anything but the end of a transaction that has failed.
pub const ABORTED: &str =
    "current transaction is aborted, commands ignored until end of transaction block";

/// What the server says of a statement whose result has got other columns.
pub const STALE_PLAN: &str = "cached plan must not change result type";

/// Why a client that has too much of something gets no more: configuration_limit_exceeded.
pub fn too_many(limit: Limit) -> &'static str {
    match limit {
        Limit::Statements => {
            "too many prepared statements for one client (limits.client_statements_max)"
        }
        Limit::Portals => "too many portals for one client (limits.client_portals_max)",
        Limit::Shape => STALE_PLAN,
    }
}

/// An ErrorResponse of the proxy's own.
pub fn report(sqlstate: &str, message: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    Report::error(sqlstate, message).put(&mut out);
    out.into()
}

/// Whether a server ends all its sessions, or an administrator this one: admin_shutdown,
/// crash_shutdown.
pub fn is_shutdown(fields: &ErrorFields<'_>) -> bool {
    matches!(fields.sqlstate, b"57P01" | b"57P02")
}

/// [`STALE_PLAN`] as the server says it: drivers that prepare again by themselves (asyncpg,
/// postgres.js, pgjdbc) look for the routine.
pub fn stale_plan() -> Box<[u8]> {
    let mut out = Vec::new();
    let routine = Some("RevalidateCachedQuery");
    Report { routine, ..Report::error("0A000", STALE_PLAN) }.put(&mut out);
    out.into()
}

/// `RevalidateCachedQuery` (`src/backend/utils/cache/plancache.c`) refuses before anything runs.
pub fn is_stale_plan(fields: &ErrorFields<'_>) -> bool {
    fields.sqlstate == b"0A000" && fields.message == STALE_PLAN.as_bytes()
}

/// Errors of a replica that say nothing of the statement: it would have run elsewhere.
///
/// 25006: "cannot execute … in a read-only transaction", or during recovery. 40001 and 40P01:
/// a conflict with recovery ended it. 57P01, 57P02, 57P03, 53300: the server goes down or is
/// full. 55000 and 0A000 are among those of functions that do not work during recovery.
pub fn is_no_answer(fields: &ErrorFields<'_>) -> bool {
    match fields.sqlstate {
        b"25006" | b"57P01" | b"57P02" | b"57P03" | b"53300" | b"40001" | b"40P01" => true,
        b"55000" | b"0A000" => names_recovery(fields),
        _ => false,
    }
}

/// Errors of a replica in the place of something that a primary does in a read-only transaction.
pub fn is_of_replica(fields: &ErrorFields<'_>) -> bool {
    matches!(fields.sqlstate, b"25006" | b"55000" | b"0A000" | b"XX000") && names_recovery(fields)
}

fn names_recovery(fields: &ErrorFields<'_>) -> bool {
    fields.message.windows(8).any(|part| part == b"recovery" || part == b"standby ")
        || fields.message.ends_with(b"standby")
}
