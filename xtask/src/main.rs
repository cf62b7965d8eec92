//! The command line of AIoT Ops: flags in, one command out, errors and progress rendered. No logic of its own.

mod commands;
mod output;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use aiot_build::BuildError;
use aiot_build::paths::{Paths, STORE_VARIABLE};
use clap::{Parser, Subcommand};

/// Nothing to do, or all done.
const EXIT_OK: u8 = 0;
/// Something failed; stderr says what and what to do.
const EXIT_ERROR: u8 = 1;
/// `--check`: committed files are not up to date.
const EXIT_DRIFT: u8 = 2;

/// `diff`, `deploy plan`, `--dry-run`: something would change.
const EXIT_CHANGES: u8 = 2;

/// Build and release AI models for edge devices: declare in models.toml and targets.toml, then `cargo xtask release`.
///
/// Data goes to stdout, talk to stderr. Exit codes: 0 done or nothing to do, 1 error, 2 drift (`release --check`)
/// or changes that are not made (`diff`, `deploy plan`, `--dry-run`).
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Folder of the workspace [default: the one with models.toml, here or above]
    #[arg(long, global = true, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// How results are written to stdout
    #[arg(long, global = true, value_enum, default_value = "text")]
    format: output::Format,
}

#[derive(Subcommand)]
enum Command {
    /// Check all declarations; every mistake with file, line and what to do
    Check,
    /// Show what a release would do, and why
    Plan(commands::plan::Arguments),
    /// Show the chain of actions behind one image: keys, inputs, reasons
    Explain(commands::explain::Arguments),
    /// Make images and deployment manifests
    Release(commands::release::Arguments),
    /// Push the images of a layout to a registry
    Push(commands::push::Arguments),
    /// List images with layers and shared bytes, or show what differs between two
    Images(commands::images::Arguments),
    /// Show what a change means on the devices: models, sizes, accuracy, settings; Markdown for the pull request
    Diff(commands::diff::Arguments),
    /// Roll releases out on a hub: plan, apply, advance, status, rollback
    #[command(subcommand)]
    Deploy(commands::deploy::Arguments),
    /// Show what runs where: wanted against reported, per device and model
    Fleet(commands::fleet::Arguments),
    /// Explain why a device runs what it runs
    #[command(subcommand)]
    Rollout(commands::rollout::Arguments),
    /// A simulated hub on this machine
    #[command(subcommand)]
    Hub(commands::hub::Arguments),
    /// Quantize one model and show what that costs
    Quantize(commands::quantize::Arguments),
    /// Show what is in an ONNX file, and what quantizing would make of it
    Inspect(commands::inspect::Arguments),
    /// Move what aiot.lock and the records pin, and show what that changes
    Update(commands::update::Arguments),
    /// Run the images of the last release, emulated, on the evaluation data: do all architectures say the same?
    Verify(commands::verify::Arguments),
    /// Are the images in a registry what the declarations, the lock and the trusted keys say?
    VerifyImages(commands::verify_images::Arguments),
    /// Run every test of this repository, with real parts
    Test(commands::test::Arguments),
    /// Measure against peers and limits in one run; prints ratios
    Bench(commands::bench::Arguments),
}

/// Today's time, seconds since 1970: for what is said to people, never for what is built.
pub(crate) fn now_secs() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = workspace_root(cli.workspace.as_deref()).and_then(|root| {
        let store = std::env::var_os(STORE_VARIABLE).map(PathBuf::from);
        let paths = Paths::new(&root, store);
        match cli.command {
            Command::Check => commands::check::run(&paths, cli.format),
            Command::Plan(arguments) => commands::plan::run(&paths, &arguments, cli.format),
            Command::Explain(arguments) => commands::explain::run(&paths, &arguments, cli.format),
            Command::Release(arguments) => commands::release::run(&paths, &arguments, cli.format),
            Command::Push(arguments) => commands::push::run(&paths, &arguments, cli.format),
            Command::Images(arguments) => commands::images::run(&paths, &arguments, cli.format),
            Command::Diff(arguments) => commands::diff::run(&paths, &arguments, cli.format),
            Command::Deploy(arguments) => commands::deploy::run(&paths, &arguments, cli.format),
            Command::Fleet(arguments) => commands::fleet::run(&paths, &arguments, cli.format),
            Command::Rollout(arguments) => commands::rollout::run(&paths, &arguments, cli.format),
            Command::Hub(arguments) => commands::hub::run(&paths, &arguments, cli.format),
            Command::Quantize(arguments) => commands::quantize::run(&paths, &arguments, cli.format),
            Command::Inspect(arguments) => commands::inspect::run(&arguments, cli.format),
            Command::Update(arguments) => commands::update::run(&paths, &arguments, cli.format),
            Command::Verify(arguments) => commands::verify::run(&paths, &arguments, cli.format),
            Command::VerifyImages(arguments) => commands::verify_images::run(&paths, &arguments, cli.format),
            Command::Test(arguments) => commands::test::run(&paths, &arguments, cli.format),
            Command::Bench(arguments) => commands::bench::run(&paths, &arguments, cli.format),
        }
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::error(&error, cli.format);
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// The folder with `models.toml`, here or above.
fn workspace_root(given: Option<&std::path::Path>) -> Result<PathBuf, BuildError> {
    let current = std::env::current_dir().map_err(BuildError::other)?;
    if let Some(dir) = given {
        return Ok(current.join(dir));
    }
    let found = current.ancestors().find(|dir| dir.join("models.toml").is_file());
    found.map(std::path::Path::to_owned).ok_or_else(|| {
        BuildError::Other(format!(
            "there is no models.toml in {} or above; run in a workspace, or name one with --workspace",
            current.display()
        ))
    })
}
