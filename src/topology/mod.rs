//! The picture of a cluster that every routing decision is made on.
//!
//! A [`Snapshot`] is immutable. The monitor alone makes new ones and publishes them through a
//! [`Topology`]; workers, sessions and the admin pages only read. Nothing here awaits, opens a
//! socket or reads a clock: instants come in as values.
//!
//! Open [`snapshot`] first, then [`handle`].

mod gtids;
mod handle;
mod orders;
mod snapshot;

pub use gtids::{GtidError, Gtids};
pub use handle::{Evidence, Topology};
pub use orders::{Leader, Orders};
pub use snapshot::{
    Branch, Descent, Epoch, Health, Hold, Lag, Lost, Node, NodeId, Position, Role, SessionDefaults,
    Snapshot, Timeline,
};
