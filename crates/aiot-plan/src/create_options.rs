//! Docker's create options as a typed table.
//!
//! | key | becomes |
//! | --- | --- |
//! | `devices = ["/dev/video0"]`, `["/host:/container:rw"]` | `HostConfig.Devices` |
//! | `binds = ["/srv/models:/cache:rw"]` | `HostConfig.Binds` |
//! | `runtime = "nvidia"` | `HostConfig.Runtime` |
//! | `memory-limit-mib = 512` | `HostConfig.Memory` in bytes |
//! | `network-mode = "host"` | `HostConfig.NetworkMode` |
//! | `read-only = true` | `HostConfig.ReadonlyRootfs` |
//! | anything else | passed through as written |

use serde_json::{Map, Value, json};

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptionsError {
    /// The key.
    pub key: String,
    /// What was expected.
    pub expected: &'static str,
}

/// The JSON body of Docker's container-create call for a declared table.
///
/// # Errors
/// [`CreateOptionsError`] for each typed key whose value has the wrong form.
pub fn to_json(table: &toml::Table) -> Result<Value, Vec<CreateOptionsError>> {
    let mut body = Map::new();
    let mut host = Map::new();
    let mut errors = Vec::new();
    for (key, value) in table {
        let result = match key.as_str() {
            "devices" => strings(value)
                .and_then(|list| list.iter().map(|text| device(text)).collect())
                .map(|devices: Vec<Value>| {
                    host.insert("Devices".into(), devices.into());
                }),
            "binds" => strings(value).map(|list| {
                host.insert("Binds".into(), list.into());
            }),
            "runtime" => text(value).map(|text| {
                host.insert("Runtime".into(), text.into());
            }),
            "network-mode" => text(value).map(|text| {
                host.insert("NetworkMode".into(), text.into());
            }),
            "read-only" => value.as_bool().ok_or("true or false").map(|flag| {
                host.insert("ReadonlyRootfs".into(), flag.into());
            }),
            "memory-limit-mib" => value
                .as_integer()
                .filter(|mib| (1..=1 << 24).contains(mib))
                .ok_or("a number of MiB above 0")
                .map(|mib| {
                    host.insert("Memory".into(), (mib << 20).into());
                }),
            _ => {
                body.insert(key.clone(), json_of(value));
                Ok(())
            }
        };
        if let Err(expected) = result {
            errors.push(CreateOptionsError {
                key: key.clone(),
                expected,
            });
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut value = Value::Object(body);
    if !host.is_empty() {
        merge(&mut value, &json!({ "HostConfig": host }));
    }
    Ok(value)
}

/// Joins `over` into `base`: objects key by key, anything else is replaced.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// A TOML value as JSON; dates become strings.
pub fn json_of(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => json!(number),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.iter().map(json_of).collect(),
        toml::Value::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.clone(), json_of(value)))
                .collect(),
        ),
    }
}

fn text(value: &toml::Value) -> Result<String, &'static str> {
    value.as_str().map(str::to_owned).ok_or("a string")
}

fn strings(value: &toml::Value) -> Result<Vec<String>, &'static str> {
    let list = value.as_array().ok_or("a list of strings")?;
    list.iter()
        .map(|item| text(item).map_err(|_| "a list of strings"))
        .collect()
}

fn device(text: &str) -> Result<Value, &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, container] => (*host, *container, "rwm"),
        [host, container, permissions] => (*host, *container, *permissions),
        _ => return Err("\"/host\", \"/host:/container\" or \"/host:/container:rwm\""),
    };
    if !host.starts_with('/')
        || !container.starts_with('/')
        || !matches!(permissions, "r" | "w" | "m" | "rw" | "rm" | "wm" | "rwm")
    {
        return Err("\"/host\", \"/host:/container\" or \"/host:/container:rwm\"");
    }
    Ok(json!({ "PathOnHost": host, "PathInContainer": container, "CgroupPermissions": permissions }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(toml: &str, expected: Value) {
        assert_eq!(to_json(&toml.parse().unwrap()).unwrap(), expected);
    }

    #[test]
    fn typed_keys() {
        check("", json!({}));
        check(
            "devices = ['/dev/video0', '/dev/ttyS0:/dev/sensor:r']",
            json!({"HostConfig": {"Devices": [
                {"PathOnHost": "/dev/video0", "PathInContainer": "/dev/video0", "CgroupPermissions": "rwm"},
                {"PathOnHost": "/dev/ttyS0", "PathInContainer": "/dev/sensor", "CgroupPermissions": "r"}]}}),
        );
        check("runtime = 'nvidia'", json!({"HostConfig": {"Runtime": "nvidia"}}));
        check(
            "memory-limit-mib = 2",
            json!({"HostConfig": {"Memory": 2_097_152}}),
        );
    }

    #[test]
    fn unknown_keys_pass_through_and_join() {
        check(
            "read-only = true\nHostConfig = { ShmSize = 64 }\nHostname = 'a'",
            json!({"HostConfig": {"ReadonlyRootfs": true, "ShmSize": 64}, "Hostname": "a"}),
        );
    }

    #[test]
    fn wrong_forms_name_the_key() {
        let errors = to_json(
            &"devices = 'x'\nmemory-limit-mib = 0\nbinds = [1]"
                .parse()
                .unwrap(),
        )
        .unwrap_err();
        let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, ["binds", "devices", "memory-limit-mib"]);
    }
}
