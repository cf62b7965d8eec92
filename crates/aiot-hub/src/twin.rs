//! Rows of queries over twins → devices.
//!
//! A row is a projection (the names of [`AGENTS`]) or a whole twin; both are read, since a hub that refuses the
//! projection is asked for whole twins.

use std::collections::{BTreeMap, BTreeSet};

use aiot_iothub::rollout::{Agent, Device, ModuleReport, RuntimeStatus};
use serde::Deserialize;
use serde_json::Value;

use crate::loose::{Flag, Map, Number, Part, Text};

/// All edge devices with their tags.
pub const DEVICES: &str = "SELECT deviceId, etag, tags FROM devices WHERE capabilities.iotEdge = true";

/// What all edge agents say.
pub const AGENTS: &str = "SELECT deviceId, configurations, properties.desired.$version AS desiredVersion, \
                          properties.reported.lastDesiredVersion AS reportedVersion, \
                          properties.reported.lastDesiredStatus AS status, \
                          properties.reported.systemModules AS systemModules, \
                          properties.reported.modules AS modules \
                          FROM devices.modules WHERE moduleId = '$edgeAgent'";

/// Modules of ours that say that something is wrong. Only these are asked for: with 30 modules a device, all of them
/// would be hours of pages at 20 a minute.
pub const TROUBLES: &str = "SELECT deviceId, moduleId, properties.reported.selfCheck AS selfCheck, \
                            properties.reported.drift AS drift FROM devices.modules \
                            WHERE properties.reported.selfCheck.passed = false \
                            OR properties.reported.drift.drifting = true";

/// The same query for whole twins.
pub fn whole(query: &str) -> String {
    match query.find(" FROM ") {
        Some(from) => format!("SELECT *{}", &query[from..]),
        None => query.to_owned(),
    }
}

/// A row of [`DEVICES`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    device_id: String,
    #[serde(default)]
    etag: Text,
    #[serde(default)]
    tags: Value,
}

