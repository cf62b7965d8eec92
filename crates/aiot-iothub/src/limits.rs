//! The limits of IoT Hub and IoT Edge, checked before a hub says no, and how much of each is used.
//!
//! Source of the numbers: docs, device twins, quotas and throttling, limits and restrictions of IoT Edge.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::create_options::PIECE_COUNT_LIMIT;
use crate::error::{ManifestError, Problem};
use crate::merge::Merged;
use crate::syntax::shortened;

/// Deployments on a hub of a paid tier, layers included.
pub const DEPLOYMENTS: u64 = 100;
/// Modules on a device, the two system modules included.
pub const MODULES: u64 = 50;
/// Desired section of one twin, in bytes as [`twin_size_bytes`] counts them.
pub const DESIRED_BYTES: u64 = 32 * 1024;
/// One string value of a twin, in bytes.
pub const TWIN_VALUE_BYTES: u64 = 4096;
/// One key of a twin, in bytes.
pub const TWIN_KEY_BYTES: u64 = 1024;
/// Objects and lists within each other, below the desired section.
pub const TWIN_DEPTH: u64 = 10;
/// Id of a deployment, in characters.
pub const DEPLOYMENT_ID_CHARACTERS: u64 = 128;
/// Integers of a twin: from minus 2^52 ...
pub const TWIN_INTEGER_MIN: i64 = -(1 << 52);
/// ... to 2^52 - 1.
pub const TWIN_INTEGER_MAX: i64 = (1 << 52) - 1;

/// How much of a limit is used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UsedOf {
    /// What is limited: `deployments`, `desired properties of $edgeAgent in bytes`.
    pub what: String,
    /// How much there is.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

/// Size of a desired section as the hub counts it: lengths of keys and values in characters without control
/// characters, 8 bytes for a number, 4 for a boolean; nothing for the structure.
pub fn twin_size_bytes(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text_size(text),
        Value::Array(items) => items.iter().map(twin_size_bytes).sum(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| text_size(key) + twin_size_bytes(value))
            .sum(),
    }
}

fn text_size(text: &str) -> u64 {
    text.chars().filter(|character| !character.is_control()).count() as u64
}

/// Checks what one device of a target receives at most, and counts what it uses.
pub(crate) fn check_device(target: &str, merged: &Merged, errors: &mut Vec<ManifestError>) -> Vec<UsedOf> {
    let mut used = Vec::new();
    let modules = merged
        .desired
        .get("$edgeAgent")
        .and_then(|agent| agent.get("modules"))
        .and_then(Value::as_object);
    let count = 2 + modules.map_or(0, Map::len) as u64;
    used.push(UsedOf {
        what: "modules, system modules included".to_owned(),
        used: count,
        limit: MODULES,
    });
    if count > MODULES {
        let help = "move models to other devices, or several into one module";
        errors.push(over(
            format!("target `{target}`"),
            "modules on a device",
            count,
            MODULES,
            help,
        ));
    }
    // More are refused where they are cut.
    let system = merged
        .desired
        .get("$edgeAgent")
        .and_then(|agent| agent.get("systemModules"));
    let pieces = modules
        .into_iter()
        .chain(system.and_then(Value::as_object))
        .flat_map(|modules| modules.values())
        .filter_map(|module| module.get("settings")?.as_object())
        .map(|settings| {
            settings
                .keys()
                .filter(|key| key.starts_with("createOptions"))
                .count() as u64
        })
        .max();
    used.push(UsedOf {
        what: "createOptions of the module with the most, pieces".to_owned(),
        used: pieces.unwrap_or(0),
        limit: PIECE_COUNT_LIMIT as u64,
    });
    for (module, desired) in &merged.desired {
        let place = format!("target `{target}`, desired properties of `{module}`");
        let desired = Value::Object(desired.clone());
        let help = "shorten createOptions and variables, or move models to other devices";
        used.push(UsedOf {
            what: format!("desired properties of {module}, bytes"),
            used: check_size_and_values(&place, &desired, help, errors),
            limit: DESIRED_BYTES,
        });
    }
    used
}

