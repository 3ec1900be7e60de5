//! Tests on real servers, one binary.
//!
//! Each file is a topic, `support` what they stand on. A test starts servers of its own, which
//! takes one to two seconds, so what belongs together is asked of one cluster. Figures that a
//! test measures are printed on lines that begin with `measured:`.

mod consistency;
mod failover;
mod lag;
mod routing;
mod servers;
mod support;
