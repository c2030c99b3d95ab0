//! What a package installs beside the program: completions, the manual, the API's description.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, CliError};
use crate::server;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

/// Prints what the shell reads to complete the command line.
pub(super) fn completions(args: &CompletionsArgs) {
    clap_complete::generate(args.shell, &mut Cli::command(), "oriva-hub", &mut std::io::stdout());
}

/// Prints the manual, in roff.
pub(super) fn man() -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Failed(error.to_string());
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
    std::io::stdout().write_all(&page).map_err(failed)
}

/// Prints the OpenAPI document.
pub(super) fn openapi(json: bool) -> Result<(), CliError> {
    let text = server::api_document(json).map_err(CliError::Failed)?;
    let end = if json { "\n" } else { "" };
    write!(std::io::stdout(), "{text}{end}").map_err(|error| CliError::Failed(error.to_string()))
}
