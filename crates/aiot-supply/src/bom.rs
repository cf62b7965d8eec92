//! The bill of materials of one image: CycloneDX 1.6, with the model as a component that has a model card.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::{Digest, InputSpec, Precision};
use aiot_plan::lock::{LockedPackage, LockedWheel};
use aiot_plan::records::{Calibration, Measured};
use aiot_plan::workspace::{Model, Target};
use serde_json::{Value, json};

/// Everything that the bill of one image is made from.
#[derive(Clone, Debug)]
pub struct BomInput<'a> {
    /// The model that the image serves.
    pub model: BomModel<'a>,
    /// The challenger that rides in it.
    pub challenger: Option<BomModel<'a>>,
    /// The target.
    pub target: &'a Target,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// Crates of the module.
    pub crates: Vec<Crate>,
    /// The wheel with the engine, where it comes from one.
    pub engine: Option<&'a LockedWheel>,
    /// Packages of a distribution whose files are in the image.
    pub packages: Vec<SystemPackage<'a>>,
}

/// A model in an image.
#[derive(Clone, Debug)]
pub struct BomModel<'a> {
    /// Its declaration.
    pub model: &'a Model,
    /// The variant in the image.
    pub precision: Precision,
    /// The float model's measurement.
    pub float: Option<&'a Measured>,
    /// The shipped variant's measurement.
    pub shipped: Option<&'a Measured>,
    /// What quantizing obeyed.
    pub calibration: Option<&'a Calibration>,
    /// Digest of the calibration set.
    pub calibration_set: Option<Digest>,
    /// Digest of the evaluation set.
    pub evaluation_set: Option<Digest>,
}

/// A crate of a module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of the package, hexadecimal; crates of the workspace have none.
    pub checksum: Option<String>,
}

/// A package of a distribution.
#[derive(Clone, Debug)]
pub struct SystemPackage<'a> {
    /// The locked package.
    pub locked: &'a LockedPackage,
    /// Licences that its copyright file names, in the file's words, sorted.
    pub licences: Vec<String>,
}

/// The crates of a `Cargo.lock`, sorted.
///
/// # Errors
/// What is wrong with the text.
pub fn crates_of_lock(text: &str) -> Result<Vec<Crate>, String> {
    #[derive(serde::Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut crates: Vec<Crate> = lock
        .package
        .into_iter()
        .map(|package| Crate {
            name: package.name,
            version: package.version,
            checksum: package.checksum.filter(|hex| Digest::from_hex(hex).is_ok()),
        })
        .collect();
    crates.sort();
    crates.dedup();
    Ok(crates)
}

/// The licences that a Debian copyright file names: the short names of `License:` fields, or, in files of the old
/// free form, those of the common licences that they point at. Sorted, each once.
pub fn licences(copyright: &str) -> Vec<String> {
    let named: BTreeSet<String> = copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(|name| name.trim().chars().take(120).collect())
        .filter(|name: &String| !name.is_empty())
        .collect();
    if !named.is_empty() {
        return named.into_iter().collect();
    }
    let common: BTreeSet<String> = copyright
        .split("/usr/share/common-licenses/")
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-.+".contains(c)));
            rest[..end.unwrap_or(rest.len())].trim_end_matches('.').to_owned()
        })
        .filter(|name| !name.is_empty())
        .collect();
    common.into_iter().collect()
}

