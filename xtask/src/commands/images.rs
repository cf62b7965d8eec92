//! `cargo xtask images`

use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::images::{FileDiff, ImageDiff, ImagesReport, diff, list};
use aiot_build::paths::Paths;

use crate::output::{Format, bytes, table};

/// Which images.
#[derive(clap::Args)]
pub struct Arguments {
    /// An image of the layout, by name, digest or the digest's first digits
    image: Option<String>,
    /// Show what differs from this image: a name or digest of the layout, or REGISTRY/REPOSITORY:TAG
    #[arg(long, value_name = "IMAGE")]
    diff: Option<String>,
    /// An OCI image layout, of this tool or another [default: dist/images]
    #[arg(long, value_name = "DIR")]
    layout: Option<PathBuf>,
    /// Fetch nothing
    #[arg(long)]
    offline: bool,
}

/// Prints the list, or what differs.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let layout = arguments.layout.clone().unwrap_or_else(|| paths.images());
    if let Some(other) = &arguments.diff {
        let network = super::network(arguments.offline)?;
        let diff = diff(
            paths,
            &layout,
            arguments.image.as_deref(),
            other,
            network.as_ref(),
        )?;
        match format {
            Format::Text => print_diff(&diff),
            Format::Json => {
                let json = serde_json::to_value(&diff).map_err(BuildError::other)?;
                println!("{json:#}");
            }
        }
        return Ok(crate::EXIT_OK);
    }
    let mut report = list(&layout)?;
    if let Some(name) = &arguments.image {
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        report
            .images
            .retain(|image| image.name == *name || image.digest.hex().starts_with(digits));
        if report.images.is_empty() {
            return Err(BuildError::Other(format!("the layout has no image `{name}`")));
        }
    }
    match format {
        Format::Text => print_list(&report, arguments.image.is_some()),
        Format::Json => {
            let json = serde_json::to_value(&report).map_err(BuildError::other)?;
            println!("{json:#}");
        }
    }
    Ok(crate::EXIT_OK)
}

fn print_list(report: &ImagesReport, is_part: bool) {
    let mut rows = Vec::new();
    for image in &report.images {
        rows.push(vec![
            image.name.clone(),
            image.platform.clone(),
            image.digest.short(),
            bytes(image.size_bytes),
            String::new(),
        ]);
        for layer in &image.layers {
            let kind = layer.media_type.rsplit('.').next().unwrap_or_default();
            let shared = match layer.images {
                1 => String::new(),
                many => format!("in {many} images"),
            };
            rows.push(vec![
                format!("  {kind}"),
                String::new(),
                layer.digest.short(),
                bytes(layer.size_bytes),
                shared,
            ]);
        }
    }
    print!(
        "{}",
        table(&["image", "platform", "digest", "size>", "shared"], &rows)
    );
    if !is_part {
        println!(
            "{} images, {} together, {} without what they share",
            report.images.len(),
            bytes(report.separate_bytes),
            bytes(report.distinct_bytes)
        );
    }
}

fn print_diff(diff: &ImageDiff) {
    println!("{}: {} → {}", diff.name, diff.before.short(), diff.after.short());
    for (name, before, after) in &diff.settings {
        println!("config {name}: {before} → {after}");
    }
    let row = |file: &FileDiff| {
        let at = file.first_difference.as_ref().map_or(String::new(), |range| {
            format!("first at byte {} to {}", range.start, range.end)
        });
        vec![
            file.change.to_owned(),
            file.path.clone(),
            bytes(file.before_bytes),
            bytes(file.after_bytes),
            at,
        ]
    };
    if !diff.files.is_empty() {
        let rows: Vec<Vec<String>> = diff.files.iter().map(row).collect();
        print!("{}", table(&["", "file", "before>", "after>", "where"], &rows));
    }
    let download: u64 = diff.layers_added.iter().map(|(_, size)| size).sum();
    println!(
        "{} paths differ; {} layers are new, {} to download; {} layers are gone",
        diff.files.len(),
        diff.layers_added.len(),
        bytes(download),
        diff.layers_removed.len()
    );
}
