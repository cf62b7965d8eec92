//! What a device receives when a base deployment and layers match it.
//!
//! The hub lays the contents over each other by priority: `properties.desired` replaces a module's whole desired
//! section, `properties.desired.a.b` replaces what stands at `a.b` and leaves the rest. Bases never merge with each
//! other (docs, deployment monitoring).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::manifest::DESIRED;

/// Deepest dotted key that is followed.
const PATH_LIMIT: usize = 16;

/// Why contents cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MergeError {
    /// Not `{"modulesContent": {module: {key: value}}}`.
    #[error("deployment {index}: {what} is not an object")]
    NotAnObject {
        /// Position in the list, from 0; 0 is the base.
        index: usize,
        /// What was looked at.
        what: String,
    },
    /// A key that is neither `properties.desired` nor begins with it.
    #[error(
        "deployment {index}: module `{module}` has key `{key}`; expected `properties.desired` or \
             `properties.desired.<path>` of at most 16 parts"
    )]
    Key {
        /// Position in the list, from 0; 0 is the base.
        index: usize,
        /// The module.
        module: String,
        /// The key.
        key: String,
    },
    /// A layer that would replace the whole of a system module's section.
    #[error(
        "deployment {index}: a layer adds to `{module}` by dotted keys and never sets `properties.desired`"
    )]
    WholeSystemSection {
        /// Position in the list, from 1.
        index: usize,
        /// `$edgeAgent` or `$edgeHub`.
        module: String,
    },
}

/// The desired section of each module of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// By module id; `$edgeAgent` and `$edgeHub` among them.
    pub desired: BTreeMap<String, Map<String, Value>>,
}

impl Merged {
    /// The same as one non-layered manifest.
    pub fn to_content(&self) -> Value {
        let modules: Map<String, Value> = self
            .desired
            .iter()
            .map(|(module, desired)| (module.clone(), json!({DESIRED: desired})))
            .collect();
        json!({ "modulesContent": modules })
    }
}

/// Lays `layers`, each with its priority, over `base`. Of two with the same priority the later in the list wins,
/// as the later created does on the hub.
///
/// # Errors
/// Contents of another shape, named by position: the base is 0, the first of `layers` is 1.
pub fn merge(base: &Value, layers: &[(u32, &Value)]) -> Result<Merged, MergeError> {
    let mut ordered: Vec<_> = layers
        .iter()
        .enumerate()
        .map(|(index, (priority, value))| (*priority, index + 1, *value))
        .collect();
    ordered.sort_by_key(|(priority, index, _)| (*priority, *index));
    let mut merged = Merged::default();
    apply(&mut merged, 0, base)?;
    for (_, index, layer) in ordered {
        apply(&mut merged, index, layer)?;
    }
    Ok(merged)
}

