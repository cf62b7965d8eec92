//! Refuses values that look like secrets.
//!
//! Deployments are committed, and everyone who may read the hub reads them. Placeholders, `${NAME}`, pass: they are
//! filled when a deployment is applied. The search is for what secrets of this trade look like (connection strings,
//! shared access keys and signatures, PEM private keys, passwords in addresses, long random base64); digests in
//! hexadecimal pass.

use serde_json::Value;

use crate::error::{ManifestError, Problem};
use crate::manifest::module_place;
use crate::release::{EnvValue, Release};

/// Deepest value that is looked into; limits refuse deeper ones anyway.
const DEPTH_LIMIT: usize = 64;

/// Checks all variables, createOptions, twin properties and routes of `release`.
pub(crate) fn lint(release: &Release, errors: &mut Vec<ManifestError>) {
    let mut lint = Lint { errors };
    for (name, system) in [
        ("edgeAgent", &release.system.edge_agent),
        ("edgeHub", &release.system.edge_hub),
    ] {
        let place = format!("system module `{name}`");
        lint.variables(&place, &system.env);
        lint.object(&format!("{place}, createOptions"), &system.create_options);
    }
    for target in &release.targets {
        let place = format!("target `{}`", target.name);
        lint.variables(&format!("{place}, edge hub"), &target.edge_hub_env);
        lint.object(&format!("{place}, createOptions"), &target.create_options);
        for module in &target.modules {
            let place = module_place(target, module);
            lint.variables(&place, &module.env);
            lint.object(&format!("{place}, createOptions"), &module.create_options);
            lint.object(&format!("{place}, desired properties"), &module.desired);
            for (name, spec) in &module.routes {
                lint.text(&format!("{place}, route `{name}`"), name, &spec.route);
            }
        }
    }
}

/// What `text` looks like, if it looks like a secret; placeholders are taken out first.
pub fn looks_like_secret(text: &str) -> Option<&'static str> {
    let text = without_placeholders(text);
    let lower = text.to_ascii_lowercase();
    let assigned = |key: &str| {
        lower.match_indices(key).any(|(index, _)| {
            let rest = &lower[index + key.len()..];
            rest.starts_with(|c: char| !c.is_whitespace() && !";&\"'".contains(c))
        })
    };
    if lower.contains("-----begin") && lower.contains("private key-----") {
        return Some("a private key");
    }
    if assigned("sharedaccesskey=") || assigned("accountkey=") {
        return Some("a connection string with its key");
    }
    if lower.contains("sharedaccesssignature") && assigned("sig=") {
        return Some("a shared access signature");
    }
    if password_in_address(&text) {
        return Some("an address with a password");
    }
    let mut runs = text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/=_-".contains(c));
    if runs.any(is_random_base64) {
        Some("a key in base64")
    } else {
        None
    }
}

/// `text` without `${NAME}`.
fn without_placeholders(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let after = &rest[start + 2..];
        let length = after
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            .count();
        result.push_str(&rest[..start]);
        if length > 0 && after[length..].starts_with('}') {
            rest = &after[length + 1..];
        } else {
            result.push_str("${");
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

/// `scheme://user:password@host`
fn password_in_address(text: &str) -> bool {
    text.match_indices("://").any(|(index, separator)| {
        let rest = &text[index + separator.len()..];
        let authority = rest
            .split(|c: char| "/?# \"'".contains(c))
            .next()
            .unwrap_or_default();
        authority
            .rsplit_once('@')
            .and_then(|(user, _)| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    })
}

/// 40 characters or more with small and capital letters and digits, spread as random bytes are: 4.5 bits each.
/// Random base64 of that length has about 4.8, words and paths below 4.3, hexadecimal digits at most 4.
fn is_random_base64(run: &str) -> bool {
    let bytes = run.as_bytes();
    if bytes.len() < 40
        || !bytes.iter().any(u8::is_ascii_digit)
        || !bytes.iter().any(u8::is_ascii_lowercase)
        || !bytes.iter().any(u8::is_ascii_uppercase)
    {
        return false;
    }
    let mut counts = [0usize; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let length = bytes.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = *count as f64 / length;
            -share * share.log2()
        })
        .sum();
    entropy >= 4.5
}

/// Names of variables that hold a secret whatever it looks like.
fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    [
        "PASSWORD",
        "PASSWD",
        "SECRET",
        "API_KEY",
        "ACCESS_KEY",
        "CONNECTION_STRING",
        "CONNECTIONSTRING",
    ]
    .iter()
    .any(|suffix| upper.ends_with(suffix))
}

struct Lint<'a> {
    errors: &'a mut Vec<ManifestError>,
}

