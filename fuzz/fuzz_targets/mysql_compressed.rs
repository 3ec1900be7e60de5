//! The compressed stream of a MySQL client.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tiffin::frontend::mysql::compress::fuzz_compressed(bytes);
});
