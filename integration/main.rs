//! Tests on real servers, one binary. `servers` tests the harness itself.

mod servers;
