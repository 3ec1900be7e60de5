//! From the text of a statement to what it does: [`Statement`].
//!
//! Nothing here awaits, opens a socket or reads a clock. The rule of the whole module: what it
//! does not know is a write, and goes to the primary.

pub mod statement;

pub use statement::*;