/// Takes the larger use of each limit into `used`; limits that are new come last.
pub(crate) fn take_most(used: &mut Vec<UsedOf>, more: Vec<UsedOf>) {
    let mut places: BTreeMap<String, usize> = used
        .iter()
        .enumerate()
        .map(|(place, known)| (known.what.clone(), place))
        .collect();
    for new in more {
        match places.get(&new.what) {
            Some(&place) => used[place].used = used[place].used.max(new.used),
            None => {
                places.insert(new.what.clone(), used.len());
                used.push(new);
            }
        }
    }
}

/// Checks the number of deployments that a release puts on the hub.
pub(crate) fn check_deployments(count: usize, errors: &mut Vec<ManifestError>) -> UsedOf {
    let count = count as u64;
    if count > DEPLOYMENTS {
        let help = "let more modules share a condition, or split the environment over several hubs";
        errors.push(over(
            "the release".to_owned(),
            "deployments on a hub",
            count,
            DEPLOYMENTS,
            help,
        ));
    }
    UsedOf {
        what: "deployments".to_owned(),
        used: count,
        limit: DEPLOYMENTS,
    }
}

fn over(place: String, what: &'static str, used: u64, limit: u64, help: &'static str) -> ManifestError {
    ManifestError::new(
        place,
        Problem::Limit {
            what,
            used,
            limit,
            help,
        },
    )
}

/// Checks a section of a twin, desired or reported, by itself: its size, depth, keys and values. `place` names it in
/// errors.
pub fn check_section(place: &str, section: &Value) -> Vec<ManifestError> {
    let mut errors = Vec::new();
    check_size_and_values(place, section, "shorten it", &mut errors);
    errors
}

/// The same, and gives the size in bytes as the hub counts it.
fn check_size_and_values(
    place: &str,
    section: &Value,
    help: &'static str,
    errors: &mut Vec<ManifestError>,
) -> u64 {
    let size_bytes = twin_size_bytes(section);
    if size_bytes > DESIRED_BYTES {
        errors.push(over(place.to_owned(), "bytes", size_bytes, DESIRED_BYTES, help));
    }
    check_value(place, &mut Vec::new(), section, errors);
    size_bytes
}

