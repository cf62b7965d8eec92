//! A second release does nothing; one changed input makes exactly what depends on it anew, and the release says why.

use std::collections::BTreeMap;

use aiot_testkit::released::{Copy, Released};

use crate::common::{Report, XTASK, declared, release, set_key, smallest_model};

/// The reasons of each (model, target) that was rebuilt. `{model}` stands for the model's name.
type Expected<'a> = &'a [&'a str];

/// Pairs of a model, all with the same reasons.
fn pairs(copy: &Copy, model: &str, reasons: Expected<'_>) -> BTreeMap<(String, String), Vec<String>> {
    let workspace = declared(&copy.root);
    let targets = workspace
        .images()
        .filter(|(declared, _)| declared.name.as_str() == model);
    let reasons: Vec<String> = reasons
        .iter()
        .map(|text| text.replace("{model}", model))
        .collect();
    targets
        .map(|(_, target)| ((model.to_owned(), target.name.to_string()), reasons.clone()))
        .collect()
}

/// A release of everything, and what it said, before something is changed.
fn settled(released: &Released) -> (Copy, Report) {
    let copy = released.copy();
    let report = release(&copy, &[]);
    assert_eq!(
        (report.ran(), report.rebuilt()),
        (0, BTreeMap::new()),
        "{}",
        report.stderr
    );
    (copy, report)
}

#[test]
fn a_second_release_does_nothing_and_says_so() {
    let Some(released) = Released::find() else { return };
    let (copy, _) = settled(&released);
    let before = (copy.committed(), copy.index());
    let ended = copy.run(XTASK, &["release", "--offline"]).expect(0);
    let last = ended.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("nothing to do: ") && last.ends_with("actions are up to date"),
        "{}",
        ended.stdout
    );
    assert_eq!(ended.stderr, "");
    assert_eq!((copy.committed(), copy.index()), before);
}

#[test]
fn a_changed_description_makes_the_package_anew() {
    let Some(released) = Released::find() else { return };
    let (copy, before) = settled(&released);
    let model = smallest_model(&copy, |_| true);
    let name = model.name.as_str();
    set_key(
        &copy,
        "models.toml",
        &format!("model.{name}"),
        "description",
        "\"Another sentence\"",
    );
    let report = release(&copy, &[]);
    let rebuilt = report.rebuilt();
    let expected: Vec<String> = pairs(&copy, name, &[])
        .into_keys()
        .map(|(_, target)| target)
        .collect();
    let found: Vec<String> = rebuilt
        .keys()
        .map(|(model, target)| {
            assert_eq!(model, name);
            target.clone()
        })
        .collect();
    assert_eq!(found, expected);
    for reasons in rebuilt.values() {
        assert!(
            reasons
                .iter()
                .all(|reason| reason.contains("description changed")),
            "{reasons:?}"
        );
    }
    for (pair, digest) in report.digests() {
        assert_eq!(before.digests()[&pair] != digest, pair.0 == name, "{pair:?}");
    }
}

#[test]
fn a_changed_thread_count_touches_one_target_and_compiles_nothing() {
    let Some(released) = Released::find() else { return };
    let (copy, _) = settled(&released);
    let workspace = declared(&copy.root);
    let target = workspace
        .images()
        .map(|(_, target)| target)
        .find(|target| target.engine.intra_threads.is_some());
    let target = target.expect("a target with a thread count");
    let threads = target.engine.intra_threads.unwrap();
    let header = format!("target.{}.engine", target.name);
    set_key(
        &copy,
        "targets.toml",
        &header,
        "intra-threads",
        &(threads + 1).to_string(),
    );
    let report = release(&copy, &[]);
    for ((_, found), reasons) in report.rebuilt() {
        assert_eq!(found, target.name.as_str());
        assert!(
            reasons.iter().all(|reason| reason.contains("env changed")),
            "{reasons:?}"
        );
    }
    let expected = workspace
        .images()
        .filter(|(_, other)| other.name == target.name)
        .count();
    assert_eq!(report.rebuilt().len(), expected);
    assert!(!report.stderr.contains("compile "), "{}", report.stderr);
}

#[test]
fn a_changed_calibration_sample_quantizes_anew() {
    let Some(released) = Released::find() else { return };
    let (copy, _) = settled(&released);
    let model = smallest_model(&copy, |model| model.calibration_path.is_some());
    let name = model.name.as_str();
    let dir = copy.root.join(model.calibration_path.as_deref().unwrap());
    let dataset = aiot_inference::dataset::Dataset::open(&dir).unwrap();
    let [first, .., last] = dataset.samples() else {
        panic!("{} has one sample", dir.display())
    };
    std::fs::copy(dir.join(&first.file), dir.join(&last.file)).unwrap();
    let report = release(&copy, &[]);
    let quantized: Vec<String> = report
        .stderr
        .lines()
        .filter(|line| line.starts_with("calibrate "))
        .map(str::to_owned)
        .collect();
    assert!(
        quantized
            .iter()
            .any(|line| line.contains(name) && line.contains("calibration set changed")),
        "{}",
        report.stderr
    );
    for ((found, _), reasons) in report.rebuilt() {
        assert_eq!(found, name);
        assert!(
            reasons
                .iter()
                .any(|reason| reason.contains("calibration set changed")),
            "{reasons:?}"
        );
    }
    assert!(
        !report.rebuilt().is_empty() && !report.stderr.contains("compile "),
        "{}",
        report.stderr
    );
    assert!(
        report
            .written()
            .iter()
            .any(|path| path.ends_with("calibration.toml")),
        "{:?}",
        report.written()
    );
    // What was measured is written down, so the next release has nothing left to do.
    assert_eq!(release(&copy, &["--locked"]).ran(), 0);
}

#[test]
fn labels_that_mean_the_same_end_the_rebuilding_early() {
    let Some(released) = Released::find() else { return };
    let (copy, before) = settled(&released);
    let model = smallest_model(&copy, |model| model.labels_path.is_some());
    let path = model.labels_path.as_deref().unwrap();
    copy.write(path, copy.read(path).trim_end().to_owned() + " \n");
    let report = release(&copy, &[]);
    assert!(report.ran() > 0);
    let reasons: Vec<&str> = report
        .stderr
        .lines()
        .filter(|line| line.contains("labels changed"))
        .collect();
    assert!(
        reasons.iter().all(|line| line.contains(model.name.as_str())) && !reasons.is_empty(),
        "{}",
        report.stderr
    );
    assert_eq!(report.digests(), before.digests());
    assert!(!report.stderr.contains("assemble image"), "{}", report.stderr);
}

#[test]
fn a_lost_result_is_made_again() {
    let Some(released) = Released::find() else { return };
    let (copy, before) = settled(&released);
    let (index, committed) = (copy.index(), copy.committed());
    std::fs::remove_dir_all(copy.root.join("dist")).unwrap();
    let report = release(&copy, &["--locked"]);
    assert_eq!((report.ran(), report.digests()), (0, before.digests()));
    assert_eq!((copy.index(), copy.committed()), (index, committed));
}
