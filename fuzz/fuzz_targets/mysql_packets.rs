//! The decoders of MySQL's command phase.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::protocol::mysql::fuzz_packets(bytes));