/// The bytes of the bill.
pub fn bill_of_materials(input: &BomInput<'_>) -> Vec<u8> {
    let (model, target) = (input.model.model, input.target);
    let image_ref = format!("pkg:oci/{}@{}", model.name, percent(&input.image.to_string()));
    let mut components: BTreeMap<String, Value> = BTreeMap::new();
    for (reference, model) in [
        ("model", Some(&input.model)),
        ("shadow", input.challenger.as_ref()),
    ] {
        if let Some(model) = model {
            components.extend(model_components(reference, model));
        }
    }
    let mut add = |reference: String, value: Value| {
        components.insert(reference, value);
    };
    if let Some(wheel) = input.engine {
        let reference = format!("pkg:pypi/{}@{}", wheel.package, percent(&wheel.version));
        add(
            reference.clone(),
            json!({
                "type": "library", "bom-ref": reference, "purl": reference,
                "name": wheel.package, "version": wheel.version, "hashes": hashes(&wheel.digest.hex()),
                "description": "Inference engine",
            }),
        );
    }
    for package in &input.packages {
        let locked = package.locked;
        let reference = format!(
            "pkg:deb/debian/{}@{}?arch={}",
            percent(&locked.name),
            percent(&locked.version),
            locked.architecture
        );
        let names = package.licences.iter();
        let licences: Vec<Value> = names.map(|name| json!({ "license": { "name": name } })).collect();
        add(
            reference.clone(),
            json!({
                "type": "library", "bom-ref": reference, "purl": reference, "licenses": licences,
                "name": locked.name, "version": locked.version, "hashes": hashes(&locked.digest.hex()),
            }),
        );
    }
    for package in &input.crates {
        let reference = format!("pkg:cargo/{}@{}", package.name, percent(&package.version));
        let mut value = json!({
            "type": "library", "bom-ref": reference, "purl": reference,
            "name": package.name, "version": package.version,
        });
        if let Some(checksum) = &package.checksum {
            value["hashes"] = hashes(checksum);
        }
        add(reference, value);
    }

    let references: Vec<&String> = components.keys().collect();
    let dependencies = json!([{ "ref": image_ref, "dependsOn": references }]);
    crate::to_bytes(&json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": serial_number(&input.image),
        "metadata": {
            "tools": { "components": [{
                "type": "application", "name": "aiot-ops", "version": env!("CARGO_PKG_VERSION"),
            }]},
            "component": {
                "type": "container", "bom-ref": image_ref, "purl": image_ref,
                "name": model.name.as_str(), "version": model.version, "hashes": hashes(&input.image.hex()),
                "description": format!("{} for {} ({})", model.description, target.name, target.platform),
            },
        },
        "components": components.values().collect::<Vec<_>>(),
        "dependencies": dependencies,
    }))
}

/// A model with its model card, and the data sets that the card names.
fn model_components(reference: &str, input: &BomModel<'_>) -> Vec<(String, Value)> {
    let model = input.model;
    let mut components = Vec::new();
    let mut add = |reference: String, value: Value| components.push((reference, value));
    let mut data = Vec::new();
    for (what, path, digest) in [
        (
            "calibration",
            model.calibration_path.as_deref(),
            input.calibration_set,
        ),
        (
            "evaluation",
            Some(model.evaluation_path.as_str()),
            input.evaluation_set,
        ),
    ] {
        if let (Some(path), Some(digest)) = (path, digest) {
            let reference = match reference {
                "model" => format!("data:{what}"),
                other => format!("data:{other}:{what}"),
            };
            data.push(json!({ "ref": reference }));
            add(
                reference.clone(),
                json!({
                    "type": "data", "bom-ref": reference, "name": path,
                    "description": format!("{what} set; the digest is over names, contents and labels"),
                    "hashes": hashes(&digest.hex()),
                    "data": [{ "type": "dataset", "name": path }],
                }),
            );
        }
    }
    let mut metrics = Vec::new();
    for (precision, measured) in [
        (Precision::Float32, input.float),
        (input.precision, input.shipped),
    ] {
        if let Some(measured) = measured {
            metrics.push(json!({
                "type": measured.metric.to_string(),
                "value": measured.value.to_string(),
                "slice": format!("{precision}, {} samples of the evaluation set", measured.samples),
            }));
        }
    }
    metrics.dedup();
    let format = match &model.input {
        InputSpec::Image(image) => format!("image {}x{}", image.width, image.height),
        InputSpec::Signal(_) => "signal".to_owned(),
    };
    let reference = reference.to_owned();
    add(
        reference.clone(),
        json!({
            "type": "machine-learning-model", "bom-ref": reference,
            "name": model.name.as_str(), "version": model.version, "description": model.description,
            "pedigree": {
                "ancestors": [{
                    "type": "machine-learning-model", "name": model.path, "version": model.version,
                    "hashes": hashes(&model.digest.hex()),
                }],
                "notes": recipe(input),
            },
            "modelCard": {
                "modelParameters": {
                    "task": word(&model.task), "datasets": data,
                    "inputs": [{ "format": format }], "outputs": [{ "format": word(&model.task) }],
                },
                "quantitativeAnalysis": { "performanceMetrics": metrics },
            },
        }),
    );
    components
}

