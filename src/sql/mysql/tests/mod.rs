//! The table of statements, hostile input and the cache, for MySQL and MariaDB.

mod fixture;
mod hostile;
mod table;
mod tokens;
