//! Hashes the sources of our own code that makes outputs, so that a change of it makes the actions that use it anew
//! and nobody has to remember to raise a version.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Name as the plan uses it → folders and files below `crates/`.
const CODE: [(&str, &[&str]); 6] = [
    (
        "aiot-onnx",
        &[
            "aiot-onnx/src",
            "aiot-build/src/quantizer",
            "aiot-build/src/execute/quantize.rs",
        ],
    ),
    (
        "aiot-inference",
        &[
            "aiot-inference/src",
            "aiot-package/src",
            "aiot-build/src/execute/measure.rs",
        ],
    ),
    (
        "aiot-oci",
        &[
            "aiot-oci/src",
            "aiot-package/src",
            "aiot-build/src/execute/contents.rs",
            "aiot-build/src/execute/image.rs",
        ],
    ),
    (
        "aiot-debian",
        &[
            "aiot-debian/src",
            "aiot-plan/src/architecture.rs",
            "aiot-build/src/execute/base.rs",
        ],
    ),
    (
        "aiot-toolchain",
        &["aiot-toolchain/src", "aiot-build/src/execute/compile.rs"],
    ),
    ("aiot-supply", &["aiot-supply/src", "aiot-build/src/supply.rs"]),
];

/// Below those folders, but without a say in any output: what it fetches is checked by digest.
const NOT: [&str; 2] = ["aiot-oci/src/registry", "aiot-oci/src/registry.rs"];

fn main() {
    // Asked at run time: checkouts that share a target folder share this program.
    let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let crates = own.parent().expect("a crate stands in crates/");
    for (name, places) in CODE {
        let mut hasher = Sha256::new();
        for place in places {
            let path = crates.join(place);
            println!("cargo:rerun-if-changed={}", path.display());
            let mut files = Vec::new();
            collect(&path, &mut files);
            files.sort();
            for file in files {
                let relative = file
                    .strip_prefix(crates)
                    .expect("below crates/")
                    .to_string_lossy()
                    .into_owned();
                if NOT.iter().any(|not| Path::new(&relative).starts_with(not)) {
                    continue;
                }
                let bytes = std::fs::read(&file).expect("a listed file");
                hasher.update(format!("{relative}\0{}\0", bytes.len()));
                hasher.update(bytes);
            }
        }
        let hex: String = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        println!("cargo:rustc-env=CODE_{}={hex}", name.replace('-', "_"));
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder of this workspace") {
            collect(&entry.expect("an entry").path(), files);
        }
    } else if path
        .extension()
        .is_some_and(|extension| extension == "rs" || extension == "proto")
    {
        files.push(path.to_owned());
    }
}
