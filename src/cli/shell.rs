//! Files that a package installs beside the program: completions, manual, API description.

use std::{io::Write as _, path::PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, CliError};
use crate::server;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

/// Prints a shell's completion script.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "oriva-hub", &mut text);
    print(&text)
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// An existing folder
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Prints the manual in roff, or writes it with a page for each command.
pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    if let Some(folder) = &args.dir {
        let written = clap_mangen::generate_to(Cli::command(), folder);
        return written.map_err(|error| CliError::Failed(format!("--dir {}: {error}", folder.display())));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(|error| CliError::Failed(error.to_string()))?;
    print(&page)
}

/// Prints the OpenAPI document.
pub(super) fn openapi(json: bool) -> Result<(), CliError> {
    let text = server::api_document(json).map_err(CliError::Failed)?;
    let end = if json { "\n" } else { "" };
    print(format!("{text}{end}").as_bytes())
}

fn print(text: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout();
    let printed = out.write_all(text).and_then(|()| out.flush());
    printed.map_err(|error| CliError::Failed(format!("standard output: {error}")))
}