/// Keys and values of one desired section. The recursion ends at [`TWIN_DEPTH`].
fn check_value<'a>(place: &str, path: &mut Vec<&'a str>, value: &'a Value, errors: &mut Vec<ManifestError>) {
    let error = |path: &[&str], problem| {
        ManifestError::new(
            place,
            Problem::TwinValue {
                path: shortened(&path.join("."), 80),
                problem,
            },
        )
    };
    let limit = |path: &[&str], what, used: u64, limit: u64, help| {
        over(
            format!("{place}, `{}`", shortened(&path.join("."), 80)),
            what,
            used,
            limit,
            help,
        )
    };
    // The section itself is no level.
    let depth = path.len() as u64;
    if depth > TWIN_DEPTH && (value.is_object() || value.is_array()) {
        errors.push(limit(path, "levels", depth, TWIN_DEPTH, "flatten the value"));
        return;
    }
    match value {
        Value::Null => errors.push(error(path, "is null, which a twin does not keep: leave it out")),
        Value::Bool(_) => {}
        Value::Number(number) => {
            let inside = match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => (TWIN_INTEGER_MIN..=TWIN_INTEGER_MAX).contains(&integer),
                (None, Some(_)) => false,
                (None, None) => true,
            };
            if !inside {
                errors.push(error(
                    path,
                    "is an integer outside -2^52 to 2^52 - 1: write it as a text",
                ));
            }
        }
        Value::String(text) => {
            let size_bytes = text.len() as u64;
            if size_bytes > TWIN_VALUE_BYTES {
                let help = "shorten it, or bring it to the device in the image";
                errors.push(limit(
                    path,
                    "bytes of one value",
                    size_bytes,
                    TWIN_VALUE_BYTES,
                    help,
                ));
            }
        }
        Value::Array(items) => {
            for item in items {
                path.push("[]");
                check_value(place, path, item, errors);
                path.pop();
            }
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                path.push(key);
                if key.is_empty() {
                    errors.push(error(path, "is an empty key"));
                }
                if key.contains(|c: char| c.is_control() || matches!(c, '.' | '$' | ' ' | '#')) {
                    errors.push(error(
                        path,
                        "is a key with `.`, `$`, `#`, a space or a control character: rename it",
                    ));
                }
                if key.len() as u64 > TWIN_KEY_BYTES {
                    errors.push(limit(
                        path,
                        "bytes of one key",
                        key.len() as u64,
                        TWIN_KEY_BYTES,
                        "rename it",
                    ));
                }
                check_value(place, path, value, errors);
                path.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes() {
        let check = |value: Value, expected: u64| assert_eq!(twin_size_bytes(&value), expected, "{value}");
        check(json!({}), 0);
        check(json!({"ab": "cde"}), 5);
        check(json!({"a": 1}), 9);
        check(json!({"a": 1.5, "b": true}), 9 + 5);
        check(json!({"a": {"b": "x\n\u{85}y"}}), 4);
        check(json!({"a": ["x", 1]}), 10);
        check(json!({"ü": "€😀"}), 3);
    }

    #[track_caller]
    fn check_device_errors(desired: Value, expected: &[&str]) {
        let Value::Object(desired) = desired else {
            panic!("the test wants an object")
        };
        let merged = Merged {
            desired: [("m".to_owned(), desired)].into(),
        };
        let mut errors = Vec::new();
        check_device("t", &merged, &mut errors);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.contains(expected), "{error}\n  expected {expected}");
        }
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!({ "k": inner }))
    }

    #[test]
    fn twin_rules() {
        check_device_errors(json!({}), &[]);
        check_device_errors(json!({"a": "x".repeat(4096)}), &[]);
        check_device_errors(
            json!({"a": "x".repeat(4097)}),
            &["desired properties of `m`, `a`: bytes of one value: 4097 of 4096"],
        );
        check_device_errors(json!({"a": "ü".repeat(2049)}), &["4098 of 4096"]);
        check_device_errors(json!({"a": {"b.c": 1}}), &["`a.b.c` is a key with"]);
        check_device_errors(
            json!({"$a": 1, "b c": 1, "d#": 1, "e\n": 1, "": 1}),
            &["empty key", "`$a`", "`b c`", "`d#`", "is a key"],
        );
        check_device_errors(json!({"k".repeat(1025): 1}), &["bytes of one key: 1025 of 1024"]);
        check_device_errors(json!({"a": null}), &["`a` is null"]);
        check_device_errors(json!({"a": [1, null]}), &["`a.[]` is null"]);
        check_device_errors(
            json!({"a": (1i64 << 52) - 1, "b": -(1i64 << 52), "c": 1e300}),
            &[],
        );
        check_device_errors(
            json!({"a": 1i64 << 52, "b": u64::MAX}),
            &["`a` is an integer", "`b` is an integer"],
        );
        check_device_errors(nested(11), &[]);
        check_device_errors(nested(12), &["levels: 11 of 10"]);
        check_device_errors(nested(100), &["levels: 11 of 10"]);
        check_device_errors(
            (0..9)
                .map(|n| (n.to_string(), json!("x".repeat(4096))))
                .collect::<Map<_, _>>()
                .into(),
            &["bytes: 36873 of 32768"],
        );
    }

    #[test]
    fn the_larger_use_counts() {
        let of = |what: &str, used: u64| UsedOf {
            what: what.to_owned(),
            used,
            limit: 9,
        };
        let mut used = Vec::new();
        take_most(&mut used, vec![of("a", 1), of("b", 5)]);
        take_most(&mut used, vec![of("c", 2), of("b", 3), of("a", 4)]);
        assert_eq!(used, [of("a", 4), of("b", 5), of("c", 2)]);
    }

    #[test]
    fn deployments_are_counted() {
        let mut errors = Vec::new();
        assert_eq!(check_deployments(100, &mut errors).used, 100);
        assert!(errors.is_empty());
        check_deployments(101, &mut errors);
        assert!(errors[0].to_string().contains("deployments on a hub: 101 of 100"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn size_adds_up(entries in proptest::collection::btree_map("\\PC{1,8}", "\\PC{0,20}", 0..6)) {
            let whole: Map<String, Value> = entries.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
            let sum: usize = entries.iter().map(|(key, value)| (key.clone() + value).chars().count()).sum();
            prop_assert_eq!(twin_size_bytes(&Value::Object(whole)), sum as u64);
        }
    }
}
