//! Tests of the module as a whole: the table of statements, hostile input, the cache in front.

pub(super) mod cases;
mod fixture;
mod hostile;
mod table;
