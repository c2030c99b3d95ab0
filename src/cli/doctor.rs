//! `doctor`: looks at what a hub with these settings needs, and says what to do.

use clap::Args;
use reqwest::Url;
use serde_json::json;

use super::{CliError, say};
use crate::{
    config::{Config, masked_url},
    server::{Verdict, examine},
};

#[derive(Debug, Default, Args)]
pub(super) struct DoctorArgs {
    /// Where clients reach the hub, to look at its name, its certificate and what stands before it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Prints one line for each thing that was looked at.
///
/// # Errors
/// Where one of them is bad.
pub(super) async fn run(args: &DoctorArgs, config: &Config, as_json: bool) -> Result<(), CliError> {
    let parse = |text: &String| {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        url.ok_or_else(|| CliError::Usage(format!("--url {:?} must be http://HOST or https://HOST", masked_url(text))))
    };
    let url = args.url.as_ref().map(parse).transpose()?;
    let findings = examine(config, url.as_ref()).await;
    if as_json {
        say(json!({"findings": findings}))?;
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Warning => "warning",
                Verdict::Bad => "BAD",
            };
            say(format_args!("{mark:<8}{:<13}{}", finding.what, finding.says))?;
        }
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count() {
        0 => Ok(()),
        count => Err(CliError::Failed(format!("{count} of {} are bad", findings.len()))),
    }
}
