//! The commands that end by themselves: `predict` and `self-test`.

use std::io::Write;
use std::path::Path;

use aiot_inference::golden::{self, GoldenError, Mismatch};
use aiot_inference::{FileError, Model};

use crate::flow::SelfCheck;
use crate::{EXIT_DONE, EXIT_FAILED, EXIT_SELF_TEST, ModuleSpec, Published, Stop, log};

/// One JSON line per picture or window on stdout. A file that fails does not keep the others from being predicted.
pub(crate) fn predict(spec: ModuleSpec, model: &Model, files: &[String]) -> Result<u8, Stop> {
    let mut code = EXIT_DONE;
    let mut stdout = std::io::stdout().lock();
    for file in files {
        let predictions = match model.predict_file(Path::new(file)) {
            Ok(predictions) => predictions,
            Err(error) => {
                log::error(&format!("{file}: {error}"));
                code = EXIT_FAILED;
                continue;
            }
        };
        for prediction in &predictions {
            let published = Published {
                file: Some(file),
                ..Published::new(spec, prediction, None)
            };
            let line = serde_json::to_string(&published).map_err(Stop::setup)?;
            // The reader has gone: nobody wants the rest.
            if writeln!(stdout, "{line}").is_err() {
                return Ok(EXIT_FAILED);
            }
        }
    }
    Ok(code)
}

/// One line per golden case on stdout.
pub(crate) fn self_test(model: &Model, dir: &Path) -> Result<u8, Stop> {
    let golden = golden::read(dir).map_err(Stop::setup)?;
    let mut stdout = std::io::stdout().lock();
    let mut failed = 0;
    for case in &golden.cases {
        // The exit code tells too, so a reader that has gone does not matter.
        let _ = match golden::replay_case(model, dir, case, golden.tolerance) {
            Ok(()) => writeln!(stdout, "ok      {}", case.file),
            Err(mismatch) => {
                failed += 1;
                writeln!(stdout, "FAILED  {}: {mismatch}", case.file)
            }
        };
    }
    let count = golden.cases.len();
    let _ = writeln!(stdout, "{} of {count} golden cases as built", count - failed);
    // A package without cases proves nothing.
    Ok(if failed == 0 && !golden.cases.is_empty() {
        EXIT_DONE
    } else {
        EXIT_SELF_TEST
    })
}

/// Replays the golden cases of a module that is to serve or serves.
///
/// # Errors
/// `golden.json` cannot be used.
pub(crate) fn self_check(model: &Model, dir: &Path) -> Result<SelfCheck, Stop> {
    let golden = match golden::read(dir) {
        Ok(golden) => golden,
        Err(GoldenError::File(FileError::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            log::warn(
                "the package has no golden cases: nothing proves that this device computes what the build did",
            );
            return Ok(SelfCheck {
                passed: true,
                cases: 0,
                message: None,
            });
        }
        Err(error) => return Err(Stop::setup(error)),
    };
    let cases = golden.cases.len();
    let message = golden::replay(model, dir, &golden)
        .err()
        .map(|mismatch: Mismatch| mismatch.to_string().chars().take(1000).collect());
    if message.is_none() {
        log::info(&format!("self-test: {cases} golden cases as built"));
    }
    Ok(SelfCheck {
        passed: message.is_none(),
        cases,
        message,
    })
}
