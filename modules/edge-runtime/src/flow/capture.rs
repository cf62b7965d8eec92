//! Keeping inputs for retraining, with what the model said about them: off until the twin or a direct method asks,
//! never more often than the twin allows, never more on disk than declared.
//!
//! Of each input two files: its bytes, and `.json` with predictions, model and preparation. At the bound the oldest go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aiot_package::CaptureSpec;
use serde::Serialize;
use serde_json::{Value, json};

use super::time_text;
use crate::log;

/// Whether inputs are kept, as the twin says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CaptureTuning {
    pub(crate) enabled: bool,
    /// Inputs in an hour at most, evenly spread.
    pub(crate) per_hour: u32,
}

impl Default for CaptureTuning {
    fn default() -> CaptureTuning {
        CaptureTuning {
            enabled: false,
            per_hour: 60,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Inputs that a direct method asked for and that have not come yet.
    wanted: u32,
    last: Option<Instant>,
}

/// What keeps inputs.
#[derive(Debug)]
pub(super) struct Capture {
    spec: Option<CaptureSpec>,
    state: Mutex<State>,
    captured: AtomicU64,
    failed: AtomicU64,
}

impl Capture {
    pub(super) fn new(spec: Option<CaptureSpec>) -> Capture {
        Capture {
            spec,
            state: Mutex::default(),
            captured: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Keeps the next `count` inputs, however often they come.
    ///
    /// # Errors
    /// There is no folder for them.
    pub(super) fn want(&self, count: u32) -> Result<(), &'static str> {
        if self.spec.is_none() {
            return Err("no folder is declared: `edge.capture.directory` in models.toml");
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).wanted = count;
        Ok(())
    }

    /// Keeps `bytes` if it is their turn; `facts` are asked for only then.
    pub(super) fn take(&self, bytes: &[u8], tuning: CaptureTuning, facts: impl FnOnce() -> Value) {
        let Some(spec) = &self.spec else { return };
        if !self.is_due(tuning, Instant::now()) {
            return;
        }
        match keep(spec, bytes, self.captured.load(Relaxed), facts()) {
            Ok(()) => {
                self.captured.fetch_add(1, Relaxed);
            }
            // Predictions matter more than samples: said once in a while, and counted.
            Err(error) => {
                if self.failed.fetch_add(1, Relaxed).is_multiple_of(100) {
                    log::error(&format!(
                        "an input cannot be kept in `{}`: {error}",
                        spec.directory
                    ));
                }
            }
        }
    }

    fn is_due(&self, tuning: CaptureTuning, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wanted > 0 {
            state.wanted -= 1;
            return true;
        }
        let pause = Duration::from_secs(3600) / tuning.per_hour.max(1);
        let due = tuning.enabled
            && state
                .last
                .is_none_or(|last| now.saturating_duration_since(last) >= pause);
        if due {
            state.last = Some(now);
        }
        due
    }

    pub(super) fn report(&self) -> Value {
        let wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner).wanted;
        json!({
            "captured": self.captured.load(Relaxed), "failed": self.failed.load(Relaxed), "wanted": wanted,
        })
    }
}

fn keep(spec: &CaptureSpec, bytes: &[u8], number: u64, facts: Value) -> io::Result<()> {
    let folder = Path::new(&spec.directory);
    fs::create_dir_all(folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = now.as_millis() as u64;
    let mut facts = facts;
    facts["time"] = time_text(unix_ms).into();
    let facts = facts.to_string();
    make_room(
        folder,
        u64::from(spec.max_mib) << 20,
        (bytes.len() + facts.len()) as u64,
    )?;
    // Sorted by name is sorted by age.
    let name = format!("{unix_ms:013}-{number:06}");
    write(folder, &format!("{name}.{}", extension(bytes)), bytes)?;
    write(folder, &format!("{name}.json"), facts.as_bytes())
}

/// Complete or not at all, also for who watches the folder.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!(".{name}"));
    fs::write(&beside, bytes)?;
    fs::rename(beside, folder.join(name))
}

/// Removes the oldest kept inputs until `more` bytes fit below `max`. Other people's files are left alone.
fn make_room(folder: &Path, max: u64, more: u64) -> io::Result<()> {
    if more > max {
        return Err(io::Error::other(
            "the input alone is larger than `capture.max-mib`",
        ));
    }
    let mut kept: Vec<(PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_prefix('.').unwrap_or(&name);
        if name.len() > 14
            && name.as_bytes()[13] == b'-'
            && name.as_bytes()[..13].iter().all(u8::is_ascii_digit)
        {
            kept.push((entry.path(), entry.metadata()?.len()));
        }
    }
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
    for (path, bytes) in kept {
        if total + more <= max {
            break;
        }
        fs::remove_file(path)?;
        total -= bytes;
    }
    Ok(())
}

fn extension(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, ..] => "jpg",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "npy",
        _ => "csv",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(folder: &Path) -> Capture {
        Capture::new(Some(CaptureSpec {
            directory: folder.display().to_string(),
            max_mib: 1,
        }))
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn as_often_as_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let capture = capture(folder.path());
        let start = Instant::now();
        let due = |tuning: CaptureTuning, s: u64| capture.is_due(tuning, start + Duration::from_secs(s));
        let off = CaptureTuning::default();
        let on = CaptureTuning { enabled: true, ..off };
        assert!(!due(off, 0));
        assert_eq!(
            [0, 1, 59, 60, 61, 120].map(|s| due(on, s)),
            [true, false, false, true, false, true]
        );
        // Asked for by a method: also while it is off.
        capture.want(2).unwrap();
        assert_eq!([121, 122, 123].map(|s| due(off, s)), [true, true, false]);
        assert!(Capture::new(None).want(1).is_err());
    }

    #[test]
    fn the_oldest_make_room_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), vec![0; 2 << 20]).unwrap();
        let capture = capture(folder.path());
        capture.want(10).unwrap();
        for n in 0..10u8 {
            let mut bytes = vec![n; 300_000];
            bytes[..2].copy_from_slice(&[0xff, 0xd8]);
            capture.take(&bytes, CaptureTuning::default(), || json!({"n": n}));
        }
        let names = files(folder.path());
        let (pictures, facts) = (
            names.iter().filter(|name| name.ends_with(".jpg")).count(),
            names.iter().filter(|name| name.ends_with(".json")).count(),
        );
        assert!(
            pictures == 3 && (3..=4).contains(&facts) && names.contains(&"notes.txt".to_owned()),
            "{names:?}"
        );
        assert_eq!(
            capture.report(),
            json!({"captured": 10, "failed": 0, "wanted": 0})
        );
        // One that can never fit is counted, and what is there stays.
        capture.want(1).unwrap();
        capture.take(&vec![1; 2 << 20], CaptureTuning::default(), || json!({}));
        assert_eq!(capture.report()["failed"], 1);
    }
}
