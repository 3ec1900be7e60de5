//! Tests on real servers, one binary.
//!
//! Each file is a topic, `support` what they stand on. A test starts servers of its own, which
//! takes one to two seconds, so what belongs together is asked of one cluster. Figures that a
//! test measures are printed on lines that begin with `measured:`.

mod auth;
mod bad_input;
mod catalog;
mod chaos;
mod commands;
mod consistency;
mod coordination;
mod differential;
mod drivers;
mod failover;
mod lag;
mod maintenance;
mod messages;
mod mysql_accounts;
mod mysql_bad_input;
mod mysql_consistency;
mod mysql_differential;
mod mysql_drivers;
mod mysql_login;
mod mysql_modes;
mod mysql_promotion;
mod mysql_reads;
mod mysql_recall;
mod mysql_reload;
mod mysql_replay;
mod mysql_replication;
mod mysql_resolve;
mod mysql_servers;
mod mysql_sessions;
mod mysql_tls;
mod mysql_writes;
mod operations;
mod patroni;
mod pins;
mod pooling;
mod postgres_18;
mod promotion;
mod protocol;
mod read_only;
mod reads;
mod replay;
mod resolve;
mod routing;
mod scenarios;
mod servers;
mod settings;
mod shapes;
mod soak;
mod support;
mod tls;
mod tools;
mod traces;
