//! Damage, kill -9, Ctrl-C and two releases at once: the end is always the same.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use aiot_plan::action::Record;
use aiot_testkit::released::{Copy, Released, committed};
use aiot_testkit::tools::Ended;

use crate::common::{Report, XTASK, release};

/// How often the kill test kills.
const KILLS: u64 = 10;

/// Action results of a store.
fn results(copy: &Copy) -> Vec<(std::path::PathBuf, Record)> {
    let dir = copy.state.join("actions/results");
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            (path, record)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Takes results out of the store, with their blobs, as if they had never been made.
pub fn forget(copy: &Copy, wanted: impl Fn(&str) -> bool) {
    let all = results(copy);
    let kept: Vec<_> = all
        .iter()
        .filter(|(_, record)| !wanted(&record.id))
        .flat_map(|(_, record)| record.outputs.values().map(|output| output.digest))
        .collect();
    for (path, record) in all.iter().filter(|(_, record)| wanted(&record.id)) {
        std::fs::remove_file(path).unwrap();
        for output in record
            .outputs
            .values()
            .filter(|output| !kept.contains(&output.digest))
        {
            let _ = std::fs::remove_file(copy.blob(&output.digest.to_string()));
        }
    }
}

/// The lock, records, manifests and layout are those of the shared release.
#[track_caller]
fn assert_as_released(copy: &Copy, released: &Released) {
    assert_eq!(copy.committed(), committed(&released.root));
    assert_eq!(
        copy.index(),
        std::fs::read_to_string(released.images().join("index.json")).unwrap()
    );
    assert_eq!(
        aiot_oci::validate_layout(&copy.root.join("dist/images")).unwrap(),
        []
    );
}

/// The results that a release here stands on; a store also keeps those of other declarations.
fn results_in_use(copy: &Copy) -> Vec<Record> {
    let plan = copy.run(XTASK, &["plan", "--all", "--offline"]).expect(0).stdout;
    let ids = plan.lines().filter_map(|line| line.strip_prefix("done  "));
    let keys: Vec<String> = ids
        .map(|id| {
            let last = copy
                .state
                .join("actions/last")
                .join(aiot_oci::Digest::of(id.as_bytes()).hex());
            std::fs::read_to_string(last).unwrap()
        })
        .collect();
    let all = results(copy).into_iter().map(|(_, record)| record);
    all.filter(|record| keys.contains(&record.key.to_string()))
        .collect()
}

#[test]
fn a_damaged_blob_is_noticed_named_and_made_again() {
    let Some(released) = Released::find() else { return };
    for kind in ["quantize ", "assemble package ", "assemble image "] {
        let copy = released.copy();
        let used = results_in_use(&copy);
        let record = used.iter().find(|record| record.id.starts_with(kind)).unwrap();
        let output = record.outputs.values().next().unwrap();
        copy.damage_blob(&output.digest.to_string());
        let report = release(&copy, &["--locked"]);
        let named = format!("{}: blob {} is gone or damaged", record.id, output.digest.short());
        assert!(
            report.stderr.contains(&named),
            "no `{named}` in\n{}",
            report.stderr
        );
        let reasons = report.rebuilt();
        assert!(
            reasons
                .values()
                .flatten()
                .any(|why| why.contains(&output.digest.short())),
            "{reasons:?}"
        );
        assert_as_released(&copy, &released);
    }
}

#[test]
fn a_damaged_layout_is_repaired() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    release(&copy, &["--locked"]);
    let blobs = copy.root.join("dist/images/blobs/sha256");
    let mut all: Vec<_> = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    std::fs::remove_file(&all[0]).unwrap();
    std::fs::remove_file(&all[1]).unwrap();
    std::fs::write(&all[1], b"cut").unwrap();
    std::fs::write(copy.root.join("dist/images/index.json"), b"{").unwrap();
    release(&copy, &["--locked"]);
    assert_as_released(&copy, &released);
}

/// The next of a fixed row of numbers (SplitMix64): a failure can be had again.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Starts a release and ends it with `signal` after `lines` lines of progress and `pause` more.
fn kill_after(copy: &Copy, lines: u64, pause: Duration, signal: &str) {
    let mut command = copy.command(XTASK, &["release", "--offline"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..lines {
        if progress.next().is_none() {
            break;
        }
    }
    std::thread::sleep(pause);
    // One that has ended already cannot be killed.
    let _ = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .output();
    child.wait().unwrap();
}

#[test]
fn killed_anywhere_the_next_release_ends_the_same() {
    let Some(released) = Released::find() else { return };
    let mut seed = 3;
    for round in 0..KILLS {
        let copy = released.copy();
        // Bases take longest and are written as any other layer, so they stay in most rounds.
        let keeps_base = round % 4 != 0;
        forget(&copy, |id| {
            !(id.starts_with("compile ") || keeps_base && id.starts_with("assemble base"))
        });
        let total = 2 * results_after(&copy, &released);
        let signal = if round % 2 == 0 { "-KILL" } else { "-INT" };
        kill_after(
            &copy,
            random(&mut seed) % total,
            Duration::from_micros(random(&mut seed) % 30_000),
            signal,
        );
        // Sometimes once more, on what the first left.
        if round % 3 == 0 {
            kill_after(
                &copy,
                random(&mut seed) % total,
                Duration::from_micros(random(&mut seed) % 30_000),
                signal,
            );
        }
        release(&copy, &["--locked"]);
        assert_as_released(&copy, &released);
    }
}

/// Actions that a release has still to run.
fn results_after(copy: &Copy, released: &Released) -> u64 {
    let all = std::fs::read_dir(released.state.join("actions/results"))
        .unwrap()
        .count();
    (all - results(copy).len()).max(1) as u64
}

#[test]
fn two_releases_at_once_both_succeed() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    forget(&copy, |id| {
        !id.starts_with("compile ") && !id.starts_with("assemble base")
    });
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| release(&copy, &["--locked"])))
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(reports[0].digests(), reports[1].digests());
    // One did the work, the other found it done.
    assert_eq!(
        reports.iter().filter(|report| report.ran() == 0).count(),
        1,
        "{reports:?}"
    );
    assert_as_released(&copy, &released);
}

#[test]
fn a_failed_release_leaves_what_is_reviewed_as_it_was() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = crate::common::smallest_model(&copy, |_| true);
    let before = copy.committed();
    let header = format!("model.{}.acceptance", model.name);
    crate::common::set_key(&copy, "models.toml", &header, "at-least", "0.999999");
    let Ended { stderr, .. } = copy.run(XTASK, &["release", "--offline"]).expect(1);
    assert!(
        stderr.contains(model.name.as_str()) && stderr.contains("acceptance"),
        "{stderr}"
    );
    assert_eq!(copy.committed(), before);
    assert!(!copy.root.join("dist").exists());
}
