//! Deployments of real hubs, as Microsoft's repositories show them: read and written again without loss.
//!
//! The files are other people's and not in this repository. With a folder of them:
//! `AIOT_TEST_SAMPLES=DIR cargo test -p aiot-iothub --test samples -- --ignored`

use std::collections::BTreeMap;
use std::path::Path;

use aiot_iothub::{Condition, create_options, merge, route};
use serde_json::{Map, Value, json};

/// What was found in the files.
#[derive(Debug, Default)]
struct Found {
    deployments: usize,
    conditions: usize,
    create_options: usize,
    routes: usize,
}

/// Every object of every JSON file below a folder.
fn objects(folder: &Path, visit: &mut dyn FnMut(&Map<String, Value>)) {
    fn each(value: &Value, visit: &mut dyn FnMut(&Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                visit(object);
                object.values().for_each(|value| each(value, visit));
            }
            Value::Array(list) => list.iter().for_each(|value| each(value, visit)),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            objects(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            each(
                &serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap(),
                visit,
            );
        }
    }
}

#[test]
#[ignore = "needs AIOT_TEST_SAMPLES, a folder of other people's files"]
fn what_others_wrote_is_read_and_written_again() {
    let folder = std::env::var_os("AIOT_TEST_SAMPLES").expect("AIOT_TEST_SAMPLES names a folder");
    let mut found = Found::default();
    objects(Path::new(&folder), &mut |object| {
        if let Some(Value::String(text)) = object.get("targetCondition")
            && object.contains_key("content")
        {
            // On a hub no text means no device; there is nothing to read.
            if text.is_empty() {
                return;
            }
            let condition: Condition = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let again: Condition = condition.to_string().parse().unwrap();
            assert_eq!(condition, again, "{text}");
            found.conditions += 1;
        }
        if object.get("modulesContent").is_some_and(Value::is_object) {
            let content = Value::Object(object.clone());
            // One deployment alone is what a device gets, and that as a deployment is the same again.
            let merged = merge(&content, &[]).unwrap();
            let again = merge(&merged.to_content(), &[]).unwrap();
            assert_eq!(merged, again);
            assert_eq!(
                json!({ "modulesContent": merged.to_content()["modulesContent"] }),
                content
            );
            found.deployments += 1;
        }
        if let Some(Value::String(first)) = object.get("createOptions") {
            let mut pieces = BTreeMap::from([("createOptions".to_owned(), first.clone())]);
            for (name, value) in object
                .iter()
                .filter(|(name, _)| name.starts_with("createOptions0"))
            {
                pieces.insert(name.clone(), value.as_str().unwrap().to_owned());
            }
            let options = create_options::join(&pieces).unwrap();
            let again = create_options::join(&create_options::split(&options).unwrap()).unwrap();
            assert_eq!(options, again);
            found.create_options += 1;
        }
        if let Some(Value::Object(routes)) = object.get("routes") {
            for value in routes.values() {
                let text = value.as_str().or_else(|| value["route"].as_str());
                let Some(text) = text.filter(|text| text.starts_with("FROM")) else {
                    continue;
                };
                route::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
                found.routes += 1;
            }
        }
    });
    println!("{found:?}");
    assert!(found.deployments > 0 && found.conditions > 0 && found.create_options > 0);
}
