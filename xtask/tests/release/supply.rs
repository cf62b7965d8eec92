//! Bills of materials, provenance and signatures: about the right images, the same bytes each time, and signed so that
//! OpenSSL agrees.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use aiot_oci::Digest;
use aiot_testkit::device::Device;
use aiot_testkit::released::Released;
use aiot_testkit::tools::{have, run};
use aiot_toolchain::crates::CrateList;
use serde_json::Value;

use crate::common::{XTASK, images, one_per_architecture};

fn openssl(arguments: &[&str]) -> aiot_testkit::tools::Ended {
    run(Command::new("openssl").args(arguments))
}

/// Decodes base64 with a program that is not ours.
fn decoded(dir: &Path, value: &Value) -> Vec<u8> {
    let (from, to) = (dir.join("base64"), dir.join("bytes"));
    fs::write(&from, value.as_str().unwrap()).unwrap();
    let (from, to_text) = (from.display().to_string(), to.display().to_string());
    openssl(&["base64", "-d", "-A", "-in", &from, "-out", &to_text]).expect(0);
    fs::read(to).unwrap()
}

#[test]
fn images_are_described_and_signed_without_changing_them() {
    if !have(&["openssl"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let dir = copy.beside().to_owned();
    let (key, public) = (dir.join("key.pem"), dir.join("public.pem"));
    let (key, public) = (key.display().to_string(), public.display().to_string());
    let curve = "ec_paramgen_curve:P-256";
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &key]).expect(0);
    openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]).expect(0);

    copy.run(XTASK, &["release", "--locked", "--sign-key", &key])
        .expect(0);
    assert_eq!(
        copy.index(),
        fs::read_to_string(released.images().join("index.json")).unwrap()
    );
    let file = |name: &str, file: &str| format!("dist/supply-chain/{name}/{file}");
    let mut before = Vec::new();
    for image in images(&released) {
        let read = |path: &str| copy.read(&file(&image.name, path));
        let (bom_text, provenance_text) = (read("bom.cdx.json"), read("provenance.intoto.json"));
        let bom: Value = serde_json::from_str(&bom_text).unwrap();
        assert_eq!(
            bom["metadata"]["component"]["hashes"][0]["content"],
            image.digest.hex()
        );
        let kinds = |kind: &str| {
            let all = bom["components"].as_array().unwrap();
            all.iter().filter(|component| component["type"] == kind).count()
        };
        assert_eq!((kinds("machine-learning-model"), kinds("data")), (1, 2));
        assert!(bom_text.contains("pkg:deb/debian/libc6@") && bom_text.contains("LGPL"));
        assert!(bom_text.contains(&format!("pkg:cargo/{}@", image.model.module)));
        assert!(bom_text.contains("onnxruntime"));

        let provenance: Value = serde_json::from_str(&provenance_text).unwrap();
        assert_eq!(provenance["subject"][0]["digest"]["sha256"], image.digest.hex());
        let lock = Digest::of(copy.read("aiot.lock").as_bytes()).hex();
        assert!(provenance_text.contains(&lock) && provenance_text.contains(&image.model.digest.hex()));
        // A copy is no git repository: nothing is made up.
        assert!(!provenance_text.contains("gitCommit"));

        let bundle_text = read("signature.sigstore.json");
        let bundle: Value = serde_json::from_str(&bundle_text).unwrap();
        let envelope = &bundle["dsseEnvelope"];
        let payload = decoded(&dir, &envelope["payload"]);
        let signature = decoded(&dir, &envelope["signatures"][0]["sig"]);
        let statement: Value = serde_json::from_slice(&payload).unwrap();
        let signed: Vec<&str> = statement["subject"]
            .as_array()
            .unwrap()
            .iter()
            .map(|subject| subject["digest"]["sha256"].as_str().unwrap())
            .collect();
        let digest = |text: &str| Digest::of(text.as_bytes()).hex();
        assert_eq!(
            signed,
            [image.digest.hex(), digest(&bom_text), digest(&provenance_text)]
        );
        let kind = envelope["payloadType"].as_str().unwrap();
        let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
        message.extend(&payload);
        let (message_file, signature_file) = (dir.join("message"), dir.join("signature"));
        fs::write(&signature_file, signature).unwrap();
        let signature_file = signature_file.display().to_string();
        let verify = |message: &[u8]| {
            fs::write(&message_file, message).unwrap();
            let message_file = message_file.display().to_string();
            openssl(&[
                "dgst",
                "-sha256",
                "-verify",
                &public,
                "-signature",
                &signature_file,
                &message_file,
            ])
        };
        verify(&message).expect(0);
        message[40] ^= 1;
        verify(&message).expect(1);
        before.push((image.name.clone(), bom_text, provenance_text, bundle_text));
    }

    // A bill and the program in the image name the same crates, none lost on the way from either.
    for image in one_per_architecture(&released).values() {
        let device = Device::unpack(&released.images(), &image.digest);
        let program = fs::read(device.root().join(format!("app/{}", image.model.module))).unwrap();
        let list = CrateList::read(&program).unwrap();
        let compiled: BTreeSet<(&str, &str)> = list.by_name().into_keys().collect();
        assert!(compiled.len() > 50, "{compiled:?}");
        let bom: Value = serde_json::from_str(&copy.read(&file(&image.name, "bom.cdx.json"))).unwrap();
        let described: BTreeSet<(&str, &str)> = bom["components"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|component| {
                component["purl"]
                    .as_str()
                    .is_some_and(|purl| purl.starts_with("pkg:cargo/"))
            })
            .map(|component| {
                (
                    component["name"].as_str().unwrap(),
                    component["version"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(described, compiled, "{}", image.name);
    }

    // The same again, with the key from the environment: nothing is signed anew.
    let mut command = copy.command(XTASK, &["release", "--locked"]);
    run(command.env("AIOT_SIGNING_KEY", fs::read_to_string(&key).unwrap())).expect(0);
    for (name, bom, provenance, bundle) in &before {
        assert_eq!(&copy.read(&file(name, "bom.cdx.json")), bom);
        assert_eq!(&copy.read(&file(name, "provenance.intoto.json")), provenance);
        assert_eq!(&copy.read(&file(name, "signature.sigstore.json")), bundle);
    }
    // Without a key there is no signature that nobody made.
    copy.run(XTASK, &["release", "--locked"]).expect(0);
    assert!(
        !copy
            .root
            .join(file(&before[0].0, "signature.sigstore.json"))
            .exists()
    );

    // A key that cannot be used is refused before anything is done, and not shown.
    let mut command = copy.command(XTASK, &["release", "--locked"]);
    let refused = run(command.env("AIOT_SIGNING_KEY", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n")).expect(1);
    assert!(refused.stderr.contains("signing key"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("c2VjcmV0"), "{}", refused.stderr);
}
