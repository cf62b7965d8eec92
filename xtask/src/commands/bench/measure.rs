//! Times, memory and ratios.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aiot_build::BuildError;
use aiot_build::paths::STORE_VARIABLE;

/// How often the memory of a child is looked at. Its own high-water mark is read, so only what comes after the last
/// look is missed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One figure.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Ours: seconds, or MiB where `unit` says so.
    pub here: f64,
    /// `s` or `MiB`.
    pub unit: &'static str,
    /// The peer or limit that it is compared with.
    pub against: Option<String>,
    /// The peer's figure, in the same unit.
    pub that: Option<f64>,
    /// Median over the pairs of ours / the peer's.
    pub ratio: Option<f64>,
    /// Least and largest ratio, or figure where there is no peer.
    pub spread: (f64, f64),
    /// What the figure should stay below.
    pub aim: Option<Aim>,
}

/// An upper bound that we want to keep.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// Of our own figure, in its unit.
    Here(f64),
    /// Of the ratio.
    Ratio(f64),
}

impl Row {
    /// Ours alone, with the aim for it.
    pub fn alone(what: impl Into<String>, seconds: &[f64], aim: Option<Aim>) -> Row {
        Row {
            what: what.into(),
            here: median(seconds),
            unit: "s",
            against: None,
            that: None,
            ratio: None,
            spread: spread(seconds),
            aim,
        }
    }

    /// Ours against a peer's, taken in turn: (ours, the peer's) in seconds.
    pub fn pairs(what: impl Into<String>, against: &str, pairs: &[(f64, f64)], aim: Option<Aim>) -> Row {
        let ratios: Vec<f64> = pairs
            .iter()
            .map(|(ours, theirs)| ours / theirs.max(1e-9))
            .collect();
        let side = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
        Row {
            what: what.into(),
            here: side(|pair| pair.0),
            unit: "s",
            against: Some(against.to_owned()),
            that: Some(side(|pair| pair.1)),
            ratio: Some(median(&ratios)),
            spread: spread(&ratios),
            aim,
        }
    }

    /// Ours against a peer's, in bytes.
    pub fn memory_pairs(
        what: impl Into<String>,
        against: &str,
        pairs: &[(f64, f64)],
        aim: Option<Aim>,
    ) -> Row {
        let mib = |bytes: f64| bytes / 1_048_576.0;
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(ours, theirs)| (mib(*ours), mib(*theirs)))
            .collect();
        Row {
            unit: "MiB",
            ..Row::pairs(what, against, &pairs, aim)
        }
    }

    /// Peak memory, bytes.
    pub fn memory(what: impl Into<String>, bytes: &[f64], aim: Option<Aim>) -> Row {
        let mib: Vec<f64> = bytes.iter().map(|bytes| bytes / 1_048_576.0).collect();
        Row {
            unit: "MiB",
            ..Row::alone(what, &mib, aim)
        }
    }

    /// For the table.
    pub fn cells(&self) -> Vec<String> {
        let figure = |value: f64| match self.unit {
            "MiB" => format!("{value:.0} MiB"),
            _ if value < 0.1 => format!("{:.1} ms", value * 1e3),
            _ => format!("{value:.2} s"),
        };
        let times = |value: f64| format!("{value:.2}×");
        let words = |value: f64| {
            if self.ratio.is_some() {
                times(value)
            } else {
                figure(value)
            }
        };
        let verdict = |is_met: bool| if is_met { "met" } else { "MISSED" };
        vec![
            self.what.clone(),
            figure(self.here),
            self.against.clone().unwrap_or_default(),
            self.that.map(figure).unwrap_or_default(),
            self.ratio.map(words).unwrap_or_default(),
            format!("{}–{}", words(self.spread.0), words(self.spread.1)),
            match self.aim {
                None => String::new(),
                Some(Aim::Here(aim)) => format!("≤ {}: {}", figure(aim), verdict(self.here <= aim)),
                Some(Aim::Ratio(aim)) => {
                    format!(
                        "≤ {}: {}",
                        times(aim),
                        verdict(self.ratio.is_some_and(|ratio| ratio <= aim))
                    )
                }
            },
        ]
    }
}

/// The middle value; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => 0.0,
        (_, 1) => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(0.0, f64::max))
}

/// Seconds that `work` takes, and its result.
pub fn timed<T>(work: impl FnOnce() -> Result<T, BuildError>) -> Result<(f64, T), BuildError> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed().as_secs_f64(), result))
}

