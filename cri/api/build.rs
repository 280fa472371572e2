//! Compiles `proto/api.proto` to Rust: protox parses (no protoc needed), tonic-prost-build writes client and server.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/api.proto");
    let descriptors = protox::compile(["api.proto"], ["proto"])?;
    // Secrets of AuthConfig must not reach a log through {:?}: lib.rs writes its Debug by hand.
    tonic_prost_build::configure()
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
