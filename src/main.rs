//! Parses the command line and runs it.

use std::process::ExitCode;

/// A storm of connects allocates and frees two buffers of 8 KiB for each handshake. The system's allocator places small
/// objects between them, which keeps the memory in use. An allocator that separates sizes does not (benches/README.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    oriva_hub::cli::main()
}
