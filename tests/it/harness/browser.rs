//! A real browser, without a window: Chromium.

use std::process::{Child, Command, Stdio};

/// A browser with a profile of its own. Both are removed at the end of the test.
pub struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a page and lets it run.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::TempDir::new().expect("a folder");
        let mut command = command(&profile);
        let child = command.arg(url).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the browser starts");
        Self { child, _profile: profile }
    }

    /// The page's DOM after everything has loaded. Blocks.
    pub fn rendered(url: &str) -> String {
        let profile = tempfile::TempDir::new().expect("a folder");
        let mut command = command(&profile);
        let output =
            command.args(["--virtual-time-budget=30000", "--dump-dom", url]).output().expect("the browser runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The browser, which can reach this host alone.
fn command(profile: &tempfile::TempDir) -> Command {
    let browser = std::env::var("ORIVA_TEST_BROWSER").expect("ORIVA_TEST_BROWSER: run the tests with ./scripts/test");
    let mut command = Command::new(browser);
    command
        // Its sandbox does not run as root; the pages are our own.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        .arg(format!("--user-data-dir={}", profile.path().display()));
    command
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its child processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
