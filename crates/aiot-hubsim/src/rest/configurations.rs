//! `/configurations`: deployments as the service writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aiot_iothub::Condition;
use aiot_iothub::quiet::time_text;
use aiot_iothub::rollout::HubDeployment;
use serde_json::{Map, Value, json};

use super::{Reply, Request, Simulator, body_of, error, if_match, ok, twins};
use crate::query::Query;
use crate::service::ServiceError;

/// What the service gives back as it was written, and when that was: by id, schema version and time of the last update.
pub(super) type Written = BTreeMap<String, (Value, u64)>;

pub(super) fn route(hub: &mut Simulator, request: &Request, parts: &[&str]) -> Result<Reply, ServiceError> {
    match (request.method.as_str(), parts) {
        ("GET", [] | [""]) => {
            let top = request
                .query
                .split('&')
                .find_map(|part| part.strip_prefix("top=")?.parse::<usize>().ok())
                .unwrap_or(usize::MAX);
            let list = hub.service.list()?;
            let list = list.iter().take(top).map(|one| wire(hub, one, false));
            Ok(ok(&list.collect()))
        }
        ("POST", ["testQueries"]) => test_queries(&body_of(request)?),
        ("GET", [id]) => {
            let one = hub.service.peek().find(|one| one.id == *id).cloned();
            let one = one.ok_or_else(|| missing(id))?;
            Ok(tagged(ok(&wire(hub, &one, true)), &one.etag))
        }
        ("PUT", [id]) => {
            let body = body_of(request)?;
            let wanted = read(&body, id)?;
            let stored = hub.service.put(&wanted, if_match(request))?;
            let now_secs = hub.service.now_secs;
            hub.written
                .insert((*id).to_owned(), (body["schemaVersion"].clone(), now_secs));
            Ok(tagged(ok(&wire(hub, &stored, false)), &stored.etag))
        }
        ("DELETE", [id]) => {
            hub.service.delete(id, if_match(request))?;
            hub.written.remove(*id);
            Ok(Reply {
                status: 204,
                ..Reply::default()
            })
        }
        _ => Err(error(
            405,
            "InvalidOperation",
            "no such operation on configurations",
        )),
    }
}

fn missing(id: &str) -> ServiceError {
    error(
        404,
        "ConfigurationNotFound",
        format!("configuration `{id}` is not there"),
    )
}

fn tagged(mut reply: Reply, etag: &str) -> Reply {
    reply.headers.insert("etag".to_owned(), format!("\"{etag}\""));
    reply
}

fn read(body: &Value, id: &str) -> Result<HubDeployment, ServiceError> {
    let invalid = |what: &str| error(400, "ArgumentInvalid", what.to_owned());
    if body["id"].as_str() != Some(id) {
        return Err(invalid("id in the body is not the one in the path"));
    }
    let texts = |value: &Value| -> Option<BTreeMap<String, String>> {
        match value {
            Value::Null => Some(BTreeMap::new()),
            Value::Object(map) => map
                .iter()
                .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            _ => None,
        }
    };
    let metrics = texts(&body["metrics"]["queries"]).ok_or_else(|| invalid("metrics.queries"))?;
    for query in metrics.values() {
        Query::parse(query).map_err(|reason| error(400, "InvalidConfigurationCustomMetricsQuery", reason))?;
    }
    Ok(HubDeployment {
        id: id.to_owned(),
        content: Arc::new(body["content"].clone()),
        condition: match &body["targetCondition"] {
            Value::Null => String::new(),
            value => value
                .as_str()
                .ok_or_else(|| invalid("targetCondition"))?
                .to_owned(),
        },
        priority: match &body["priority"] {
            Value::Null => 0,
            value => value
                .as_u64()
                .and_then(|priority| u32::try_from(priority).ok())
                .ok_or_else(|| invalid("priority"))?,
        },
        labels: texts(&body["labels"]).ok_or_else(|| invalid("labels"))?,
        metrics,
        etag: String::new(),
        created_secs: 0,
    })
}

/// The wire form; counts only where one is asked for by id, since they are a query each.
fn wire(hub: &Simulator, one: &HubDeployment, with_results: bool) -> Value {
    let (schema, updated_secs) = hub
        .written
        .get(&one.id)
        .cloned()
        .unwrap_or((Value::Null, one.created_secs));
    let id = &one.id;
    let applied = format!(
        "select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[{id}]].status = 'Applied'"
    );
    let current = "properties.desired.$version = properties.reported.lastDesiredVersion and properties.reported.lastDesiredStatus.code";
    let targeted = match one.condition.as_str() {
        "" => String::new(),
        "*" => "select deviceId from devices where capabilities.iotEdge = true".to_owned(),
        condition => {
            format!("select deviceId from devices where capabilities.iotEdge = true and ({condition})")
        }
    };
    let system = BTreeMap::from([
        ("targetedCount".to_owned(), targeted),
        (
            "reportedSuccessfulCount".to_owned(),
            format!("{applied} and {current} = 200"),
        ),
        (
            "reportedFailedCount".to_owned(),
            format!("{applied} and {current} != 200"),
        ),
        ("appliedCount".to_owned(), applied),
    ]);
    let metrics = |queries: &BTreeMap<String, String>| {
        let mut results = Map::new();
        for (name, query) in queries.iter().filter(|_| with_results) {
            let count = Query::parse(query).map_or(0, |query| twins::count(hub, &query));
            results.insert(name.clone(), count.into());
        }
        json!({ "results": results, "queries": queries })
    };
    json!({
        "id": id, "schemaVersion": schema, "labels": one.labels, "content": *one.content,
        "contentType": "assignment", "targetCondition": one.condition,
        "createdTimeUtc": time_text(one.created_secs), "lastUpdatedTimeUtc": time_text(updated_secs),
        "priority": one.priority, "systemMetrics": metrics(&system), "metrics": metrics(&one.metrics),
        "etag": one.etag,
    })
}

fn test_queries(body: &Value) -> Result<Reply, ServiceError> {
    let condition = body["targetCondition"].as_str().unwrap_or_default();
    let wrong = match condition {
        "" => None,
        text => text.parse::<Condition>().err().map(|reason| reason.to_string()),
    };
    let mut metrics = Map::new();
    for (name, query) in body["customMetricQueries"].as_object().into_iter().flatten() {
        let text = query.as_str().unwrap_or_default();
        if let Err(reason) = Query::parse(text) {
            metrics.insert(name.clone(), reason.into());
        }
    }
    Ok(ok(
        &json!({ "targetConditionError": wrong, "customMetricQueryErrors": metrics }),
    ))
}
