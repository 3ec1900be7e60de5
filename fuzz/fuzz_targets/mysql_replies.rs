//! What MySQL servers answer, followed and translated in whatever pieces it arrives.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::protocol::mysql::fuzz_replies(bytes));
