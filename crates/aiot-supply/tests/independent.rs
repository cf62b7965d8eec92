//! Bills of materials and signatures before other people's libraries: CycloneDX's own and Sigstore's.
//!
//! Takes the bills and provenances of the release that `cargo xtask test` made, for every image, and signs them here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_package::Digest;
use aiot_supply::{Signer, image_statement};
use aiot_testkit::python;
use aiot_testkit::released::Released;
use aiot_testkit::tools::{Ended, have, run};

const PACKAGES: [&str; 2] = [
    "cyclonedx-python-lib[json-validation]==11.12.0",
    "sigstore==4.5.1",
];
const SCRIPT: &str = include_str!("independent.py");
const FILES: [&str; 2] = ["bom.cdx.json", "provenance.intoto.json"];

/// A new key, and where its public half lies.
fn key(dir: &Path, name: &str) -> (Signer, PathBuf) {
    let (private, public) = (dir.join(name), dir.join(format!("{name}.pub")));
    let made = [
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
    ];
    run(Command::new("openssl").args(made).arg(&private)).expect(0);
    let signer = Signer::from_pem(&fs::read_to_string(&private).unwrap()).unwrap();
    fs::write(&public, signer.verifier().to_pem()).unwrap();
    (signer, public)
}

#[test]
fn cyclonedx_and_sigstore_accept_what_is_said_about_every_image() {
    if !have(&["openssl"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let Some(libraries) = python::packages("supply-verifiers", &PACKAGES) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (signer, public) = key(dir.path(), "ours");
    let (_, other) = key(dir.path(), "another");

    // What the release says, signed as a release signs it.
    let mut folders = Vec::new();
    for image in fs::read_dir(released.root.join("dist/supply-chain")).unwrap() {
        let (from, to) = {
            let image = image.unwrap();
            (image.path(), dir.path().join(image.file_name()))
        };
        fs::create_dir(&to).unwrap();
        let mut subjects = vec![("image", Digest::of(from.display().to_string().as_bytes()))];
        for name in FILES {
            let bytes = fs::read(from.join(name)).unwrap();
            fs::write(to.join(name), &bytes).unwrap();
            subjects.push((name, Digest::of(&bytes)));
        }
        let bundle = signer.sign(&image_statement(&subjects)).unwrap();
        fs::write(to.join("signature.sigstore.json"), bundle).unwrap();
        folders.push(to);
    }
    let judged = |key: &Path, folders: &[PathBuf]| -> Ended {
        run(Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(key)
            .args(folders)
            .env("PYTHONPATH", &libraries)
            .env("PYTHONDONTWRITEBYTECODE", "1"))
    };
    let accepted = judged(&public, &folders).expect(0);
    assert!(!folders.is_empty());
    assert_eq!(accepted.stdout.lines().count(), folders.len());
    for line in accepted.stdout.lines() {
        let words: Vec<&str> = line.rsplitn(3, ' ').collect();
        let components: usize = words[1].parse().unwrap();
        assert!(components > 20 && words[0] == "3", "{line}");
    }

    // They would say so if something were wrong.
    let refused = |key: &Path, (file, from, to): (&str, &str, &str), expected: &str| {
        let path = folders[0].join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let ended = judged(key, &folders[..1]).expect(1);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
        fs::write(&path, text).unwrap();
    };
    refused(&other, ("bom.cdx.json", "\"", "\""), "invalid signature");
    let bad = ("bom.cdx.json", "\"type\":\"data\"", "\"type\":\"date\"");
    refused(&public, bad, "bom.cdx.json");
    let unsigned = ("provenance.intoto.json", "in-toto", "in-tot0");
    refused(&public, unsigned, "provenance.intoto.json is not signed");
}