/// A child process that ended well.
pub struct Ran {
    /// From start to end.
    pub seconds: f64,
    /// Largest resident memory; 0 where the system does not say.
    pub peak_bytes: f64,
    /// Time of processors that it took, in the system too.
    pub cpu_seconds: f64,
    /// What it wrote to stdout.
    pub stdout: String,
}

/// Runs this program with `arguments` on the workspace `root`, its results in `store`.
///
/// # Errors
/// When it cannot be started or fails, with the end of what it said.
pub fn xtask(root: &Path, store: &Path, arguments: &[&str]) -> Result<Ran, BuildError> {
    let program = std::env::current_exe().map_err(BuildError::other)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("--workspace")
        .arg(root)
        .env(STORE_VARIABLE, store);
    ran(&mut command)
}

/// Runs a command to its end and watches its memory.
///
/// # Errors
/// When it cannot be started or fails, with the end of what it said.
pub fn ran(command: &mut Command) -> Result<Ran, BuildError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |reason: String| BuildError::Other(format!("`{name}` failed: {reason}"));
    let (mut out, mut err) = (
        tempfile::tempfile().map_err(BuildError::other)?,
        tempfile::tempfile().map_err(BuildError::other)?,
    );
    let file = |file: &std::fs::File| file.try_clone().map(Stdio::from).map_err(BuildError::other);
    command
        .stdin(Stdio::null())
        .stdout(file(&out)?)
        .stderr(file(&err)?);
    let cpu_before = children_cpu_seconds()?;
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let status_path = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| failed(error.to_string()))? {
            break status;
        }
        if let Some(bytes) = std::fs::read_to_string(&status_path)
            .ok()
            .as_deref()
            .and_then(|status| status_bytes(status, "VmHWM:"))
        {
            peak_bytes = f64::max(peak_bytes, bytes);
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let seconds = start.elapsed().as_secs_f64();
    let text = |file: &mut std::fs::File| -> Result<String, BuildError> {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.take(64 << 20).read_to_end(&mut bytes))
            .map_err(BuildError::other)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    if !status.success() {
        let said = text(&mut err)?;
        let tail: Vec<&str> = said.lines().rev().take(12).collect();
        return Err(failed(format!(
            "{status}\n{}",
            tail.into_iter().rev().collect::<Vec<_>>().join("\n")
        )));
    }
    Ok(Ran {
        seconds,
        peak_bytes,
        cpu_seconds: children_cpu_seconds()? - cpu_before,
        stdout: text(&mut out)?,
    })
}

/// Processor time of all children that have ended. Children that are measured run one after the other.
fn children_cpu_seconds() -> Result<f64, BuildError> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(BuildError::other)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// A figure of `/proc/<pid>/status`, such as `VmHWM:`.
pub fn status_bytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<f64>()
        .ok()
        .map(|kib| kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_values() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn ratios_are_of_pairs() {
        let row = Row::pairs(
            "bake",
            "floor",
            &[(2.0, 1.0), (30.0, 10.0), (4.0, 4.0)],
            Some(Aim::Ratio(1.3)),
        );
        assert_eq!((row.ratio, row.spread), (Some(2.0), (1.0, 3.0)));
        assert_eq!(row.cells()[4..], ["2.00×", "1.00×–3.00×", "≤ 1.30×: MISSED"]);
        let row = Row::alone("plan", &[0.05], Some(Aim::Here(1.0)));
        assert_eq!(
            row.cells()[1..],
            ["50.0 ms", "", "", "", "50.0 ms–50.0 ms", "≤ 1.00 s: met"]
        );
    }

    #[test]
    fn memory_is_read_from_the_status_file() {
        assert_eq!(
            status_bytes("VmPeak:\t  9 kB\nVmHWM:\t    2048 kB\n", "VmHWM:"),
            Some(2_097_152.0)
        );
        assert_eq!(status_bytes("VmPeak:\t  9 kB\n", "VmHWM:"), None);
    }

    #[test]
    fn children_are_watched() {
        let ran = ran(
            Command::new("sh").args(["-c", "echo out; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
        );
        let ran = ran.unwrap();
        assert_eq!(ran.stdout, "out\n");
        assert!(ran.cpu_seconds > 0.001, "{}", ran.cpu_seconds);
        let error = super::ran(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("why"),
            "{error}"
        );
    }
}
