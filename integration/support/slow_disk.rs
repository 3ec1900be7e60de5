//! The library that makes a server's disk slow: `slow_disk.c`, built by the C compiler that Rust needs
//! as well.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Where it is, once it is built.
pub fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    let folder = super::cache().expect("a folder");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/support/slow_disk.c");
    let half = folder.join(format!("slow_disk.{}.so", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Werror", "-fPIC", "-shared", "-o"])
        .arg(&half)
        .args([source, "-ldl"]);
    let built = cc.output().expect("cc");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let library = folder.join("slow_disk.so");
    // Whoever has the one before open keeps it.
    std::fs::rename(half, &library).unwrap();
    library
}
