//! What happens around a change of the primary: requests wait at the [`gate`], and the [`log`]
//! tells afterwards what was when.
//!
//! Who is the primary is decided by the monitor; nothing here promotes a node.

pub mod gate;
pub mod log;

pub use gate::{Gate, GateError};
