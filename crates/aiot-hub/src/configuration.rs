//! Deployments as JSON of the service, and back.
//!
//! Source: the service's REST description, `Configuration` (API version 2021-04-12).

use std::collections::BTreeMap;
use std::sync::Arc;

use aiot_iothub::quiet::time_of_text;
use aiot_iothub::rollout::HubDeployment;
use serde::Deserialize;
use serde_json::{Value, json};

/// What is read of a configuration.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: String,
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    target_condition: Option<String>,
    #[serde(default)]
    priority: Option<u32>,
    #[serde(default)]
    labels: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    metrics: Option<Metrics>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    created_time_utc: Option<String>,
}

#[derive(Default, Deserialize)]
struct Metrics {
    #[serde(default)]
    queries: Option<BTreeMap<String, String>>,
}

/// The body of a creation or of an update; an update must bring the same content again.
pub fn to_json(deployment: &HubDeployment) -> Value {
    let mut body = json!({
        "id": deployment.id,
        "schemaVersion": "2.0",
        "labels": deployment.labels,
        "content": *deployment.content,
        "targetCondition": deployment.condition,
        "priority": deployment.priority,
        "metrics": { "results": {}, "queries": deployment.metrics },
    });
    if !deployment.etag.is_empty() {
        body["etag"] = deployment.etag.as_str().into();
    }
    body
}

/// The deployments of edge devices among a hub's configurations; those for plain devices are left out.
///
/// # Errors
/// What is not as the service describes it.
pub fn list_of_json(bytes: &[u8]) -> Result<Vec<HubDeployment>, String> {
    let list: Vec<Wire> =
        serde_json::from_slice(bytes).map_err(|error| format!("the list of configurations: {error}"))?;
    Ok(list.into_iter().filter_map(of_wire).collect())
}

/// One configuration; none: it is not for edge devices.
///
/// # Errors
/// As [`list_of_json`].
pub fn of_json(bytes: &[u8]) -> Result<Option<HubDeployment>, String> {
    let one: Wire = serde_json::from_slice(bytes).map_err(|error| format!("a configuration: {error}"))?;
    Ok(of_wire(one))
}

fn of_wire(wire: Wire) -> Option<HubDeployment> {
    let content = wire.content?;
    content
        .get("modulesContent")
        .filter(|modules| modules.is_object())?;
    Some(HubDeployment {
        id: wire.id,
        content: Arc::new(content),
        condition: wire.target_condition.unwrap_or_default(),
        priority: wire.priority.unwrap_or_default(),
        labels: wire
            .labels
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
        metrics: wire
            .metrics
            .and_then(|metrics| metrics.queries)
            .unwrap_or_default(),
        etag: wire.etag.unwrap_or_default(),
        created_secs: wire
            .created_time_utc
            .and_then(|text| time_of_text(&text))
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let deployment = HubDeployment {
            id: "prod-a".to_owned(),
            content: Arc::new(json!({"modulesContent": {"$edgeAgent": {}}})),
            condition: "tags.a = 'b'".to_owned(),
            priority: 7,
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            metrics: BTreeMap::from([("m".to_owned(), "SELECT deviceId FROM devices".to_owned())]),
            etag: "MQ==".to_owned(),
            created_secs: 0,
        };
        let bytes = to_json(&deployment).to_string();
        assert_eq!(of_json(bytes.as_bytes()), Ok(Some(deployment)));
    }

    #[test]
    fn answers_of_the_service() {
        let check =
            |text: &str, expected: Result<usize, &str>| match (list_of_json(text.as_bytes()), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.len(), expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            };
        check("[]", Ok(0));
        // For plain devices, without content, and nulls wherever the service writes them.
        check(r#"[{"id":"a","content":{"deviceContent":{}}},{"id":"b"}]"#, Ok(0));
        check(
            r#"[{"id":"a","schemaVersion":null,"labels":null,"content":{"modulesContent":{}},"targetCondition":null,
                 "priority":0,"metrics":{"results":{},"queries":null},"etag":null,"systemMetrics":{}}]"#,
            Ok(1),
        );
        check(r#"{"a":1}"#, Err("list of configurations"));
        check(r#"[{"id":"a","priority":-1}]"#, Err("list of configurations"));
        let one = of_json(
            br#"{"id":"a","content":{"modulesContent":{}},"createdTimeUtc":"2021-07-07T20:47:33.5Z"}"#,
        );
        assert_eq!(one.unwrap().unwrap().created_secs, 1_625_690_853);
    }
}
