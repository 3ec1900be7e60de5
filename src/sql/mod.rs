//! From the text of a statement to what it does: [`Statement`].
//!
//! Nothing here awaits, opens a socket or reads a clock. The rule of the whole module: what it
//! does not know is a write, and goes to the primary.
//!
//! ```text
//! text ─ scan (digest) ─ cache ─┬─ hit ─────────────────────────────▶ Statement
//!                               └─ miss ─ lex ─ classify ─┬─ control, settings, utility
//!                                                         └─ parse ─ walk ◀── catalog, functions
//! ```
//!
//! Classification takes up to 1.3 MiB of stack (see `parse.rs`): threads of 2 MiB or more.
//!
//! Open `classifier.rs` first, then `classify.rs`. PostgreSQL's SQL is here, that of
//! MySQL and MariaDB in `mysql/`; the values of `statement.rs` and the walk over the tree are the
//! same for every engine.

mod body;
mod cache;
mod calls;
mod catalog;
mod catalog_build;
pub mod catalog_queries;
mod classifier;
mod classify;
mod control;
mod cursor;
mod dialect;
mod found;
mod functions;
mod fuzz;
pub mod hint;
mod lex;
pub mod mysql;
mod parse;
mod recent;
mod scan;
mod settings;
mod split;
pub mod statement;
#[cfg(test)]
mod tests;
mod utility;
mod walk;
mod walk_dml;
mod walk_expr;
mod walk_from;

pub use body::effects_of_body;
pub use calls::{EMPTY_LIST, setting_as_sql};
pub use catalog::{
    CastRow, Catalog, CatalogRows, Defaults, FunctionRow, FunctionRules, OperatorRow, Persistence,
    RelationKind, RelationRow, RoutineRow, TypeRow, Volatility,
};
pub use catalog_build::CALLS_DEEP_MAX;
pub use classifier::{Classifier, Limits as ClassifierLimits};
pub use classify::classify;
pub use control::is_start;
pub use dialect::Dialect;
pub use functions::setting_needs_privilege;
pub use fuzz::fuzz_one;
pub use hint::{duration as parse_duration, target as parse_target};
pub use lex::is_readable_encoding;
pub use split::split_statements;
pub use statement::*;
