//! `cargo xtask verify-images`

use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::network::Network;
use aiot_build::paths::Paths;
use aiot_build::verify_images::{Report, Request, verify};

use crate::output::{Format, table};
use crate::progress::Progress;

/// Which images, and against what.
#[derive(clap::Args)]
pub struct Arguments {
    /// Images or indexes, REGISTRY/REPOSITORY:TAG or …@DIGEST [default: those of the environments' manifests]
    #[arg(value_name = "REF")]
    references: Vec<String>,
    /// Images of this environment's manifests; with REF its policy [default: all that have a registry]
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
    /// Ask for a signature of this public key (ECDSA P-256 in PEM) instead of those that the environment trusts
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Build what is declared here, and name the first file and bytes that differ
    #[arg(long)]
    rebuild: bool,
    /// Actions of that build at the same time [default: one per core]
    #[arg(long, short, value_name = "N", requires = "rebuild")]
    jobs: Option<usize>,
}

/// Verifies, and prints a line an image; exit code 1 where anything is not as it should be.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let request = Request {
        environments: arguments.environment.clone(),
        references: arguments.references.clone(),
        keys: arguments.key.clone(),
        rebuild: arguments.rebuild,
        jobs: super::jobs(arguments.jobs),
    };
    let network = Network::new()?;
    let progress = Progress::new();
    let result = verify(paths, &request, &network, &|event| progress.show(event));
    progress.finish();
    let report = result?;
    match format {
        Format::Text => print(&report),
        Format::Json => println!(
            "{:#}",
            serde_json::json!({ "schema": 1, "good": report.is_good(), "images": report.images })
        ),
    }
    Ok(if report.is_good() {
        crate::EXIT_OK
    } else {
        crate::EXIT_ERROR
    })
}

fn print(report: &Report) {
    let rows: Vec<Vec<String>> = report
        .images
        .iter()
        .map(|image| {
            vec![
                image.environment.clone().unwrap_or_else(|| "-".to_owned()),
                short(&image.image),
                image.target.clone().unwrap_or_else(|| "-".to_owned()),
                image.digests.to_string(),
                image.bill_of_materials.to_string(),
                image.provenance.to_string(),
                image.signature.to_string(),
                image.rebuild.to_string(),
            ]
        })
        .collect();
    let header = [
        "environment",
        "image",
        "target",
        "digests",
        "bill of materials",
        "provenance",
        "signature",
        "rebuild",
    ];
    print!("{}", table(&header, &rows));
    for image in &report.images {
        for fault in &image.faults {
            println!("fault: {}: {fault}", image.image);
        }
    }
    for image in &report.images {
        for note in &image.notes {
            println!("note: {}: {note}", image.image);
        }
    }
    let bad = report
        .images
        .iter()
        .filter(|image| !image.faults.is_empty())
        .count();
    println!("{} images verified, {bad} with faults", report.images.len());
}

/// A reference with the first digits of its digest.
fn short(image: &str) -> String {
    const SHOWN: usize = "sha256:".len() + 12;
    match image.rsplit_once('@') {
        Some((name, digest)) => format!("{name}@{}", digest.chars().take(SHOWN).collect::<String>()),
        None => image.to_owned(),
    }
}
