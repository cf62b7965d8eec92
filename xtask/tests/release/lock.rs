//! `--locked`, `--offline`, `--check`: what must not happen does not, and the message says where and what to do.

use aiot_testkit::released::Released;
use aiot_testkit::tools::Ended;

use crate::common::{XTASK, release, set_key, smallest_model};

/// Changes a hexadecimal digit of the first digest below `header` of aiot.lock; returns the line's number.
fn edit_digest(copy: &aiot_testkit::released::Copy, header: &str, key: &str) -> usize {
    let text = copy.read("aiot.lock");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let start = lines
        .iter()
        .position(|line| line.starts_with(header))
        .unwrap_or_else(|| panic!("no {header}: {text}"));
    let place = start
        + lines[start..]
            .iter()
            .position(|line| line.starts_with(key))
            .unwrap();
    let digit = if lines[place].ends_with("0\"") {
        "1\""
    } else {
        "0\""
    };
    let kept = lines[place].len() - 2;
    lines[place].replace_range(kept.., digit);
    copy.write("aiot.lock", lines.join("\n") + "\n");
    place + 1
}

#[test]
fn locked_names_the_line_that_differs() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let line = edit_digest(&copy, "[model.", "source = ");
    let edited = copy.read("aiot.lock");
    let Ended { stderr, .. } = copy.run(XTASK, &["release", "--locked", "--offline"]).expect(1);
    assert!(
        stderr.contains(&format!("aiot.lock:{line}: - source = ")),
        "{stderr}"
    );
    assert_eq!(copy.read("aiot.lock"), edited, "nothing is written");
}

#[test]
fn locked_refuses_a_missing_entry() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let text = copy.read("aiot.lock");
    let start = text.find("[[wheel]]").unwrap();
    let end = start + 1 + text[start + 1..].find("\n[").unwrap();
    copy.write("aiot.lock", format!("{}{}", &text[..start], &text[end + 1..]));
    let Ended { stderr, .. } = copy.run(XTASK, &["release", "--locked", "--offline"]).expect(1);
    assert!(
        stderr.contains("--locked") && stderr.contains("aiot.lock"),
        "{stderr}"
    );
}

#[test]
fn locked_refuses_what_the_records_do_not_cover() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |model| model.calibration_path.is_some());
    let record = format!("models/{}/calibration.toml", model.name);
    std::fs::remove_file(copy.root.join(&record)).unwrap();
    let Ended { stderr, .. } = copy.run(XTASK, &["release", "--locked", "--offline"]).expect(1);
    assert!(stderr.contains(&record), "{stderr}");
    // Without --locked it comes back as it was.
    let report = release(&copy, &[]);
    assert!(report.written().contains(&record), "{:?}", report.written());
    assert_eq!(
        copy.committed(),
        aiot_testkit::released::committed(&released.root)
    );
}

#[test]
fn offline_builds_from_the_store() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    // All results are gone, all that was downloaded or compiled is there.
    crate::crashes::forget(&copy, |id| !id.starts_with("compile "));
    let report = release(&copy, &["--locked"]);
    assert!(report.ran() > 0);
    assert_eq!(
        copy.committed(),
        aiot_testkit::released::committed(&released.root)
    );
    assert_eq!(
        copy.index(),
        std::fs::read_to_string(released.images().join("index.json")).unwrap()
    );
}

#[test]
fn offline_says_what_an_empty_store_lacks() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy_sources();
    let Ended { stderr, .. } = copy
        .run(XTASK, &["release", "--offline", "--jobs", "1"])
        .expect(1);
    assert!(
        stderr.contains("--offline") && stderr.contains("is not in the store"),
        "{stderr}"
    );
    assert!(!copy.root.join("dist/images/index.json").exists());
}

#[test]
fn check_shows_the_drift_and_writes_nothing() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let Ended { stdout, .. } = copy.run(XTASK, &["release", "--check", "--offline"]).expect(0);
    assert!(stdout.contains("nothing to do"), "{stdout}");
    let model = smallest_model(&copy, |_| true);
    set_key(
        &copy,
        "models.toml",
        &format!("model.{}", model.name),
        "version",
        "\"99.0.0\"",
    );
    let summary = copy
        .committed()
        .into_keys()
        .find(|path| path.ends_with("summary.md"))
        .unwrap();
    let before = copy.committed();
    let Ended { stdout, stderr, .. } = copy.run(XTASK, &["release", "--check", "--offline"]).expect(2);
    assert!(
        stdout.contains("--- committed\n+++ released\n") && stdout.contains("99.0.0"),
        "{stdout}"
    );
    assert!(
        stderr.contains(&summary) && stderr.contains("cargo xtask release"),
        "{stderr}"
    );
    assert_eq!(copy.committed(), before);
    assert!(!copy.root.join("dist").exists());
}

#[test]
fn check_finds_a_file_that_is_no_longer_generated() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let summary = copy
        .committed()
        .into_keys()
        .find(|path| path.ends_with("summary.md"))
        .unwrap();
    let stale = summary.replace("summary.md", "old-target/models.json");
    copy.write(&stale, "{}\n");
    let Ended { stderr, .. } = copy.run(XTASK, &["release", "--check", "--offline"]).expect(2);
    assert!(stderr.contains(&stale), "{stderr}");
    assert!(release(&copy, &[]).written().contains(&stale));
    assert!(!copy.root.join(&stale).exists());
}
