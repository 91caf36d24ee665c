//! Compiles the gRPC service without a system `protoc`.

use prost::Message as _;

#[expect(clippy::disallowed_methods, reason = "cargo hands OUT_DIR over in the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["wire/regent.proto"], ["wire"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("regent.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
