//! Tests of the module as a whole: the table of statements, hostile input, the cache in front.

mod fixture;
mod hostile;
mod table;
