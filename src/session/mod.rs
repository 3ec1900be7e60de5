//! The pure state of one client: transaction, settings, pins, positions, and what follows from
//! them for the next request: its [`Need`].
//!
//! No socket, no clock, no protocol: effects of statements and instants come in as values.
//! Open [`need`] for the rule that decides, [`transaction`] for what survives a rollback.

mod again;
pub mod doubts;
pub mod journal;
pub mod need;
pub mod overrides;
pub mod pins;
pub mod positions;
pub mod settings;
pub mod transaction;

pub use doubts::Doubts;
pub use journal::Journal;
pub use need::{Class, Need, ReplicaNeed, Wish};
pub use overrides::{NoChoice, Overrides};
pub use pins::Pins;
pub use positions::Positions;
pub use settings::Settings;
pub use transaction::{Session, Transaction};
