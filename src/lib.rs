//! tiffin: a proxy that applications connect to instead of their database. Writes go to the
//! primary, each read to the best replica that is fresh enough for the session that asks, and
//! everything is re-pointed in one step when the primary changes.
//!
//! ```text
//!            bytes           message          Statement        Need            NodeId          connection
//! client ──▶ frontend ──▶ protocol ──▶ sql ─────────▶ session ──────▶ route ──────▶ pool ──────▶ backend ──▶ server
//!   ▲                                                   ▲               ▲                           │
//!   └──────────────── reply bytes, copied back ─────────┼── outcome ◀───┼───────────────────────────┘
//!                                                       │           Snapshot ◀── topology ◀── monitor ──▶ servers
//!                                                       └──────── epoch, gate ◀── failover
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`metrics`] | every counter, and why a statement went where it went |
//! | [`sql`] | text to `Statement`: what it does; what it does not know is a write |
//! | [`protocol`] | bytes to messages and back |
//! | [`config`] | the YAML file, checked |
//! | [`topology`] | the picture of a cluster that decisions are made on |
//! | [`session`] | the pure state of one client, and what its next request needs |
//! | [`route`] | the pure choice of a node |
//! | [`backend`] | one server connection |
//! | [`pool`] | server connections per node, user and database |
//! | [`monitor`] | probes, lag, who is primary, catalogs |
//! | [`failover`] | the gate that holds requests while there is no primary; promotion, switchover |
//! | [`frontend`] | one client's conversation |
//! | [`admin`] | HTTP: health, metrics, the API |
//! | [`server`] | the running program: threads, listeners, reload, drain |
//! | [`cli`] | the commands |
//!
//! Start with [`frontend::postgres::conversation`], the list of a request's stages.
//!
//! What is absent, on purpose:
//! - `sql`, `protocol`, `session`, `route` and `topology` await nothing, open no socket and read
//!   no clock: bytes, values and instants come in as arguments.
//! - Only `monitor` makes snapshots. Nothing reads a global.
//! - On the way of a query there is no lock, no allocation and no other thread.
//! - A module imports only from modules above it in this table (`tidy.rs` checks).

pub mod admin;
pub mod backend;
pub mod cli;
pub mod config;
pub mod failover;
pub mod frontend;
pub mod metrics;
pub mod monitor;
pub mod pool;
pub mod protocol;
pub mod route;
pub mod server;
pub mod session;
pub mod sql;
pub mod topology;

#[cfg(test)]
mod tidy;
