//! Releases of this workspace, in a copy: nothing to do, one model changed, and from nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use aiot_build::BuildError;
use aiot_build::events::Event;
use aiot_build::paths::Paths;
use aiot_build::release::{Options, release};
use aiot_testkit::generate;

use super::measure::{Aim, Row, timed, xtask};
use super::plan::{commit, git_status};

/// Most times that a model is changed: each costs an evaluation.
const CHANGES: usize = 3;
/// An action of a cold release that takes longer has a row of its own, in seconds.
const NAMED_SECONDS: f64 = 2.0;

/// Measures the release with nothing to do, and with each model changed.
pub fn run(paths: &Paths, runs: usize) -> Result<Vec<Row>, BuildError> {
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let (root, store) = (temporary.path().join("workspace"), temporary.path().join("store"));
    generate::copy_workspace(&paths.root, &root).map_err(BuildError::other)?;
    generate::share_store(&paths.state, &store).map_err(BuildError::other)?;
    eprintln!("release: the first one in a copy of the workspace, with the results that there are");
    xtask(&root, &store, &["release"])?;
    commit(&root)?;
    let mut pairs = Vec::new();
    for _ in 0..runs {
        let ours = xtask(&root, &store, &["release"])?;
        pairs.push((ours.seconds, git_status(&root)?));
    }
    let mut rows = vec![Row::pairs(
        "release, nothing to do",
        "git status",
        &pairs,
        Some(Aim::Here(0.3)),
    )];
    let copy = Paths::new(&root, Some(store));
    let workspace = aiot_build::workspace::check(&copy, &mut aiot_build::observe::FileIndex::open(&copy))?;
    for model in workspace.models.keys() {
        let (mut whole, mut steps) = (Vec::new(), BTreeMap::<String, Vec<f64>>::new());
        for _ in 0..runs.min(CHANGES) {
            generate::change_model(&root, model.as_str()).map_err(BuildError::other)?;
            let (seconds, actions) = watched(&copy)?;
            whole.push(seconds);
            by_verb(actions)
                .into_iter()
                .for_each(|(verb, seconds)| steps.entry(verb).or_default().push(seconds));
        }
        rows.push(Row::alone(format!("release, {model} changed"), &whole, None));
        rows.extend(
            steps
                .iter()
                .map(|(verb, seconds)| Row::alone(format!("  {verb}, all together"), seconds, None)),
        );
    }
    Ok(rows)
}

/// Measures a release of a fresh checkout: empty store, nothing compiled.
pub fn cold(paths: &Paths) -> Result<Vec<Row>, BuildError> {
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let (root, store) = (temporary.path().join("workspace"), temporary.path().join("store"));
    generate::copy_workspace(&paths.root, &root).map_err(BuildError::other)?;
    eprintln!("cold: a release from nothing; minutes");
    let (seconds, actions) = watched(&Paths::new(&root, Some(store)))?;
    let mut rows = vec![Row::alone("cold release", &[seconds], Some(Aim::Here(600.0)))];
    let mut rest = 0.0;
    for (id, seconds) in actions {
        if seconds >= NAMED_SECONDS {
            rows.push(Row::alone(format!("  {id}"), &[seconds], None));
        } else {
            rest += seconds;
        }
    }
    rows.push(Row::alone("  all other actions together", &[rest], None));
    Ok(rows)
}

/// Seconds of actions by their verbs.
pub fn by_verb(actions: Vec<(String, f64)>) -> BTreeMap<String, f64> {
    let mut verbs = BTreeMap::<String, f64>::new();
    for (id, seconds) in actions {
        *verbs
            .entry(id.split(' ').next().unwrap_or_default().to_owned())
            .or_default() += seconds;
    }
    verbs
}

/// Releases; returns the seconds of the whole and of each action that ran, in the order in which they ended.
///
/// # Errors
/// As [`release`].
pub fn watched(paths: &Paths) -> Result<(f64, Vec<(String, f64)>), BuildError> {
    let actions = Mutex::new(Vec::new());
    let options = Options {
        jobs: crate::commands::jobs(None),
        ..Options::default()
    };
    let (seconds, _) = timed(|| {
        release(paths, &options, &|event| match event {
            Event::Finished { id, millis } => {
                actions
                    .lock()
                    .expect("no panic while held")
                    .push((id, millis as f64 / 1e3));
            }
            Event::Warning(text) | Event::Note(text) => eprintln!("{text}"),
            Event::Planned { .. } | Event::Started { .. } | Event::Sent { .. } => {}
        })
    })?;
    Ok((seconds, actions.into_inner().expect("no panic while held")))
}
