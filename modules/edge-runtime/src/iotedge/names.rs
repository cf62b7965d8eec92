//! Topics and property bags of edgeHub.

/// Everything but letters, digits, `-`, `_`, `.` and `~` as `%XX`, as the official clients do it.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The inverse of [`encode`]; `+` stays `+`. What is no `%XX` stays as it is, and what is not UTF-8 becomes U+FFFD.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).and_then(|byte| (*byte as char).to_digit(16));
    let (mut decoded, mut index) = (Vec::with_capacity(bytes.len()), 0);
    while index < bytes.len() {
        match (bytes[index], digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                index += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// `key=value&…`, both encoded.
pub(super) fn bag(properties: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = properties
        .iter()
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    pairs.join("&")
}

/// The value of `key` in a bag.
pub(super) fn property(bag: &str, key: &str) -> Option<String> {
    bag.trim_end_matches('/').split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name) == key).then(|| decode(value))
    })
}

/// What a topic of the hub is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// `devices/{d}/modules/{m}/inputs/{input}/{bag}`
    Input { input: String, message_id: String },
    /// `$iothub/methods/POST/{name}/?$rid={rid}`
    Method { name: String, request: String },
    /// `$iothub/twin/res/{status}/?$rid={rid}`
    TwinAnswer { status: u16, request: String },
    /// `$iothub/twin/PATCH/properties/desired/?$version={v}`
    Desired { version: Option<u64> },
}

/// Reads a topic of the module `{device}/{module}`.
pub(super) fn incoming(topic: &str, device: &str, module: &str) -> Option<Incoming> {
    let question = |rest: &str, key: &str| property(rest.strip_prefix('?').unwrap_or(rest), key);
    if let Some(rest) = topic.strip_prefix("$iothub/methods/POST/") {
        let (name, rest) = rest.split_once('/')?;
        return Some(Incoming::Method {
            name: decode(name),
            request: question(rest, "$rid")?,
        });
    }
    if let Some(rest) = topic.strip_prefix("$iothub/twin/res/") {
        let (status, rest) = rest.split_once('/')?;
        return Some(Incoming::TwinAnswer {
            status: status.parse().ok()?,
            request: question(rest, "$rid")?,
        });
    }
    if let Some(rest) = topic.strip_prefix("$iothub/twin/PATCH/properties/desired/") {
        return Some(Incoming::Desired {
            version: question(rest, "$version").and_then(|version| version.parse().ok()),
        });
    }
    let rest = topic.strip_prefix(&format!("devices/{device}/modules/{module}/inputs/"))?;
    let (input, bag) = rest.split_once('/').unwrap_or((rest, ""));
    Some(Incoming::Input {
        input: decode(input),
        message_id: property(bag, "$.mid").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bags_are_the_official_clients() {
        // Seen on the wire from azure-iot-device 2.14.0.
        let properties = [
            ("$.on", "out1"),
            ("$.mid", "id 1"),
            ("$.ct", "application/json"),
            ("$.ce", "utf-8"),
            ("k y", "v&=/"),
        ];
        let expected = "%24.on=out1&%24.mid=id%201&%24.ct=application%2Fjson&%24.ce=utf-8&k%20y=v%26%3D%2F";
        assert_eq!(bag(&properties), expected);
        for (key, value) in properties {
            assert_eq!(property(expected, key).as_deref(), Some(value));
        }
        assert_eq!(property("a=1+1&b/", "a").as_deref(), Some("1+1"));
        assert_eq!(property("a=1&b/", "b").as_deref(), Some(""));
        assert_eq!(property("", "a"), None);
    }

    #[test]
    fn topics() {
        let of = |topic: &str| incoming(topic, "d", "m");
        let input = |input: &str, message_id: &str| {
            Some(Incoming::Input {
                input: input.into(),
                message_id: message_id.into(),
            })
        };
        assert_eq!(
            of("devices/d/modules/m/inputs/camera/%24.mid=7&%24.cdid=d"),
            input("camera", "7")
        );
        assert_eq!(of("devices/d/modules/m/inputs/camera/"), input("camera", ""));
        assert_eq!(of("devices/d/modules/m/inputs/camera"), input("camera", ""));
        let method = Incoming::Method {
            name: "ping".into(),
            request: "1a".into(),
        };
        assert_eq!(of("$iothub/methods/POST/ping/?$rid=1a"), Some(method));
        let answer = Incoming::TwinAnswer {
            status: 204,
            request: "3".into(),
        };
        assert_eq!(of("$iothub/twin/res/204/?$rid=3&$version=9"), Some(answer));
        let desired = |version| Some(Incoming::Desired { version });
        assert_eq!(
            of("$iothub/twin/PATCH/properties/desired/?$version=12"),
            desired(Some(12))
        );
        assert_eq!(of("$iothub/twin/PATCH/properties/desired/"), desired(None));
        for other in [
            "",
            "devices/d/modules/other/inputs/a/",
            "$iothub/methods/POST/ping",
            "$iothub/twin/res/x/?$rid=1",
            "$iothub/methods/POST/ping/?rid=1",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn decoding_is_the_inverse(text in ".{0,40}") {
            prop_assert_eq!(decode(&encode(&text)), text);
        }

        #[test]
        fn no_topic_panics(topic in r"(\$iothub/(methods/POST|twin/res|twin/PATCH/properties/desired)/)?[%$?&=a-z0-9/é]{0,30}") {
            incoming(&topic, "d", "m");
        }
    }
}
