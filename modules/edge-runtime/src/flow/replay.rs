//! Recorded inputs, played again: the files of a folder in the order of their names, as often as declared. They stay.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aiot_inference::read_input;
use aiot_package::ReplaySource;

use super::Origin;
use super::intake::{Taken, take};
use crate::link::{Stop, stopped_within};
use crate::log;
use crate::serve::Service;

/// Files of one recording, a bound for the memory of their names.
const MAX_FILES: usize = 100_000;

pub(crate) async fn play(service: Arc<Service>, source: ReplaySource, stop: Stop) {
    let folder = PathBuf::from(&source.path);
    let interval = Duration::from_millis(source.interval_ms.into());
    let (mut played, mut refused) = (0u64, 0u64);
    let mut round = 0u64;
    let mut refusals = log::Seldom::new();
    while source.rounds == 0 || round < source.rounds.into() {
        round += 1;
        let names = match files(&folder) {
            Ok(names) if names.is_empty() => return nothing(&folder, "it has no files"),
            Ok(names) => names,
            Err(error) => return nothing(&folder, &error.to_string()),
        };
        for name in names {
            let started = Instant::now();
            let file = folder.join(&name);
            let origin = Origin {
                kind: "replay",
                name,
                message_id: String::new(),
            };
            match take(&service, origin, &mut refusals, &stop, move || {
                Ok(read_input(&file)?)
            })
            .await
            {
                Taken::Done => played += 1,
                Taken::Refused => refused += 1,
                Taken::Stopped => return,
            }
            if stopped_within(&stop, interval.saturating_sub(started.elapsed())).await {
                return;
            }
        }
    }
    log::info(&format!(
        "replay ended after {played} inputs; {refused} gave no prediction"
    ));
}

fn nothing(folder: &Path, why: &str) {
    log::error(&format!("nothing to replay in `{}`: {why}", folder.display()));
}

/// Names of the recorded inputs, sorted.
fn files(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Beside each captured input stands a `.json` with what was said of it.
        let recorded = !name.starts_with('.') && !name.ends_with(".json");
        if recorded && entry.file_type()?.is_file() {
            names.insert(name);
        }
        if names.len() > MAX_FILES {
            return Err(io::Error::other(format!("it has more than {MAX_FILES} files")));
        }
    }
    Ok(names)
}
