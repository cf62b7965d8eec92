//! Reading a bill of materials back: the parts of CycloneDX 1.6 as types, and what types cannot say as checks.
//!
//! Objects that are looked into refuse fields that the standard does not have; those that nothing is asked of
//! (services, vulnerabilities, signatures, evidence and the like) are read over. Stricter than the schema in one
//! thing: a component may only depend on one that is in the bill.

use std::collections::BTreeSet;

use aiot_package::Digest;
use serde::Deserialize;
use serde_json::Value;

use crate::check::short;

/// Declares an object: fields that are looked at with their types, and those that are only known by name.
macro_rules! object {
    ($name:ident { $($field:ident $(as $key:literal)?: $kind:ty,)* } $($rest:literal)*) => {
        #[derive(Deserialize)]
        struct $name {
            $($(#[serde(rename = $key)])? #[serde(default)] $field: $kind,)*
            #[serde(flatten)]
            rest: serde_json::Map<String, Value>,
        }

        impl $name {
            fn unknown(&self, place: &str, problems: &mut Vec<String>) {
                let known: &[&str] = &[$($rest),*];
                for key in self.rest.keys().filter(|key| !known.contains(&key.as_str())) {
                    problems.push(format!("{place} has a field `{}` that CycloneDX 1.6 does not know", short(key)));
                }
            }
        }
    };
}

object!(Bill {
    format as "bomFormat": String,
    spec_version as "specVersion": String,
    serial_number as "serialNumber": Option<String>,
    version: Option<u64>,
    metadata: Option<Metadata>,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
} "$schema" "services" "externalReferences" "compositions" "vulnerabilities" "annotations" "formulation"
  "declarations" "definitions" "properties" "signature");

object!(Metadata {
    component: Option<Box<Component>>,
} "timestamp" "lifecycles" "tools" "manufacturer" "authors" "manufacture" "supplier" "licenses" "properties");

object!(Component {
    kind as "type": String,
    reference as "bom-ref": Option<String>,
    name: Option<String>,
    purl: Option<String>,
    hashes: Vec<Hash>,
    licenses: Vec<Licence>,
    components: Vec<Component>,
    model_card as "modelCard": Option<ModelCard>,
    data: Vec<ComponentData>,
    pedigree: Option<Pedigree>,
} "mime-type" "supplier" "manufacturer" "author" "authors" "publisher" "group" "version" "description" "scope"
  "copyright" "cpe" "omniborId" "swhid" "swid" "modified" "externalReferences" "evidence" "releaseNotes"
  "cryptoProperties" "properties" "tags" "signature");

object!(Hash {
    algorithm as "alg": String,
    content: String,
});

object!(Licence {
    license: Option<NamedLicence>,
    expression: Option<String>,
} "acknowledgement" "bom-ref");

object!(NamedLicence {
    id: Option<String>,
    name: Option<String>,
} "bom-ref" "acknowledgement" "text" "url" "licensing" "properties");

object!(ModelCard {
    parameters as "modelParameters": Option<ModelParameters>,
    analysis as "quantitativeAnalysis": Option<Analysis>,
} "bom-ref" "considerations" "properties");

object!(ModelParameters {
    datasets: Vec<Value>,
} "approach" "task" "architectureFamily" "modelArchitecture" "inputs" "outputs");

object!(Analysis {
    metrics as "performanceMetrics": Vec<Metric>,
} "graphics");

object!(Metric {
    value: Option<String>,
} "type" "slice" "confidenceInterval");

object!(ComponentData {
    kind as "type": String,
} "bom-ref" "name" "contents" "classification" "sensitiveData" "graphics" "description" "governance");

object!(Pedigree {
    ancestors: Vec<Component>,
} "notes" "descendants" "variants" "commits" "patches");

object!(Dependency {
    reference as "ref": String,
    depends_on as "dependsOn": Vec<String>,
    provides: Vec<String>,
});

const COMPONENT_TYPES: [&str; 13] = [
    "application",
    "framework",
    "library",
    "container",
    "platform",
    "operating-system",
    "device",
    "device-driver",
    "firmware",
    "file",
    "machine-learning-model",
    "data",
    "cryptographic-asset",
];
const DATA_TYPES: [&str; 5] = ["source-code", "configuration", "dataset", "definition", "other"];
/// Algorithms and the hexadecimal digits of their results.
const HASHES: [(&str, usize); 12] = [
    ("MD5", 32),
    ("SHA-1", 40),
    ("SHA-256", 64),
    ("SHA-384", 96),
    ("SHA-512", 128),
    ("SHA3-256", 64),
    ("SHA3-384", 96),
    ("SHA3-512", 128),
    ("BLAKE2b-256", 64),
    ("BLAKE2b-384", 96),
    ("BLAKE2b-512", 128),
    ("BLAKE3", 64),
];

/// What is wrong with a bill of materials of `image`, all of it; empty when nothing is.
pub fn check_bill(bytes: &[u8], image: &Digest) -> Vec<String> {
    let bill: Bill = match serde_json::from_slice(bytes) {
        Ok(bill) => bill,
        Err(error) => return vec![format!("it is no CycloneDX bill: {error}")],
    };
    let mut walk = Walk::default();
    bill.unknown("the bill", &mut walk.problems);
    if (bill.format.as_str(), bill.spec_version.as_str()) != ("CycloneDX", "1.6") {
        let (format, version) = (short(&bill.format), short(&bill.spec_version));
        walk.problem(format!("it calls itself {format} {version}, not CycloneDX 1.6"));
    }
    if bill.version == Some(0) {
        walk.problem("its version is 0; the first is 1".to_owned());
    }
    if let Some(serial) = bill.serial_number.filter(|serial| !is_uuid_urn(serial)) {
        walk.problem(format!(
            "its serial number `{}` is no `urn:uuid:`",
            short(&serial)
        ));
    }
    match bill.metadata {
        Some(metadata) => {
            metadata.unknown("`metadata`", &mut walk.problems);
            match &metadata.component {
                Some(component) => {
                    walk.component(component, 0);
                    let is_image = |hash: &Hash| hash.algorithm == "SHA-256" && hash.content == image.hex();
                    if component.kind != "container" || !component.hashes.iter().any(is_image) {
                        walk.problem("it is about another image".to_owned());
                    }
                }
                None => walk.problem("it does not say what it is about".to_owned()),
            }
        }
        None => walk.problem("it does not say what it is about".to_owned()),
    }
    for component in &bill.components {
        walk.component(component, 0);
    }
    if walk.models == 0 {
        walk.problem("it names no model with a model card".to_owned());
    }
    let mut seen = BTreeSet::new();
    for dependency in &bill.dependencies {
        dependency.unknown("a dependency", &mut walk.problems);
        if !seen.insert(&dependency.reference) {
            walk.problem(format!(
                "`{}` has two lists of dependencies",
                short(&dependency.reference)
            ));
        }
        let parts = [&dependency.reference].into_iter();
        for part in parts.chain(&dependency.depends_on).chain(&dependency.provides) {
            if !walk.references.contains(part) {
                walk.problem(format!("`{}` is depended on and not in it", short(part)));
            }
        }
    }
    walk.problems
}

/// Components nested deeper are not looked at; JSON itself is read to a depth of 128.
const MAX_DEPTH: usize = 16;

#[derive(Default)]
struct Walk {
    problems: Vec<String>,
    references: BTreeSet<String>,
    models: usize,
}

impl Walk {
    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    fn component(&mut self, component: &Component, depth: usize) {
        let place = format!("component `{}`", short(component.name.as_deref().unwrap_or("?")));
        component.unknown(&place, &mut self.problems);
        if depth > MAX_DEPTH {
            return self.problem(format!("{place} is nested deeper than {MAX_DEPTH}"));
        }
        if component.name.as_deref().unwrap_or_default().is_empty() {
            self.problem("a component has no name".to_owned());
        }
        if !COMPONENT_TYPES.contains(&component.kind.as_str()) {
            self.problem(format!(
                "{place} is of no known type (`{}`)",
                short(&component.kind)
            ));
        }
        if let Some(reference) = &component.reference
            && (reference.is_empty() || !self.references.insert(reference.clone()))
        {
            self.problem(format!(
                "{place}: its reference `{}` is not its own",
                short(reference)
            ));
        }
        if component
            .purl
            .as_ref()
            .is_some_and(|purl| !purl.starts_with("pkg:"))
        {
            self.problem(format!("{place}: its package URL is none"));
        }
        for hash in &component.hashes {
            hash.unknown(&place, &mut self.problems);
            let digits = HASHES.iter().find(|(name, _)| *name == hash.algorithm);
            let is_hex = hash.content.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !digits.is_some_and(|(_, digits)| is_hex && hash.content.len() == *digits) {
                self.problem(format!("{place}: a hash is no `{}`", short(&hash.algorithm)));
            }
        }
        for licence in &component.licenses {
            licence.unknown(&place, &mut self.problems);
            let is_one = match (&licence.license, &licence.expression) {
                (Some(named), None) => {
                    named.unknown(&place, &mut self.problems);
                    named.id.is_some() != named.name.is_some()
                }
                (None, Some(_)) => component.licenses.len() == 1,
                _ => false,
            };
            if !is_one {
                self.problem(format!(
                    "{place}: a licence must be an id, a name or one expression"
                ));
            }
        }
        for data in &component.data {
            data.unknown(&place, &mut self.problems);
            if !DATA_TYPES.contains(&data.kind.as_str()) {
                self.problem(format!(
                    "{place}: its data is of no known type (`{}`)",
                    short(&data.kind)
                ));
            }
        }
        if let Some(pedigree) = &component.pedigree {
            pedigree.unknown(&place, &mut self.problems);
            for ancestor in &pedigree.ancestors {
                self.component(ancestor, depth + 1);
            }
        }
        if component.kind == "machine-learning-model" && component.model_card.is_some() {
            self.models += 1;
        }
        if let Some(card) = &component.model_card {
            card.unknown(&place, &mut self.problems);
            if let Some(parameters) = &card.parameters {
                parameters.unknown(&place, &mut self.problems);
                if !parameters.datasets.iter().all(Value::is_object) {
                    self.problem(format!("{place}: a data set is no object"));
                }
            }
            if let Some(analysis) = &card.analysis {
                analysis.unknown(&place, &mut self.problems);
                for metric in &analysis.metrics {
                    metric.unknown(&place, &mut self.problems);
                    if metric.value.is_none() {
                        self.problem(format!("{place}: a metric has no value"));
                    }
                }
            }
        }
        for part in &component.components {
            self.component(part, depth + 1);
        }
    }
}

/// `urn:uuid:` and 8-4-4-4-12 lower-case hexadecimal digits.
fn is_uuid_urn(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix("urn:uuid:") else {
        return false;
    };
    let is_hex = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let parts: Vec<&str> = uuid.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.into_iter().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
            "serialNumber": "urn:uuid:01234567-89ab-8def-8123-456789abcdef",
            "metadata": { "component": {
                "type": "container", "bom-ref": "image", "name": "m",
                "hashes": [{ "alg": "SHA-256", "content": Digest::of(b"image").hex() }],
            }},
            "components": [{
                "type": "machine-learning-model", "bom-ref": "model", "name": "m", "purl": "pkg:generic/m",
                "licenses": [{ "license": { "name": "MIT" } }],
                "data": [{ "type": "dataset" }],
                "pedigree": { "ancestors": [{ "type": "file", "name": "f" }], "notes": "n" },
                "modelCard": {
                    "modelParameters": { "task": "t", "datasets": [{ "ref": "d" }] },
                    "quantitativeAnalysis": { "performanceMetrics": [{ "type": "accuracy", "value": "1" }] },
                },
            }],
            "dependencies": [{ "ref": "image", "dependsOn": ["model"] }],
        })
    }

    fn problems(bill: &Value) -> Vec<String> {
        check_bill(bill.to_string().as_bytes(), &Digest::of(b"image"))
    }

    #[test]
    fn a_good_bill_has_no_problem() {
        assert_eq!(problems(&good()), [""; 0]);
    }

    #[test]
    fn everything_wrong_with_a_bill_is_named() {
        let check = |pointer: &str, value: Value, expected: &str| {
            let mut bill = good();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = bill.pointer_mut(parent).unwrap();
            match parent {
                Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
                other => other[key] = value,
            }
            let found = problems(&bill);
            // What is gone cannot be depended on either.
            assert!(
                found.len() <= 2 && found[0].contains(expected),
                "{pointer}, {expected}: {found:?}"
            );
        };
        check("/specVersion", json!("1.5"), "not CycloneDX 1.6");
        check("/version", json!(0), "version is 0");
        check("/version", json!("1"), "no CycloneDX bill");
        check("/serialNumber", json!("urn:uuid:1"), "serial number");
        check("/metadata/component", Value::Null, "what it is about");
        check("/metadata/component/hashes", json!([]), "another image");
        check("/metadata/component/type", json!("library"), "another image");
        check("/colour", json!(1), "`colour`");
        check("/components/0/colour", json!(1), "`colour`");
        check("/components/0/type", json!("software"), "no known type");
        check("/components/0/bom-ref", json!("image"), "not its own");
        check("/components/0/purl", json!("m"), "package URL");
        check(
            "/components/0/modelCard",
            Value::Null,
            "no model with a model card",
        );
        check(
            "/components/0/hashes",
            json!([{ "alg": "SHA-256", "content": "ab" }]),
            "no `SHA-256`",
        );
        check("/components/0/licenses/0", json!({}), "a licence must be");
        check(
            "/components/0/licenses/0",
            json!({ "license": { "name": "a", "id": "MIT" } }),
            "a licence must be",
        );
        check("/components/0/data/0/type", json!("numbers"), "its data");
        check("/components/0/pedigree/ancestors/0/name", json!(""), "no name");
        check(
            "/components/0/modelCard/quantitativeAnalysis/performanceMetrics/0/value",
            Value::Null,
            "no value",
        );
        check("/dependencies/0/dependsOn", json!(["other"]), "not in it");
        check("/dependencies/0/on", json!([]), "`on`");
    }

    #[test]
    fn nothing_makes_it_panic() {
        for text in [
            "",
            "[]",
            "{}",
            "{\"components\":[{}]}",
            "\u{0}",
            "{\"components\":{}}",
        ] {
            assert!(
                !check_bill(text.as_bytes(), &Digest::of(b"")).is_empty(),
                "{text}"
            );
        }
        let good = good().to_string().into_bytes();
        for at in 0..good.len() {
            for bit in [1, 4, 64] {
                let mut changed = good.clone();
                changed[at] ^= bit;
                check_bill(&changed, &Digest::of(b"image"));
            }
            assert!(!check_bill(&good[..at], &Digest::of(b"image")).is_empty());
        }
        let mut deep = json!({ "type": "file", "name": "f" });
        for _ in 0..30 {
            deep = json!({ "type": "file", "name": "f", "components": [deep] });
        }
        let mut bill = super::tests::good();
        bill["components"][0]["components"] = json!([deep]);
        assert!(problems(&bill)[0].contains("nested deeper"));
    }
}
