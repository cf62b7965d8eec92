//! Inference module for sensor time series: anomaly detection, regression, classification; the model package decides.

use edge_runtime::{InputKind, ModuleSpec, run};

fn main() -> std::process::ExitCode {
    run(ModuleSpec {
        name: "signal",
        accepts: InputKind::Signal,
        annotate: None,
    })
}
