//! A generated workspace of hundreds of models: check, plan, a release with nothing to do.

use std::path::Path;
use std::process::Command;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_testkit::generate;

use super::measure::{Aim, Ran, Row, ran, xtask};
use super::release::{by_verb, watched};

/// Peak memory that plan and no-op release should stay below, MiB.
const MEMORY_AIM_MIB: f64 = 200.0;

/// Measures.
pub fn run(paths: &Paths, models: usize, targets: usize, runs: usize) -> Result<Vec<Row>, BuildError> {
    eprintln!("plan: generating {models} models for {targets} targets");
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let (root, store) = (temporary.path().join("workspace"), temporary.path().join("store"));
    generate::large_workspace(&paths.root, &root, models, targets).map_err(BuildError::other)?;
    // What is compiled already is not compiled again.
    generate::share_store(&paths.state, &store).map_err(BuildError::other)?;
    let size = format!("{models}×{targets}");
    let take = |arguments: &[&str], count: usize| -> Result<Vec<Ran>, BuildError> {
        (0..count).map(|_| xtask(&root, &store, arguments)).collect()
    };
    let seconds = |runs: &[Ran]| runs.iter().map(|ran| ran.seconds).collect::<Vec<_>>();
    let peaks = |runs: &[Ran]| runs.iter().map(|ran| ran.peak_bytes).collect::<Vec<_>>();

    let first_check = take(&["check"], 1)?;
    let new = take(&["plan"], runs)?;
    eprintln!("plan: the first release; every model is calibrated, quantized, evaluated and baked");
    let (release, actions) = watched(&Paths::new(&root, Some(store.clone())))?;
    let check = take(&["check"], runs)?;
    let done = take(&["plan"], runs)?;
    commit(&root)?;
    let (mut nothing, mut pairs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let ours = xtask(&root, &store, &["release"])?;
        if !ours.stdout.contains("nothing to do") {
            return Err(BuildError::Other(
                "the second release of the generated workspace did something".to_owned(),
            ));
        }
        pairs.push((ours.seconds, git_status(&root)?));
        nothing.push(ours);
    }
    let name = |what: &str| format!("{size}: {what}");
    let mut rows = vec![
        Row::alone(name("first check"), &seconds(&first_check), None),
        Row::alone(name("check"), &seconds(&check), None),
        Row::alone(name("plan, all new"), &seconds(&new), Some(Aim::Here(1.0))),
        Row::memory(
            name("plan, all new, memory"),
            &peaks(&new),
            Some(Aim::Here(MEMORY_AIM_MIB)),
        ),
        Row::alone(name("plan, all done"), &seconds(&done), Some(Aim::Here(1.0))),
        Row::memory(
            name("plan, all done, memory"),
            &peaks(&done),
            Some(Aim::Here(MEMORY_AIM_MIB)),
        ),
        Row::pairs(
            name("release, nothing to do"),
            "git status",
            &pairs,
            Some(Aim::Here(2.0)),
        ),
        Row::memory(name("release, nothing to do, memory"), &peaks(&nothing), None),
        Row::alone(name("first release"), &[release], None),
    ];
    rows.extend(
        by_verb(actions)
            .iter()
            .map(|(verb, seconds)| Row::alone(format!("  {verb}, all together"), &[*seconds], None)),
    );
    Ok(rows)
}

/// Makes the folder a git repository with everything committed, so that git can say that nothing changed.
///
/// # Errors
/// When git is missing or fails.
pub fn commit(root: &Path) -> Result<(), BuildError> {
    let identity = [
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
        "-c",
        "commit.gpgsign=false",
    ];
    for arguments in [
        &["init", "-q"][..],
        &["add", "-A"],
        &["commit", "-q", "-m", "measured"],
    ] {
        ran(Command::new("git")
            .arg("-C")
            .arg(root)
            .args(identity)
            .args(arguments))?;
    }
    Ok(())
}

/// Seconds of `git status`, which also looks at every file to say that nothing changed.
///
/// # Errors
/// When git fails.
pub fn git_status(root: &Path) -> Result<f64, BuildError> {
    Ok(ran(Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["status", "--porcelain"]))?
    .seconds)
}
