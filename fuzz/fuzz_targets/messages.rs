//! Every decoder of messages after the start, of clients and of servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::protocol::postgres::fuzz_messages(bytes));
