//! Push over a bad link: how many bytes have to be sent until an image of 130 MiB is there.
//!
//! Each request waits 200 ms; 30 % fail, half of them refused, half cut after a random part of their body. Once in
//! front of Debian's `docker-registry`, which loses an upload whose connection breaks, and once in front of the same
//! behind a proxy that buffers requests, so that uploads go on.

use std::time::Duration;

use aiot_build::BuildError;
use aiot_testkit::bad_link::{BadLink, Badness};

use super::measure::{Aim, Row};
use super::push::{REGISTRY, Registry, Subject, blobs, is_installed};

/// Of 1000 requests.
const FAILING_PER_MILLE: u64 = 300;
const LATENCY: Duration = Duration::from_millis(200);

/// Measures; no rows where there is no registry to push to.
pub fn run(runs: usize) -> Result<Vec<Row>, BuildError> {
    if !is_installed(REGISTRY) {
        eprintln!("push: skipped, since {REGISTRY} is not installed");
        return Ok(Vec::new());
    }
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let subject = Subject::make(temporary.path())?;
    let image_bytes: u64 = blobs(&subject.baked)?.iter().map(|blob| blob.size).sum();
    let mut rows = Vec::new();
    for (keeps_uploads, name) in [
        (false, "bad link, uploads are lost"),
        (true, "bad link, uploads go on"),
    ] {
        let (mut sent, mut seconds) = (Vec::new(), Vec::new());
        for seed in 1..=runs as u64 {
            let registry = Registry::start(&temporary.path().join("registry"))?;
            let badness = Badness {
                failing_per_mille: FAILING_PER_MILLE,
                latency: LATENCY,
                seed,
                keeps_uploads,
            };
            let link = BadLink::start(&registry.address, badness);
            let _ = std::fs::remove_dir_all(temporary.path().join("state"));
            seconds.push(subject.push("baked", &format!("{}/bench", link.address))?.seconds);
            let counts = link.counts();
            eprintln!(
                "{name}, seed {seed}: {} requests, {} refused, {} cut, {:.2}× the image's bytes",
                counts.requests,
                counts.refused,
                counts.cut,
                counts.body_bytes as f64 / image_bytes as f64
            );
            sent.push((
                counts.body_bytes as f64 / 1_048_576.0,
                image_bytes as f64 / 1_048_576.0,
            ));
        }
        let sent = Row::pairs(format!("{name}: sent"), "the image", &sent, Some(Aim::Ratio(1.5)));
        rows.push(Row { unit: "MiB", ..sent });
        rows.push(Row::alone(format!("{name}: time"), &seconds, None));
    }
    Ok(rows)
}