impl Lint<'_> {
    fn variables(&mut self, place: &str, variables: &std::collections::BTreeMap<String, EnvValue>) {
        for (name, value) in variables {
            if let EnvValue::Text(text) = value {
                self.variable(&format!("{place}, variable `{name}`"), name, text);
            }
        }
    }

    fn variable(&mut self, place: &str, name: &str, text: &str) {
        if is_secret_name(name) && !without_placeholders(text).is_empty() {
            self.push(place, "a secret by its name", name);
        } else {
            self.text(place, name, text);
        }
    }

    fn text(&mut self, place: &str, name: &str, text: &str) {
        if let Some(kind) = looks_like_secret(text) {
            self.push(place, kind, name);
        }
    }

    fn push(&mut self, place: &str, kind: &'static str, name: &str) {
        let suggestion: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        self.errors
            .push(ManifestError::new(place, Problem::Secret { kind, suggestion }));
    }

    fn object(&mut self, place: &str, object: &serde_json::Map<String, Value>) {
        let mut entries: Vec<_> = object.iter().collect();
        entries.sort_by_key(|(key, _)| *key);
        for (key, value) in entries {
            self.value(&format!("{place}, `{key}`"), key, value, 0);
        }
    }

    fn value(&mut self, place: &str, name: &str, value: &Value, depth: usize) {
        match value {
            _ if depth > DEPTH_LIMIT => {}
            // createOptions set variables as `NAME=value`.
            Value::String(text) => match text.split_once('=') {
                Some((variable, assigned)) if name == "Env" => self.variable(place, variable, assigned),
                _ => self.text(place, name, text),
            },
            Value::Array(items) => items
                .iter()
                .for_each(|item| self.value(place, name, item, depth + 1)),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    self.value(&format!("{place}, `{key}`"), key, value, depth + 1);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Made up here; it opens nothing.
    const KEY: &str = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vQxYzTuI=";

    #[test]
    fn secrets() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(looks_like_secret(text), expected, "{text}");
        check("", None);
        check("info", None);
        check("${SHARED_KEY}", None);
        check("HostName=h;SharedAccessKeyName=n;SharedAccessKey=${KEY}", None);
        check(
            "HostName=h;SharedAccessKeyName=n;SharedAccessKey=abc",
            Some("a connection string with its key"),
        );
        check(
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abc==",
            Some("a connection string with its key"),
        );
        check(
            "SharedAccessSignature sr=h&sig=abc&se=1",
            Some("a shared access signature"),
        );
        check("SharedAccessSignature sr=h&sig=${SIG}&se=1", None);
        check("-----BEGIN RSA PRIVATE KEY-----\nabc", Some("a private key"));
        check("-----BEGIN PRIVATE KEY-----", Some("a private key"));
        check("-----BEGIN CERTIFICATE-----", None);
        check("rtsp://user:pass@camera/1", Some("an address with a password"));
        check("rtsp://user:${CAMERA_PASSWORD}@camera/1", None);
        check("rtsp://camera:554/user:pass@x", None);
        check("https://host/path", None);
        check(KEY, Some("a key in base64"));
        check(&format!("token {KEY} end"), Some("a key in base64"));
        check(&KEY[..39], None);
        check(
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            None,
        );
        check(
            "/usr/lib/aarch64-linux-gnu/tegra/libnvidia-Tools/Version36/plugins",
            None,
        );
        check(
            "/opt/models/surface-defects/Calibrated/Version12/evaluation/inputs",
            None,
        );
        check("${", None);
        check("${a b}", None);
    }

    #[test]
    fn names() {
        for name in [
            "MQTT_PASSWORD",
            "password",
            "CLIENT_SECRET",
            "API_KEY",
            "IotHubConnectionString",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["LOG_LEVEL", "SECRETS_PATH", "TOKENIZER", "KEY_FRAME"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_keys_are_found(bytes in proptest::array::uniform32(any::<u8>())) {
            const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            // Two digits per byte: 64 digits, well spread unless the bytes are very few different ones.
            let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
            prop_assume!(distinct > 28);
            let key: String = bytes
                .iter()
                .flat_map(|byte| [byte & 63, byte.wrapping_mul(37) >> 2])
                .map(|digit| char::from(DIGITS[usize::from(digit)]))
                .collect();
            prop_assert!(looks_like_secret(&key).is_some(), "{key}");
        }

        #[test]
        fn digests_and_any_text_are_answered(hex in "[0-9a-f]{64}", text in "\\PC{0,80}") {
            prop_assert_eq!(looks_like_secret(&format!("name@sha256:{hex}")), None);
            let _ = looks_like_secret(&text);
        }
    }
}
