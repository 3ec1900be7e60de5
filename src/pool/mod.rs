//! Server connections per node, user and database.
//!
//! An idle connection belongs to a worker ([`LocalPool`]): taking it and giving it back is a push
//! and a pop, without a lock. The limit is global ([`Shared`]): a worker that is short opens a
//! connection if the limit allows, else it stands in one fair queue per pool, and asks the other
//! workers for an idle one; the socket is then registered anew with the taker's runtime. Fair is
//! the queue up to a few milliseconds: within those a connection stays with its worker.
//!
//! ```text
//! take ─▶ idle here? ─▶ below the limit? ─▶ queue ─┬─ handed over by who gives one back
//!          pop            open                     ├─ lent by a worker that has one idle
//!                                                  └─ the right to open, when one was closed
//! ```
//!
//! Open [`local`] first. Not here: which node (route), what runs on a connection (frontend).

pub mod local;
pub mod shared;

pub use local::{LocalPool, LocalPools, PoolError, Take};
pub use shared::{Lend, PoolKey, Pools, Shared};
