//! A hub with 10,000 devices: decisions, merge preview, and what runs where, over https against the simulated one.

use std::time::Instant;

use aiot_build::BuildError;
use aiot_hub::{Client, LiveHub, Options};
use aiot_hubsim::sized::{Size, declared, files, finished};
use aiot_hubsim::{Server, Service};
use aiot_iothub::diff::diff;
use aiot_iothub::rollout::fleet::{Filter, Fleet};
use aiot_iothub::rollout::{Explainer, Hub, Intent, Readable, Snapshot, decide};

use super::hub_tool::Checkout;
use super::measure::{Aim, Row};

/// 500 models on each of four targets; 84 deployments.
const MODELS: Size = Size {
    targets: 4,
    lines: 20,
    models: 25,
    devices: 10_000,
};
/// 30 modules on each device.
const MODULES: Size = Size {
    targets: 4,
    lines: 6,
    models: 28,
    devices: 10_000,
};

/// A hub that is served, and a client that knows its units: nobody waits for a throttle.
fn served(service: Service) -> Result<(Server, LiveHub), BuildError> {
    let units = 10_000;
    let server = Server::start(service, 0, units, 0.0).map_err(BuildError::other)?;
    let folder = tempfile::tempdir().map_err(BuildError::other)?;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).map_err(BuildError::other)?;
    let options = Options {
        ca_file: Some(ca_file),
        units,
        on_pause: None,
    };
    let connection = server.connection_string().parse().map_err(BuildError::other)?;
    let client = Client::new(connection, &options).map_err(BuildError::other)?;
    Ok((server, LiveHub::new(client, 100)))
}

/// Seconds of `runs` goes.
fn times(runs: usize, work: &mut dyn FnMut() -> Result<(), BuildError>) -> Result<Vec<f64>, BuildError> {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect()
}

fn many(errors: Vec<aiot_iothub::ManifestError>) -> BuildError {
    BuildError::Other(
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

/// Measures.
pub fn run(runs: usize) -> Result<Vec<Row>, BuildError> {
    eprintln!("hub: rolling a release of 500 models out to 10,000 simulated devices");
    let first = files(MODELS, 1).map_err(many)?;
    let second = files(MODELS, 2).map_err(many)?;
    let old = declared(&first, 1).map_err(BuildError::Other)?;
    let new = declared(&second, 2).map_err(BuildError::Other)?;
    let service = finished(MODELS, &old).map_err(BuildError::Other)?;
    let mut rows = Vec::new();
    let compared = times(runs, &mut || {
        diff(&first, &second)
            .map(|difference| drop(difference.to_markdown("prod")))
            .map_err(BuildError::other)
    })?;
    rows.push(Row::alone(
        "hub: diff of two releases of 2,000 images",
        &compared,
        Some(Aim::Here(0.5)),
    ));

    let (server, mut hub) = served(service)?;
    let mut snapshot = Snapshot::default();
    let looked = times(runs, &mut || {
        snapshot = hub.snapshot().map_err(BuildError::other)?;
        Ok(())
    })?;
    let decided = times(runs, &mut || {
        let decision = decide(&new, &snapshot, &Intent::default()).map_err(BuildError::other)?;
        match decision.steps.is_empty() {
            true => Err(BuildError::Other(
                "the new release is no change to the hub".to_owned(),
            )),
            false => Ok(()),
        }
    })?;
    let both: Vec<f64> = looked
        .iter()
        .zip(&decided)
        .map(|(look, decide)| look + decide)
        .collect();
    let name = |what: &str| format!("hub: 500 models × 4 targets × 10,000 devices: {what}");
    rows.push(Row::alone(name("look"), &looked, None));
    rows.push(Row::alone(name("decide"), &decided, None));
    rows.push(Row::alone(name("plan, both"), &both, Some(Aim::Here(5.0))));
    let previewed = times(runs, &mut || {
        let readable = Readable::new(&snapshot.deployments);
        let mut explainer = Explainer::new(&new, &readable);
        for device in &snapshot.devices {
            let explanation = explainer.explain(device).map_err(BuildError::other)?;
            std::hint::black_box(&explanation.desired_bytes);
        }
        Ok(())
    })?;
    rows.push(Row::alone(
        "hub: merge preview of 10,000 devices",
        &previewed,
        Some(Aim::Here(1.0)),
    ));
    eprintln!("hub: the same by the program, in a process of its own");
    let checkout = Checkout::new(&[&first, &second])?;
    let mut peaks = Vec::new();
    for _ in 0..runs {
        peaks.push(
            checkout
                .run(&server, &["deploy", "plan", "--deployment-limit", "200"])?
                .peak_bytes,
        );
    }
    rows.push(Row::memory(
        name("memory of `deploy plan`"),
        &peaks,
        // 300 MB.
        Some(Aim::Here(300e6 / 1_048_576.0)),
    ));
    drop(server);

    eprintln!("hub: rolling 30 modules a device out to 10,000 simulated devices");
    let modules = files(MODULES, 1).map_err(many)?;
    let release = declared(&modules, 1).map_err(BuildError::Other)?;
    let (server, mut hub) = served(finished(MODULES, &release).map_err(BuildError::Other)?)?;
    let mut counted = 0;
    let listed = times(runs, &mut || {
        let snapshot = hub.snapshot().map_err(BuildError::other)?;
        let mut fleet = Fleet::new(&release, &snapshot.deployments, Filter::default());
        counted = 0;
        for device in &snapshot.devices {
            counted += fleet.rows(device).map_err(BuildError::other)?.len();
        }
        Ok(())
    })?;
    let name = format!("hub: fleet of 10,000 devices, {counted} rows, simulated hub included");
    rows.push(Row::alone(name, &listed, Some(Aim::Here(3.0))));
    let checkout = Checkout::new(&[&modules])?;
    let (mut first, mut peaks, mut lines) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let watched = checkout.run(&server, &["fleet"])?;
        first.push(watched.first_line_seconds);
        peaks.push(watched.peak_bytes);
        lines = watched.lines;
    }
    let name = |what: &str| format!("hub: `fleet`, {lines} lines: {what}");
    rows.push(Row::alone(name("until the first"), &first, None));
    rows.push(Row::memory(name("memory"), &peaks, None));
    Ok(rows)
}
