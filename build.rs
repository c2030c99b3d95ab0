//! Notes which commit this is, where there is a repository to ask.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A debug build is not made anew for every commit.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rerun-if-changed=.git/logs/HEAD");
    }
    println!("cargo:rerun-if-env-changed=ORIVA_HUB_COMMIT");
    let from_git = || {
        let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = std::env::var("ORIVA_HUB_COMMIT").ok().or_else(from_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=ORIVA_HUB_VERSION={} ({commit})", std::env::var("CARGO_PKG_VERSION").unwrap_or_default());
}
