//! Inference module for image models: classification today; the model package decides.

use edge_runtime::{InputKind, ModuleSpec, run};

fn main() -> std::process::ExitCode {
    run(ModuleSpec {
        name: "vision",
        accepts: InputKind::Picture,
        annotate: None,
    })
}
