//! Parses the command line and runs it.

use std::process::ExitCode;

/// A storm of connects makes and frees two buffers of 8 KiB a handshake. The system's allocator keeps small things between
/// them, and with these the memory; one that sorts by size does not (benches/README.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    oriva_hub::cli::main()
}
