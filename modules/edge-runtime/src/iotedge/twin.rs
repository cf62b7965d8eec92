//! The desired properties as the hub has them: whole documents, patches, and which of them count.

use serde_json::{Map, Value};

/// Deeper than any twin: the service's own bound is 10.
const MAX_DEPTH: usize = 12;

/// What a message about the twin asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The properties have changed.
    Changed,
    /// Nothing new.
    Old,
    /// Patches are missing: get the whole.
    Gap,
}

/// The desired properties.
#[derive(Debug, Default)]
pub(super) struct Desired {
    pub(super) properties: Map<String, Value>,
    /// Of the hub; none before the first whole document.
    version: Option<u64>,
}

impl Desired {
    /// A new connection: patches may have been missed.
    pub(super) fn forget_version(&mut self) {
        self.version = None;
    }

    /// Takes the whole twin, `{"desired": {…, "$version": n}, "reported": …}`.
    ///
    /// # Errors
    /// The document is no twin.
    pub(super) fn whole(&mut self, payload: &[u8]) -> Result<Change, String> {
        let twin: Value =
            serde_json::from_slice(payload).map_err(|error| format!("the twin is not JSON: {error}"))?;
        let Some(desired) = twin.get("desired").and_then(Value::as_object) else {
            return Err("the twin has no desired properties".to_owned());
        };
        self.version = desired.get("$version").and_then(Value::as_u64).or(Some(0));
        self.properties = without_metadata(desired);
        Ok(Change::Changed)
    }

    /// Takes a patch with the version of its topic.
    ///
    /// # Errors
    /// The patch is no object.
    pub(super) fn patch(&mut self, version: Option<u64>, payload: &[u8]) -> Result<Change, String> {
        let patch: Value = serde_json::from_slice(payload)
            .map_err(|error| format!("a patch of the twin is not JSON: {error}"))?;
        let Some(patch) = patch.as_object() else {
            return Err("a patch of the twin is not an object".to_owned());
        };
        let version = version.or_else(|| patch.get("$version").and_then(Value::as_u64));
        let (Some(known), Some(version)) = (self.version, version) else {
            return Ok(Change::Gap);
        };
        if version <= known {
            return Ok(Change::Old);
        }
        if version > known + 1 {
            return Ok(Change::Gap);
        }
        merge(&mut self.properties, &without_metadata(patch), 0);
        self.version = Some(version);
        Ok(Change::Changed)
    }
}

fn without_metadata(object: &Map<String, Value>) -> Map<String, Value> {
    let own = object.iter().filter(|(name, _)| !name.starts_with('$'));
    own.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// As the service merges: objects key by key, null removes, anything else replaces.
fn merge(into: &mut Map<String, Value>, patch: &Map<String, Value>, depth: usize) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                into.remove(name);
            }
            Value::Object(inner) if depth < MAX_DEPTH => {
                let entry = into
                    .entry(name.clone())
                    .or_insert_with(|| Value::Object(Map::new()));
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Value::Object(entry) = entry {
                    merge(entry, inner, depth + 1);
                }
            }
            value => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn desired() -> Desired {
        let mut desired = Desired::default();
        let twin =
            json!({"desired": {"a": 1, "b": {"c": 2, "d": 3}, "$version": 5}, "reported": {"$version": 1}});
        desired.whole(twin.to_string().as_bytes()).unwrap();
        desired
    }

    #[test]
    fn patches_follow_each_other() {
        let mut desired = desired();
        let patch = json!({"a": null, "b": {"c": 9}, "e": [1], "$version": 6}).to_string();
        assert_eq!(desired.patch(Some(6), patch.as_bytes()), Ok(Change::Changed));
        assert_eq!(
            Value::Object(desired.properties.clone()),
            json!({"b": {"c": 9, "d": 3}, "e": [1]})
        );
        // Said twice, or late.
        assert_eq!(desired.patch(Some(6), patch.as_bytes()), Ok(Change::Old));
        assert_eq!(desired.patch(Some(3), patch.as_bytes()), Ok(Change::Old));
        // One was missed.
        assert_eq!(desired.patch(Some(8), patch.as_bytes()), Ok(Change::Gap));
        // The version may stand in the patch only.
        assert_eq!(
            desired.patch(None, br#"{"b": 1, "$version": 7}"#),
            Ok(Change::Changed)
        );
        assert_eq!(desired.properties["b"], 1);
        desired.forget_version();
        assert_eq!(desired.patch(Some(8), b"{}"), Ok(Change::Gap));
    }

    #[test]
    fn what_is_no_twin_is_said() {
        let mut desired = desired();
        for wrong in ["", "[]", "{}", r#"{"desired": 1}"#, "nonsense"] {
            desired.whole(wrong.as_bytes()).unwrap_err();
        }
        desired.patch(Some(6), b"[]").unwrap_err();
        desired.patch(Some(6), b"{").unwrap_err();
        assert_eq!(desired.properties.len(), 2);
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in r#"[\[\]{}",:a0-9$n ]{0,60}"#, version in proptest::option::of(0u64..9)) {
            let mut desired = desired();
            let _ = desired.patch(version, payload.as_bytes());
            let _ = desired.whole(payload.as_bytes());
        }
    }
}