fn apply(merged: &mut Merged, index: usize, content: &Value) -> Result<(), MergeError> {
    let object = |value: Option<&Value>, what: &str| match value {
        Some(Value::Object(map)) => Ok(map.clone()),
        _ => Err(MergeError::NotAnObject {
            index,
            what: what.to_owned(),
        }),
    };
    for (module, entries) in &object(content.get("modulesContent"), "modulesContent")? {
        let mut entries: Vec<_> = object(Some(entries), module)?.into_iter().collect();
        // By key, so that the whole section comes before its parts.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let desired = merged.desired.entry(module.clone()).or_default();
        for (key, value) in entries {
            if key == DESIRED {
                if index > 0 && module.starts_with('$') {
                    return Err(MergeError::WholeSystemSection {
                        index,
                        module: module.clone(),
                    });
                }
                *desired = object(Some(&value), &format!("{module} {key}"))?;
                continue;
            }
            let path: Vec<_> = match key.strip_prefix(DESIRED).and_then(|rest| rest.strip_prefix('.')) {
                Some(path) => path.split('.').collect(),
                None => Vec::new(),
            };
            match path.split_last() {
                Some((last, parents))
                    if path.len() <= PATH_LIMIT && path.iter().all(|part| !part.is_empty()) =>
                {
                    let mut place = &mut *desired;
                    for parent in parents {
                        let child = place.entry((*parent).to_owned()).or_insert_with(|| json!({}));
                        if !child.is_object() {
                            *child = json!({});
                        }
                        let Value::Object(map) = child else {
                            unreachable!("made an object above")
                        };
                        place = map;
                    }
                    place.insert((*last).to_owned(), value);
                }
                _ => {
                    return Err(MergeError::Key {
                        index,
                        module: module.clone(),
                        key,
                    });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(modules: Value) -> Value {
        json!({ "modulesContent": modules })
    }

    #[track_caller]
    fn check(base: Value, layers: &[(u32, Value)], expected: Value) {
        let layers: Vec<_> = layers
            .iter()
            .map(|(priority, modules)| (*priority, content(modules.clone())))
            .collect();
        let layers: Vec<_> = layers
            .iter()
            .map(|(priority, content)| (*priority, content))
            .collect();
        assert_eq!(
            merge(&content(base), &layers).unwrap().to_content(),
            content(expected)
        );
    }

    #[test]
    fn layers() {
        let base = json!({"$edgeAgent": {"properties.desired": {"modules": {}, "v": 1}}});
        check(base.clone(), &[], base.clone());
        check(
            base.clone(),
            &[(
                20,
                json!({"$edgeAgent": {"properties.desired.modules.a": {"x": 1}}, "a": {"properties.desired": {"t": 1}}}),
            )],
            json!({
                "$edgeAgent": {"properties.desired": {"modules": {"a": {"x": 1}}, "v": 1}},
                "a": {"properties.desired": {"t": 1}},
            }),
        );
        // The higher priority wins, whatever the order of the list.
        let layer = |x: u32| json!({"$edgeAgent": {"properties.desired.modules.a": {"x": x}}});
        let with =
            |x: u32| json!({"$edgeAgent": {"properties.desired": {"modules": {"a": {"x": x}}, "v": 1}}});
        check(base.clone(), &[(30, layer(1)), (20, layer(2))], with(1));
        check(base.clone(), &[(20, layer(1)), (20, layer(2))], with(2));
        // An empty `$edgeAgent` changes nothing.
        check(base.clone(), &[(20, json!({"$edgeAgent": {}}))], base);
    }

    #[test]
    fn a_twin_is_replaced_whole_or_in_part() {
        let base = json!({"m": {"properties.desired": {"a": {"b": 1, "c": 2}, "d": 3}}});
        check(
            base.clone(),
            &[(20, json!({"m": {"properties.desired": {"e": 1}}}))],
            json!({"m": {"properties.desired": {"e": 1}}}),
        );
        check(
            base.clone(),
            &[(
                20,
                json!({"m": {"properties.desired.a.b": 9, "properties.desired.x.y": 1}}),
            )],
            json!({"m": {"properties.desired": {"a": {"b": 9, "c": 2}, "d": 3, "x": {"y": 1}}}}),
        );
        check(
            base,
            &[(
                20,
                json!({"m": {"properties.desired.d.deep": 1, "properties.desired": {"d": 0}}}),
            )],
            json!({"m": {"properties.desired": {"d": {"deep": 1}}}}),
        );
    }

    #[test]
    fn other_shapes_are_refused() {
        let check = |layer: Value, expected: &str| {
            let error = merge(&content(json!({})), &[(1, &layer)])
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(json!([]), "deployment 1: modulesContent is not an object");
        check(content(json!({"m": 1})), "deployment 1: m is not an object");
        check(
            content(json!({"m": {"properties.desired": 1}})),
            "m properties.desired is not an object",
        );
        check(
            content(json!({"m": {"properties.reported.a": 1}})),
            "has key `properties.reported.a`",
        );
        check(content(json!({"m": {"properties.desired.": 1}})), "has key");
        check(content(json!({"m": {"properties.desired..a": 1}})), "has key");
        check(content(json!({"m": {"properties.desiredx": 1}})), "has key");
        check(
            content(json!({"m": {format!("properties.desired{}", ".a".repeat(17)): 1}})),
            "has key",
        );
        check(
            content(json!({"$edgeHub": {"properties.desired": {}}})),
            "never sets `properties.desired`",
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn only_priorities_decide(order in Just((0u32..6).collect::<Vec<_>>()).prop_shuffle()) {
            let base = content(json!({"m": {"properties.desired": {}}}));
            let layers: Vec<_> = order
                .iter()
                .map(|n| (*n, content(json!({"m": {format!("properties.desired.k{}", n % 3): n}}))))
                .collect();
            let layers: Vec<_> = layers.iter().map(|(priority, content)| (*priority, content)).collect();
            let merged = merge(&base, &layers).unwrap();
            prop_assert_eq!(Value::Object(merged.desired["m"].clone()), json!({"k0": 3, "k1": 4, "k2": 5}));
        }
    }
}
