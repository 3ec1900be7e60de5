//! What happens around a change of the primary: requests wait at the [`gate`], the [`log`] tells
//! afterwards what was when, and where the configuration wants it, a replica is promoted.
//!
//! ```text
//!  snapshots ─▶ detect ─▶ control ─▶ takeover (the primary is lost)   ─▶ servers ─▶ postgres
//!  operators ───────────▶    │    └▶ switchover (it hands over)       ─▶    │    └▶ mysql
//!                            └────── audit: every step, with its duration ◀─┘
//! ```
//! Of several proxies only the one that has the [`lease`] acts. Open [`control`] first; what is
//! done is the same for every engine, and [`servers`] does each errand as its engine's. [`detect`],
//! [`candidate`] and [`conninfo`] are pure. Who is the primary is decided by the monitor: a
//! promotion counts once it sees it. [`patroni`] asks which nodes there are.

pub mod audit;
pub mod candidate;
pub mod command;
pub mod conninfo;
pub mod control;
pub mod detect;
pub mod etcd;
pub mod gate;
pub mod history;
pub mod http;
pub mod lease;
pub mod log;
mod mysql;
mod mysql_applier;
mod mysql_words;
pub mod patroni;
mod postgres;
mod reconnect;
pub mod servers;
mod strays;
pub mod switchover;
pub mod takeover;
mod unreplaced;

pub use audit::Audit;
pub use control::Control;
pub use gate::{Gate, GateError};
