//! `cargo xtask push --to REGISTRY/PREFIX`

use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::network::Network;
use aiot_build::paths::Paths;
use aiot_build::push::{PushReport, PushSettings, layout_items, push};

use crate::output::{Format, bytes, table};
use crate::progress::Progress;

/// What to push and where to.
#[derive(clap::Args)]
pub struct Arguments {
    /// Registry and first part of all repositories, for example localhost:5000/aiot
    #[arg(long, value_name = "REGISTRY/PREFIX")]
    to: String,
    /// An OCI image layout, of this tool or another [default: dist/images]
    #[arg(long, value_name = "DIR")]
    layout: Option<PathBuf>,
    /// Ask the registry what it lacks, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Move tags that name other images
    #[arg(long)]
    move_tags: bool,
}

/// Pushes, and prints what was sent.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let layout = arguments.layout.clone().unwrap_or_else(|| paths.images());
    let (store, items) = layout_items(&layout, &paths.supply_chain())?;
    let network = Network::new()?;
    let progress = Progress::new();
    let habits = paths.registries();
    let settings = PushSettings {
        move_tags: arguments.move_tags,
        dry_run: arguments.dry_run,
        habits: Some(&habits),
        bases: None,
    };
    let result = push(&network, &store, &arguments.to, &items, settings, &|event| {
        progress.show(event)
    });
    progress.finish();
    let report = result?;
    match format {
        Format::Text => print(&report, arguments.dry_run),
        Format::Json => println!(
            "{:#}",
            serde_json::json!({
                "schema": 1,
                "dry-run": arguments.dry_run,
                "images": report.rows,
                "requests": report.requests,
            })
        ),
    }
    let moved = |row: &&aiot_build::push::PushRow| row.tag_names.is_some() && !arguments.move_tags;
    let conflicts: Vec<&str> = report
        .rows
        .iter()
        .filter(moved)
        .map(|row| row.reference.as_str())
        .collect();
    if conflicts.is_empty() {
        return Ok(crate::EXIT_OK);
    }
    Err(BuildError::Other(format!(
        "{} already named otherwise; raise the model's version, or move the tag with --move-tags",
        conflicts.join(", ")
    )))
}

fn print(report: &PushReport, dry_run: bool) {
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| {
            let state = match (&row.tag_names, row.up_to_date) {
                (Some(other), _) if dry_run => format!("tag names {}", other.short()),
                (_, true) => "up to date".to_owned(),
                _ if dry_run => "to push".to_owned(),
                _ => "pushed".to_owned(),
            };
            vec![
                row.reference.clone(),
                row.digest.short(),
                bytes(row.sent_bytes),
                row.blobs_sent.to_string(),
                row.blobs_mounted.to_string(),
                row.blobs_present.to_string(),
                row.artifacts_sent.to_string(),
                state,
            ]
        })
        .collect();
    print!(
        "{}",
        table(
            &[
                "image",
                "digest",
                "sent>",
                "blobs sent>",
                "mounted>",
                "there>",
                "attached>",
                "state"
            ],
            &rows
        )
    );
    let sum = |value: fn(&aiot_build::push::PushRow) -> u64| report.rows.iter().map(value).sum::<u64>();
    println!(
        "{} {} in {} blobs and {} manifests",
        if dry_run { "would send" } else { "sent" },
        bytes(sum(|row| row.sent_bytes)),
        sum(|row| row.blobs_sent as u64),
        sum(|row| row.manifests_sent as u64)
    );
    if let Some(requests) = report.requests.filter(|_| dry_run) {
        println!("needs {requests}");
    }
}
