//! `cargo xtask bench`: how fast, each figure beside a peer or the physical limit that was measured in the same run.
//!
//! Times of one machine say little about another, ratios do. Where two things are compared they take turns, so that
//! a busy machine slows both. Everything happens in temporary folders; the workspace is only read.

mod bad_link;
mod bake;
mod curl;
mod fleet;
mod floor;
mod hub;
mod hub_tool;
mod load;
mod measure;
mod module;
mod plan;
mod push;
mod quantize;
mod release;

use aiot_build::BuildError;
use aiot_build::paths::Paths;

use crate::output::{Format, table};
use measure::Row;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// An image of 130 MiB: from files to a layout
    Bake,
    /// The same image to a registry on this machine (needs docker-registry)
    Push,
    /// Images of generated models for four targets, baked and pushed to a registry on this machine
    Fleet,
    /// A generated workspace: check, plan, release with nothing to do
    Plan,
    /// This workspace: release with nothing to do, and with one model changed
    Release,
    /// Decisions and looks at a simulated hub: 500 models, 4 targets, 10,000 devices
    Hub,
    /// Calibration and writing of the largest declared model, or of --model with --calibration
    Quantize,
    /// The module of an image against FastAPI and MLServer (needs python3 with pip; minutes)
    Module,
    /// This workspace without anything to reuse: fetch, compile, bake (minutes; needs the network)
    Cold,
}

/// How to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to measure [default: all but cold, fleet and module]
    #[arg(value_enum)]
    what: Vec<What>,
    /// Models of the generated workspace or fleet
    #[arg(long, value_name = "N", default_value = "500", value_parser = clap::value_parser!(u16).range(1..=5000))]
    models: u16,
    /// Targets of the generated workspace
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=50))]
    targets: u16,
    /// Times that each figure is taken; the median counts
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u16).range(1..=101))]
    runs: u16,
    /// With `push`: over a link with 200 ms latency on which 30 % of the requests fail, each run with another seed
    #[arg(long)]
    bad_link: bool,
    /// An ONNX file for `quantize`
    #[arg(long, value_name = "FILE", requires = "calibration")]
    model: Option<std::path::PathBuf>,
    /// Its samples: one .npy per input
    #[arg(long, value_name = "DIR", requires = "model")]
    calibration: Option<std::path::PathBuf>,
}

/// Measures and prints one row per figure.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let all = [
        What::Bake,
        What::Push,
        What::Plan,
        What::Release,
        What::Hub,
        What::Quantize,
    ];
    let wanted = if arguments.what.is_empty() {
        &all[..]
    } else {
        &arguments.what
    };
    let runs = usize::from(arguments.runs);
    let mut rows = Vec::new();
    for what in wanted {
        rows.extend(match what {
            What::Bake => bake::run(runs)?,
            What::Push if arguments.bad_link => bad_link::run(runs)?,
            What::Push => push::run(runs)?,
            What::Fleet => fleet::run(arguments.models.into(), runs)?,
            What::Plan => plan::run(paths, arguments.models.into(), arguments.targets.into(), runs)?,
            What::Release => release::run(paths, runs)?,
            What::Hub => hub::run(runs)?,
            What::Quantize => {
                let given = arguments.model.clone().zip(arguments.calibration.clone());
                let subject = given.map(|(model, calibration)| quantize::Subject { model, calibration });
                quantize::run(paths, subject.as_ref(), runs)?
            }
            What::Module => module::run(paths, runs)?,
            What::Cold => release::cold(paths)?,
        });
    }
    match format {
        Format::Text => print!("{}", text(&rows)),
        Format::Json => println!("{:#}", serde_json::json!({ "schema": 1, "rows": rows })),
    }
    Ok(crate::EXIT_OK)
}

fn text(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    table(
        &["what", "here>", "against", "that>", "ratio>", "min–max>", "aim"],
        &cells,
    )
}
