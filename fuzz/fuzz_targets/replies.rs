//! What a server says against what was asked, in pieces of any size.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::backend::postgres::fuzz_replies(bytes));
