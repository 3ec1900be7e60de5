//! Every decoder of a MySQL connection's start.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::protocol::mysql::fuzz_handshake(bytes));