/// A row of [`AGENTS`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentRow {
    device_id: String,
    configurations: Map<Part<ConfigurationState>>,
    desired_version: Number,
    reported_version: Number,
    // The twin's own `status`, enabled or disabled, is a text and so reads as nothing.
    status: Part<Status>,
    system_modules: Map<Part<ModuleRow>>,
    modules: Map<Part<ModuleRow>>,
    properties: Part<Properties>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigurationState {
    status: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: Number,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ModuleRow {
    settings: Part<Settings>,
    runtime_status: Text,
    restart_count: Number,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    image: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Properties {
    desired: Part<Desired>,
    reported: Part<Reported>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Desired {
    #[serde(rename = "$version")]
    version: Number,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reported {
    last_desired_version: Number,
    last_desired_status: Part<Status>,
    system_modules: Map<Part<ModuleRow>>,
    modules: Map<Part<ModuleRow>>,
    self_check: Part<SelfCheck>,
    drift: Part<Drift>,
}

/// A row of [`TROUBLES`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TroubleRow {
    device_id: String,
    module_id: String,
    self_check: Part<SelfCheck>,
    drift: Part<Drift>,
    properties: Part<Properties>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SelfCheck {
    passed: Flag,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Drift {
    drifting: Flag,
}

impl ModuleRow {
    fn report(self) -> ModuleReport {
        ModuleReport {
            image: self.settings.0.image.0.unwrap_or_default(),
            status: RuntimeStatus::of(self.runtime_status.0.as_deref().unwrap_or_default()),
            restart_count: self
                .restart_count
                .0
                .map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
            self_check: None,
            drifting: false,
        }
    }
}

impl AgentRow {
    fn agent(self) -> (String, Agent) {
        let Properties { desired, reported } = self.properties.0;
        let reported = reported.0;
        let mut modules: BTreeMap<String, ModuleReport> = BTreeMap::new();
        for rows in [
            self.system_modules,
            self.modules,
            reported.system_modules,
            reported.modules,
        ] {
            modules.extend(rows.0.into_iter().map(|(name, row)| (name, row.0.report())));
        }
        let code = self.status.0.code.0.or(reported.last_desired_status.0.code.0);
        let deployments: BTreeSet<String> = self.configurations.0.into_keys().collect();
        let agent = Agent {
            desired_version: self.desired_version.0.or(desired.0.version.0).unwrap_or_default(),
            reported_version: self
                .reported_version
                .0
                .or(reported.last_desired_version.0)
                .unwrap_or_default(),
            code: code.map_or(0, |code| u32::try_from(code).unwrap_or(u32::MAX)),
            deployments,
            modules,
        };
        (self.device_id, agent)
    }
}

/// Devices while their rows come in: first those of [`DEVICES`] and [`TROUBLES`], then those of [`AGENTS`], each of which
/// completes a device.
#[derive(Debug, Default)]
pub struct Devices {
    /// Those whose agent was not seen yet.
    waiting: BTreeMap<String, Device>,
    /// Device and module → what its self-check says, and whether it drifts.
    troubles: BTreeMap<(String, String), (Option<bool>, bool)>,
}

impl Devices {
    /// Takes rows of [`DEVICES`].
    pub fn add(&mut self, rows: Vec<DeviceRow>) {
        for row in rows {
            let device = Device {
                id: row.device_id.clone(),
                tags: row.tags,
                etag: row.etag.0.unwrap_or_default(),
                agent: Agent::default(),
            };
            self.waiting.insert(row.device_id, device);
        }
    }

    /// Takes rows of [`TROUBLES`].
    pub fn add_troubles(&mut self, rows: Vec<TroubleRow>) {
        for row in rows {
            let reported = row.properties.0.reported.0;
            let self_check = row.self_check.0.passed.0.or(reported.self_check.0.passed.0);
            let drifting = row.drift.0.drifting.0.or(reported.drift.0.drifting.0) == Some(true);
            self.troubles
                .insert((row.device_id, row.module_id), (self_check, drifting));
        }
    }

    /// The devices of rows of [`AGENTS`]; those that came to the hub meanwhile are left out.
    pub fn complete(&mut self, rows: Vec<AgentRow>) -> Vec<Device> {
        let complete = |row: AgentRow| {
            let (id, mut agent) = row.agent();
            let device = self.waiting.remove(&id)?;
            for (module, report) in &mut agent.modules {
                if let Some(trouble) = self.troubles.get(&(id.clone(), module.clone())) {
                    (report.self_check, report.drifting) = *trouble;
                }
            }
            Some(Device { agent, ..device })
        };
        rows.into_iter().filter_map(complete).collect()
    }

    /// Those whose agent the hub does not know, by id.
    pub fn into_rest(self) -> Vec<Device> {
        self.waiting.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(device: Value, agent: Value, trouble: Value) -> Device {
        let mut devices = Devices::default();
        devices.add(serde_json::from_value(json!([device])).unwrap());
        devices.add_troubles(serde_json::from_value(json!([trouble])).unwrap());
        devices
            .complete(serde_json::from_value(json!([agent])).unwrap())
            .remove(0)
    }

    #[test]
    fn projections_and_twins_say_the_same() {
        let module = json!({
            "settings": {"image": "r/m@sha256:0", "createOptions": "{}"}, "runtimeStatus": "running",
            "restartCount": 2, "exitCode": 0,
        });
        let device = json!({"deviceId": "d", "tags": {"ring": "canary"}});
        let configurations = json!({"prod-a": {"status": "Applied"}});
        let projected = read(
            device.clone(),
            json!({"deviceId": "d", "configurations": configurations, "desiredVersion": 4, "reportedVersion": 3,
                   "status": {"code": 200}, "modules": {"m": module}, "systemModules": {"edgeHub": module}}),
            json!({"deviceId": "d", "moduleId": "m", "selfCheck": {"passed": false}, "drift": null}),
        );
        let twin = read(
            device,
            json!({"deviceId": "d", "moduleId": "$edgeAgent", "status": "enabled", "configurations": configurations,
                   "properties": {"desired": {"$version": 4}, "reported": {"lastDesiredVersion": 3,
                   "lastDesiredStatus": {"code": 200}, "modules": {"m": module}, "systemModules": {"edgeHub": module}}}}),
            json!({"deviceId": "d", "moduleId": "m", "properties": {"reported": {"selfCheck": {"passed": false}}}}),
        );
        assert_eq!(projected, twin);
        assert_eq!((twin.agent.desired_version, twin.agent.reported_version), (4, 3));
        assert_eq!(
            (twin.agent.code, twin.tags["ring"].as_str()),
            (200, Some("canary"))
        );
        let report = &twin.agent.modules["m"];
        assert_eq!((report.status, report.restart_count), (RuntimeStatus::Running, 2));
        assert_eq!((report.self_check, report.drifting), (Some(false), false));
        assert!(twin.agent.deployments.contains("prod-a"));
    }

    #[test]
    fn whole_twins_are_the_same_question() {
        assert_eq!(
            whole(DEVICES),
            "SELECT * FROM devices WHERE capabilities.iotEdge = true"
        );
        assert!(whole(AGENTS).ends_with("FROM devices.modules WHERE moduleId = '$edgeAgent'"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            "settings|image|runtimeStatus|restartCount|code|passed|m",
            "[a-z]{0,3}"
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever a device reports, its row is read, and so are the others.
        #[test]
        fn odd_reports_hide_nothing(
            values in prop::collection::vec(any_json(), 6),
        ) {
            let agent = json!({
                "deviceId": "d", "configurations": values[0], "desiredVersion": values[1], "status": values[2],
                "modules": values[3], "systemModules": values[4], "properties": values[5],
            });
            let rows: Result<Vec<AgentRow>, _> = serde_json::from_str(&format!("[{agent}]"));
            prop_assert!(rows.is_ok(), "{:?}", rows.err());
            let trouble = json!({"deviceId": "d", "moduleId": "m", "selfCheck": values[0], "drift": values[1],
                "properties": values[2]});
            let rows: Result<Vec<TroubleRow>, _> = serde_json::from_str(&format!("[{trouble}]"));
            prop_assert!(rows.is_ok(), "{:?}", rows.err());
        }
    }
}
