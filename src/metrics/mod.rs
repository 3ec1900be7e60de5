//! What the program counts: every metric's name, labels and help in one table, and the places
//! where the numbers are kept.
//!
//! Numbers come from three sources, and one page shows them all:
//! - [`WorkerStats`]: written by one worker thread on the way of each query, without a locked
//!   instruction, an allocation or a hash. The scraper adds the workers up.
//! - [`PoolStats`]: the same for each pool of server connections; pools come and go.
//! - [`ControlMetrics`]: rare events of the control plane (probes, failovers, catalog, reloads),
//!   through the `metrics` crate.
//!
//! What the kernel knows of the process is read by [`process`] when the page is made.
//!
//! What begins and ends (a client, a wait, a pin) is better counted by a guard of [`guards`] than by
//! two calls.
//!
//! What is only a function of the current topology (lag, role, health) is counted nowhere: the
//! admin pages render it from the snapshot at the moment of the scrape.
//!
//! Open [`table`] first for the names, then [`worker`] for what the query path calls. Nothing
//! here listens, and nothing is global.

pub mod control;
pub mod guards;
pub mod histogram;
pub mod labels;
pub mod pools;
pub mod process;
pub mod reason;
pub mod render;
pub mod table;
pub mod text;
pub mod worker;

mod tally;

pub use control::ControlMetrics;
pub use guards::{ClientGuard, GateGuard, PinGuard, WaitGuard};
pub use labels::{
    AuthFailure, CommitOutcome, CommitWait, ErrorOrigin, GateOutcome, ReplayOutcome, ServerClosed,
    UnsafeReason,
};
pub use pools::{PoolLabels, PoolRegistry, PoolStats};
pub use process::Process;
pub use reason::{RouteReason, Target};
pub use table::{Kind, Metric, Name, TABLE};
pub use worker::{Layout, NodeIndex, StatsRegistry, WorkerStats};
