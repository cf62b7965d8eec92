//! `cargo xtask release`

use std::path::Path;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::push::{PushReport, PushRow};
use aiot_build::release::{Options, Report, release};
use aiot_build::sizes::SizeRow;

use crate::output::{Format, bytes, table};
use crate::progress::Progress;

/// How to release.
#[derive(clap::Args)]
pub struct Arguments {
    /// Fail instead of changing aiot.lock, calibration.toml or measured.json
    #[arg(long)]
    locked: bool,
    /// Build from the store, without the network
    #[arg(long)]
    offline: bool,
    /// Write nothing; exit with 2 and show the difference where committed files are not up to date
    #[arg(long)]
    check: bool,
    /// Write manifests only for these environments [default: all]
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
    /// Push images to this registry, for example localhost:5000/aiot
    #[arg(long, value_name = "REGISTRY/PREFIX")]
    push: Option<String>,
    /// With --push: release, but only ask the registry what it lacks, and count the requests that pushing takes
    #[arg(long, requires = "push")]
    dry_run: bool,
    /// Move tags that name other images
    #[arg(long, requires = "push")]
    move_tags: bool,
    /// Sign images, their bills of materials and provenance with this ECDSA P-256 key in PEM [default: the key in
    /// AIOT_SIGNING_KEY, if there is one]
    #[arg(long, value_name = "FILE")]
    sign_key: Option<std::path::PathBuf>,
    /// Actions at the same time [default: one per core]
    #[arg(long, short, value_name = "N")]
    jobs: Option<usize>,
}

/// Releases and prints the table.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let progress = Progress::new();
    let options = Options {
        locked: arguments.locked,
        offline: arguments.offline,
        check: arguments.check,
        environments: arguments.environment.clone(),
        push: arguments.push.clone(),
        push_dry_run: arguments.dry_run,
        move_tags: arguments.move_tags,
        signer: aiot_build::supply::signer(arguments.sign_key.as_deref())?,
        jobs: super::jobs(arguments.jobs),
    };
    let result = release(paths, &options, &|event| progress.show(event));
    progress.finish();
    let report = result?;
    match format {
        Format::Text => print(paths, &report, arguments),
        Format::Json => println!("{:#}", json(&report)),
    }
    if report.drift.is_empty() {
        return Ok(crate::EXIT_OK);
    }
    let names: Vec<String> = report
        .drift
        .iter()
        .map(|(path, _)| path.display().to_string())
        .collect();
    eprintln!("error: {}", BuildError::Drift(names));
    Ok(crate::EXIT_DRIFT)
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "images": report.rows,
        "sizes": report.sizes,
        "pushed": report.pushed.as_ref().map(|pushed| &pushed.rows),
        "push-requests": report.pushed.as_ref().and_then(|pushed| pushed.requests),
        "actions": report.total,
        "ran": report.ran,
        "written": report.written,
        "drift": report.drift.iter().map(|(path, _)| path).collect::<Vec<_>>(),
    })
}

/// Why an image was made anew, short enough for a table; `explain` has the whole chain.
fn rebuilt(reasons: &[String]) -> String {
    const SHOWN: usize = 2;
    match reasons {
        [] => "nothing".to_owned(),
        all if all.iter().all(|reason| reason.ends_with(": not built before")) => {
            "all: not built before".to_owned()
        }
        some if some.len() <= SHOWN => some.join("; "),
        many => format!("{}; and {} more", many[..SHOWN].join("; "), many.len() - SHOWN),
    }
}

/// What the images of each target take, and how long that is on its link.
fn sizes(rows: &[SizeRow]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let minutes = |size: u64| {
                row.minutes(size)
                    .map_or("-".to_owned(), |minutes| format!("{minutes:.1}"))
            };
            let unknown = || "-".to_owned();
            vec![
                row.target.clone(),
                row.images.to_string(),
                bytes(row.download_bytes),
                minutes(row.download_bytes),
                row.new_bytes.map_or_else(unknown, bytes),
                row.new_bytes.map_or_else(unknown, minutes),
                row.unpacked_bytes.map_or_else(unknown, bytes),
                row.unpacked_change_bytes.map_or_else(unknown, |change| {
                    let sign = if change < 0 { "-" } else { "+" };
                    format!("{sign}{}", bytes(change.unsigned_abs()))
                }),
                bytes(row.disk_bytes),
            ]
        })
        .collect();
    let header = [
        "target",
        "images>",
        "to send>",
        "minutes>",
        "since last release>",
        "minutes>",
        "unpacked>",
        "change>",
        "disk>",
    ];
    table(&header, &rows)
}

fn print_push(pushed: &PushReport, to: &str, dry_run: bool) {
    let sum = |value: fn(&PushRow) -> u64| pushed.rows.iter().map(value).sum::<u64>();
    println!(
        "{} {to}: {} blobs sent ({}), {} there already",
        if dry_run { "would push to" } else { "pushed" },
        sum(|row| row.blobs_sent as u64),
        bytes(sum(|row| row.sent_bytes)),
        sum(|row| (row.blobs_present + row.blobs_mounted) as u64)
    );
    if let Some(requests) = pushed.requests.filter(|_| dry_run) {
        println!("needs {requests}");
    }
}

fn print(paths: &Paths, report: &Report, arguments: &Arguments) {
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| {
            vec![
                row.model.to_string(),
                row.target.clone(),
                row.precision.to_string(),
                bytes(row.size_bytes),
                row.digest.short(),
                format!("{} {:.4} → {:.4}", row.metric, row.float, row.shipped),
                rebuilt(&row.rebuilt),
            ]
        })
        .collect();
    if report.ran == 0 {
        let short: Vec<Vec<String>> = rows.into_iter().map(|row| row[..6].to_vec()).collect();
        print!(
            "{}",
            table(&["model", "target", "as", "size>", "image", "quality"], &short)
        );
    } else {
        print!(
            "{}",
            table(
                &[
                    "model",
                    "target",
                    "as",
                    "size>",
                    "image",
                    "quality",
                    "rebuilt, and why"
                ],
                &rows
            )
        );
    }
    println!();
    print!("{}", sizes(&report.sizes));
    println!();
    for (path, text) in &report.drift {
        println!("\n{}:\n{text}", path.display());
    }
    for path in &report.written {
        println!("wrote {}", path.display());
    }
    if let (Some(pushed), Some(to)) = (&report.pushed, &arguments.push) {
        print_push(pushed, to, arguments.dry_run);
    }
    if !arguments.check {
        let images = paths.images();
        let shown = images
            .strip_prefix(&paths.root)
            .unwrap_or(Path::new("dist/images"));
        println!(
            "images in {}, bills of materials and provenance in dist/supply-chain",
            shown.display()
        );
    }
    if report.ran == 0 && report.written.is_empty() && report.drift.is_empty() {
        println!("nothing to do: {} actions are up to date", report.total);
    } else {
        println!("{} of {} actions ran", report.ran, report.total);
    }
}
