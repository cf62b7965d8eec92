//! `cargo xtask update`

use aiot_build::BuildError;
use aiot_build::network::Network;
use aiot_build::paths::Paths;
use aiot_build::update::{Changes, bases, forget_records, wheels};
use serde_json::json;

use crate::output::Format;
use crate::progress::Progress;

/// What to move.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Bases: move aiot.lock to the Debian packages that the mirror has now, and targets.toml to what the tags of base
    /// images name now
    Base,
    /// Wheels of engines and build tools: look them up again
    Wheels,
    /// Calibration ranges and measurements: make them anew at the next release
    Records {
        /// Only these models [default: all]
        model: Vec<String>,
    },
}

/// Moves what is pinned and prints what that changes.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let moves = match &arguments.what {
        What::Records { model } => return forget(paths, model, format),
        What::Base => bases,
        What::Wheels => wheels,
    };
    let progress = Progress::new();
    let network = Network::new()?;
    let events = |event| progress.show(event);
    let Changes { images, locked } = moves(paths, &network, &events)?;
    progress.finish();
    if format == Format::Json {
        let changes: Vec<&String> = images.iter().chain(&locked).collect();
        println!("{:#}", json!({ "schema": 1, "changes": changes }));
        return Ok(crate::EXIT_OK);
    }
    for change in images.iter().chain(&locked) {
        println!("{change}");
    }
    let files = match (images.is_empty(), locked.is_empty()) {
        (true, true) => {
            println!("nothing newer");
            return Ok(crate::EXIT_OK);
        }
        (true, false) => "aiot.lock",
        (false, true) => "targets.toml",
        (false, false) => "targets.toml and aiot.lock",
    };
    println!("`cargo xtask release` builds with them; review the change of {files}");
    Ok(crate::EXIT_OK)
}

/// Takes records away, and says which.
fn forget(paths: &Paths, models: &[String], format: Format) -> Result<u8, BuildError> {
    let removed = forget_records(paths, models)?;
    match format {
        Format::Text => {
            for file in &removed {
                println!("removed {file}");
            }
            println!("`cargo xtask release` makes them anew");
        }
        Format::Json => println!("{:#}", json!({ "schema": 1, "removed": removed })),
    }
    Ok(crate::EXIT_OK)
}
