//! Mistakes and impossible pairs: refused before anything is built, all in one run, with place and advice.

use aiot_package::Digest;
use aiot_plan::Model;
use aiot_testkit::released::{Copy, Released};

use crate::common::{XTASK, declared, set_key, smallest_model};

/// What a release says to stderr when it refuses.
fn refused(copy: &Copy) -> String {
    let ended = copy.run(XTASK, &["release", "--offline"]).expect(1);
    assert!(!copy.root.join("dist").exists(), "built although refused");
    assert!(
        !ended.stderr.contains("actions, "),
        "planned although refused: {}",
        ended.stderr
    );
    ended.stderr
}

#[test]
fn an_unknown_target_is_named_with_its_place_and_the_nearest_name() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let workspace = declared(&copy.root);
    let (model, target) = workspace.pairs().next().unwrap();
    let wrong = format!("{}x", target.name);
    let header = format!("model.{}", model.name);
    set_key(
        &copy,
        "models.toml",
        &header,
        "targets",
        &format!("[\"{wrong}\"]"),
    );
    let line = copy
        .read("models.toml")
        .lines()
        .position(|line| line.contains(&wrong))
        .unwrap()
        + 1;
    let text = refused(&copy);
    for part in [
        "plan::unknown_target",
        &format!("models.toml:{line}:"),
        &wrong,
        &format!("did you mean `{}`?", target.name),
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn mistakes_in_several_files_come_in_one_run() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let workspace = declared(&copy.root);
    let (model, target) = workspace.pairs().next().unwrap();
    set_key(
        &copy,
        "models.toml",
        &format!("model.{}", model.name),
        "colour",
        "\"red\"",
    );
    set_key(
        &copy,
        "targets.toml",
        &format!("target.{}", target.name),
        "wheels",
        "4",
    );
    let environment = copy.read("deployments/dev.toml");
    copy.write(
        "deployments/dev.toml",
        format!("weather = \"fine\"\n{environment}"),
    );
    let text = refused(&copy);
    for part in [
        "models.toml:",
        "`colour`",
        "targets.toml:",
        "`wheels`",
        "deployments/dev.toml:1:",
        "`weather`",
        "3 mistakes",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_model_that_is_not_good_enough_is_refused_with_numbers() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |_| true);
    set_key(
        &copy,
        "models.toml",
        &format!("model.{}.acceptance", model.name),
        "at-least",
        "0.999999",
    );
    let ended = copy.run(XTASK, &["release", "--offline"]).expect(1);
    for target in model.targets.keys() {
        let line = ended
            .stderr
            .lines()
            .find(|line| line.contains(&format!("{} on {target}", model.name)));
        let line = line.unwrap_or_else(|| panic!("{target} is not in\n{}", ended.stderr));
        assert!(
            line.contains(&model.metric.to_string()) && line.contains(" → "),
            "{line}"
        );
    }
    assert!(
        ended.stderr.contains("1.0000"),
        "the bound is not told: {}",
        ended.stderr
    );
}

/// Gives a model another file and declares it.
fn change_file(copy: &Copy, model: &Model, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(copy.root.join(&model.path)).unwrap();
    change(&mut bytes);
    copy.write(&model.path, &bytes);
    copy.replace("models.toml", &model.digest.hex(), &Digest::of(&bytes).hex());
}

#[test]
fn a_model_larger_than_a_targets_memory_is_refused() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let workspace = declared(&copy.root);
    let (model, target) = workspace.pairs().next().unwrap();
    change_file(&copy, model, |bytes| {
        // ModelProto.doc_string, two million letters long.
        bytes.extend([0x32, 0x80, 0x89, 0x7a]);
        bytes.resize(bytes.len() + 2_000_000, b'a');
    });
    let header = format!("target.{}.limits", target.name);
    set_key(&copy, "targets.toml", &header, "memory-mib", "1");
    let text = refused(&copy);
    for part in [
        "plan::too_large",
        model.name.as_str(),
        target.name.as_str(),
        "1 MiB of memory",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn an_operator_set_that_the_targets_engine_lacks_is_refused() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let workspace = declared(&copy.root);
    let (model, target) = workspace.pairs().next().unwrap();
    change_file(&copy, model, |bytes| {
        // ModelProto.opset_import { domain: "", version }, the domain written or left out.
        let entries: [&[u8]; 2] = [&[0x42, 4, 0x0a, 0, 0x10], &[0x42, 2, 0x10]];
        let found = entries.iter().find_map(|entry| {
            let start = bytes.windows(entry.len()).rposition(|window| window == *entry)?;
            Some(start + entry.len())
        });
        bytes[found.expect("operators")] = 99;
    });
    let text = refused(&copy);
    for part in [
        "plan::engine_lacks",
        model.name.as_str(),
        target.name.as_str(),
        "opset 99",
        &target.engine.version,
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_changed_model_file_is_not_built_under_the_old_digest() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |_| true);
    let mut bytes = std::fs::read(copy.root.join(&model.path)).unwrap();
    bytes.push(0);
    copy.write(&model.path, bytes);
    let text = refused(&copy);
    for part in ["files::digest", "models.toml:", model.name.as_str()] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_runtime_without_support_is_a_warning_with_its_place() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let file = "deployments/prod.toml";
    let old = "\"mcr.microsoft.com/azureiotedge-hub:1.4.0\"";
    set_key(&copy, file, "system", "edge-hub", old);
    let line = copy
        .read(file)
        .lines()
        .position(|line| line.contains(old))
        .unwrap()
        + 1;
    let checked = copy.run(XTASK, &["check"]).expect(0).stderr;
    let expected = format!(
        "warning: {file}:{line}: runtime image `{}`",
        old.trim_matches('"')
    );
    assert!(
        checked.contains(&expected) && checked.contains("since 2024-11-12"),
        "{checked}"
    );
    assert_eq!(checked.lines().count(), 1, "{checked}");
}