/// How the shipped variant was made of the float model, in words.
fn recipe(input: &BomModel<'_>) -> String {
    let Some(calibration) = input
        .calibration
        .filter(|_| input.precision != Precision::Float32)
    else {
        return format!("shipped as {}", input.precision);
    };
    let float_nodes = match calibration.float_nodes.as_slice() {
        [] => "none".to_owned(),
        nodes => nodes.join(", "),
    };
    format!(
        "quantized to {}: {} ranges over {} samples, channels {}{}, bias correction {}, nodes that stay float: {}; ranges \
         found with ONNX Runtime {}",
        input.precision,
        calibration.range_method,
        calibration.samples,
        match (calibration.equalized, calibration.channel_factors.is_empty()) {
            (true, _) => "evened out by weights",
            (false, false) => "evened out by activations",
            (false, true) => "as trained",
        },
        if calibration.permuted {
            " and in another order"
        } else {
            ""
        },
        if calibration.means.is_empty() { "off" } else { "on" },
        float_nodes,
        calibration.engine,
    )
}

fn hashes(hex: &str) -> Value {
    json!([{ "alg": "SHA-256", "content": hex }])
}

/// A unit variant's name in declarations.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        other => unreachable!("a plain word: {other:?}"),
    }
}

/// A part of a package URL.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// A UUID of version 8 that follows from the image: the bill of the same image has the same one.
fn serial_number(image: &Digest) -> String {
    let mut hex: Vec<char> = Digest::of(format!("bom of {image}").as_bytes())
        .hex()
        .chars()
        .collect();
    hex[12] = '8';
    hex[16] = '8';
    let part = |range: std::ops::Range<usize>| hex[range].iter().collect::<String>();
    format!(
        "urn:uuid:{}-{}-{}-{}-{}",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_of_copyright_files() {
        let check = |text: &str, expected: &[&str]| assert_eq!(licences(text), expected);
        check(
            "License: GPL-2+\n text\nLicense: BSD-3-clause\nLicense: GPL-2+\n",
            &["BSD-3-clause", "GPL-2+"],
        );
        check(
            "see /usr/share/common-licenses/GPL-3. And `/usr/share/common-licenses/LGPL-2.1'.",
            &["GPL-3", "LGPL-2.1"],
        );
        check("all rights reserved", &[]);
        check("License:\n", &[]);
    }

    #[test]
    fn crates_come_sorted_with_good_checksums_only() {
        let hex = "a".repeat(64);
        let text = format!(
            "[[package]]\nname = \"b\"\nversion = \"1.0.0\"\nchecksum = \"{hex}\"\n[[package]]\nname = \"a\"\nversion = \
             \"0.1.0\"\nchecksum = \"short\"\n"
        );
        let found = crates_of_lock(&text).unwrap();
        assert_eq!(found[0].name, "a");
        assert_eq!((&found[0].checksum, &found[1].checksum), (&None, &Some(hex)));
        assert!(crates_of_lock("package = 1").is_err());
    }

    #[test]
    fn package_urls_are_escaped() {
        assert_eq!(percent("1:2.41-12+deb13u4~x"), "1%3A2.41-12%2Bdeb13u4~x");
    }
}
