//! Any bytes as SQL text: no panic, no endless work, and what holds of every text holds.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tiffin::sql::fuzz_one(bytes));
