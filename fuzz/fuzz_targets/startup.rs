//! Every decoder of a connection's start.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::protocol::postgres::fuzz_startup(bytes));
