//! What can be changed while the module runs, from the desired properties of its twin.
//!
//! | property | value | means |
//! | --- | --- | --- |
//! | `threshold` | number | in place of the package's |
//! | `sampleEvery` | 1 to 1 000 000 | of the inputs that nobody waits for, only each n-th is predicted |
//! | `logLevel` | `error`, `warning`, `info` | what is logged |
//! | `reportEveryS` | 10 to 86 400 | seconds between two reports to the twin |
//! | `sinks` | `{"edge-hub": false, …}` | which declared sinks get predictions |
//! | `drift` | `{"enabled": true, "window": 500, "windows": 2, "floor": 0.1, "alarmRate": 0.01}` | how inputs are compared with the evaluation set |
//! | `capture` | `{"enabled": true, "perHour": 60}` | keep inputs in the declared folder, so many an hour |
//! | `shadow` | `{"share": 0.1}` | share of the inputs that the image's challenger sees |
//!
//! A value that is no good is refused, said in the reported properties, and the old one stays.

use std::collections::BTreeMap;

use aiot_package::DriftSpec;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::capture::CaptureTuning;
use super::shadow::ShadowTuning;
use crate::log::Level;

/// Seconds between two reports unless the twin says otherwise.
pub(crate) const REPORT_EVERY_S: u32 = 300;

/// Properties that are refused by name at most; the twin of a module is small.
const MAX_REFUSED: usize = 16;

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tuning {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threshold: Option<f32>,
    pub(crate) sample_every: u32,
    pub(crate) log_level: Level,
    pub(crate) report_every_s: u32,
    /// By declared sink.
    pub(crate) sinks: BTreeMap<String, bool>,
    #[serde(serialize_with = "camel_case")]
    pub(crate) drift: DriftSpec,
    pub(crate) capture: CaptureTuning,
    /// Where the image has a challenger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shadow: Option<ShadowTuning>,
    /// Whether a folder for captured inputs is declared.
    #[serde(skip)]
    pub(crate) can_capture: bool,
}

/// The twin's names are in camel case, those of `models.toml` are not.
fn camel_case<S: Serializer>(drift: &DriftSpec, serializer: S) -> Result<S::Ok, S::Error> {
    let DriftSpec {
        enabled,
        window,
        windows,
        floor,
        alarm_rate,
    } = drift;
    json!({"enabled": enabled, "window": window, "windows": windows, "floor": floor, "alarmRate": alarm_rate})
        .serialize(serializer)
}

impl Tuning {
    /// As declared, with `sinks` on.
    pub(crate) fn new(sinks: impl IntoIterator<Item = String>) -> Tuning {
        Tuning {
            threshold: None,
            sample_every: 1,
            log_level: Level::Info,
            report_every_s: REPORT_EVERY_S,
            sinks: sinks.into_iter().map(|sink| (sink, true)).collect(),
            drift: DriftSpec::default(),
            capture: CaptureTuning::default(),
            shadow: None,
            can_capture: false,
        }
    }

    pub(crate) fn is_on(&self, sink: &str) -> bool {
        self.sinks.get(sink).copied().unwrap_or(true)
    }

    /// What `desired` makes of these settings, and what of it is refused and why. A property that is not there goes
    /// back to what `declared` says; one that is refused stays as it is.
    pub(crate) fn desired(
        &self,
        declared: &Tuning,
        desired: &Map<String, Value>,
    ) -> (Tuning, BTreeMap<String, String>) {
        let mut tuning = declared.clone();
        let mut refused = BTreeMap::new();
        let mut refuse = |name: &str, why: String| {
            if refused.len() < MAX_REFUSED {
                let name: String = name.chars().take(64).collect();
                refused.insert(name, why);
            }
        };
        for (name, value) in desired {
            match name.as_str() {
                "threshold" => match value
                    .as_f64()
                    .map(|number| number as f32)
                    .filter(|number| number.is_finite())
                {
                    Some(number) => tuning.threshold = Some(number),
                    None => {
                        tuning.threshold = self.threshold;
                        refuse(name, "a number is wanted".to_owned());
                    }
                },
                "sampleEvery" => match whole(value, 1, 1_000_000) {
                    Ok(number) => tuning.sample_every = number,
                    Err(why) => {
                        tuning.sample_every = self.sample_every;
                        refuse(name, why);
                    }
                },
                "reportEveryS" => match whole(value, 10, 86_400) {
                    Ok(number) => tuning.report_every_s = number,
                    Err(why) => {
                        tuning.report_every_s = self.report_every_s;
                        refuse(name, why);
                    }
                },
                "logLevel" => match value.as_str().and_then(Level::of) {
                    Some(level) => tuning.log_level = level,
                    None => {
                        tuning.log_level = self.log_level;
                        refuse(name, "`error`, `warning` or `info` is wanted".to_owned());
                    }
                },
                "sinks" => {
                    let Some(sinks) = value.as_object() else {
                        tuning.sinks.clone_from(&self.sinks);
                        refuse(name, "an object of true and false by sink is wanted".to_owned());
                        continue;
                    };
                    for (sink, on) in sinks {
                        match (declared.sinks.contains_key(sink), on.as_bool()) {
                            (true, Some(on)) => {
                                tuning.sinks.insert(sink.clone(), on);
                            }
                            (true, None) => {
                                tuning.sinks.insert(sink.clone(), self.is_on(sink));
                                refuse(&format!("sinks/{sink}"), "true or false is wanted".to_owned());
                            }
                            (false, _) => {
                                refuse(&format!("sinks/{sink}"), "no such sink is declared".to_owned())
                            }
                        }
                    }
                }
                "drift" => {
                    let Some(wanted) = value.as_object() else {
                        tuning.drift = self.drift;
                        refuse(name, "an object is wanted".to_owned());
                        continue;
                    };
                    for (key, value) in wanted {
                        match drift_with(tuning.drift, key, value) {
                            Ok(drift) => tuning.drift = drift,
                            Err(why) => {
                                restore(&mut tuning.drift, &self.drift, key);
                                refuse(&format!("drift/{key}"), why);
                            }
                        }
                    }
                }
                "capture" => match self.capture_with(declared, value) {
                    Ok(capture) => tuning.capture = capture,
                    Err(why) => {
                        tuning.capture = self.capture;
                        refuse(name, why);
                    }
                },
                "shadow" => match self.shadow_with(declared, value) {
                    Ok(shadow) => tuning.shadow = Some(shadow),
                    Err(why) => {
                        tuning.shadow = self.shadow;
                        refuse(name, why);
                    }
                },
                other if other.starts_with('$') => {}
                other => refuse(other, "there is no such property".to_owned()),
            }
        }
        (tuning, refused)
    }

    fn capture_with(&self, declared: &Tuning, value: &Value) -> Result<CaptureTuning, String> {
        let wanted = value
            .as_object()
            .ok_or_else(|| "an object is wanted".to_owned())?;
        let mut capture = declared.capture;
        for (key, value) in wanted {
            match key.as_str() {
                "enabled" => {
                    capture.enabled = value
                        .as_bool()
                        .ok_or_else(|| "enabled: true or false is wanted".to_owned())?;
                }
                "perHour" => {
                    capture.per_hour = whole(value, 1, 3600).map_err(|why| format!("perHour: {why}"))?;
                }
                _ => return Err("only `enabled` and `perHour` are known".to_owned()),
            }
        }
        if capture.enabled && !self.can_capture {
            return Err("no folder is declared: `edge.capture.directory` in models.toml".to_owned());
        }
        Ok(capture)
    }

    fn shadow_with(&self, declared: &Tuning, value: &Value) -> Result<ShadowTuning, String> {
        let mut shadow = declared
            .shadow
            .ok_or_else(|| "the image has no challenger".to_owned())?;
        let wanted = value
            .as_object()
            .ok_or_else(|| "an object is wanted".to_owned())?;
        for (key, value) in wanted {
            if key != "share" {
                return Err("only `share` is known".to_owned());
            }
            shadow.share = value
                .as_f64()
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| "share: a number from 0 to 1 is wanted".to_owned())?;
        }
        Ok(shadow)
    }
}

/// `drift` with one of its settings from the twin.
fn drift_with(mut drift: DriftSpec, key: &str, value: &Value) -> Result<DriftSpec, String> {
    let number = || value.as_f64().ok_or_else(|| "a number is wanted".to_owned());
    match key {
        "enabled" => {
            drift.enabled = value
                .as_bool()
                .ok_or_else(|| "true or false is wanted".to_owned())?;
        }
        "window" => drift.window = whole(value, 0, u32::MAX)?,
        "windows" => drift.windows = whole(value, 0, u32::MAX)?,
        "floor" => drift.floor = number()?,
        "alarmRate" => drift.alarm_rate = number()?,
        _ => return Err("there is no such property".to_owned()),
    }
    match drift.problem() {
        None => Ok(drift),
        Some((_, wanted)) => Err(wanted.to_owned()),
    }
}

/// Takes one setting from `old`.
fn restore(drift: &mut DriftSpec, old: &DriftSpec, key: &str) {
    match key {
        "enabled" => drift.enabled = old.enabled,
        "window" => drift.window = old.window,
        "windows" => drift.windows = old.windows,
        "floor" => drift.floor = old.floor,
        "alarmRate" => drift.alarm_rate = old.alarm_rate,
        _ => {}
    }
}

fn whole(value: &Value, least: u32, most: u32) -> Result<u32, String> {
    value
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("a whole number from {least} to {most} is wanted"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn declared() -> Tuning {
        let mut declared = Tuning::new(["edge-hub".to_owned(), "stdout".to_owned()]);
        declared.shadow = Some(ShadowTuning { share: 0.1 });
        declared
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn good_values_are_taken_and_missing_ones_go_back() {
        let desired = object(json!({
            "threshold": 0.75, "sampleEvery": 10, "logLevel": "warning", "reportEveryS": 60,
            "drift": {"window": 100, "floor": 0, "enabled": false}, "sinks": {"stdout": false}, "shadow": {"share": 0},
            "$version": 4, "$metadata": {},
        }));
        let (tuning, refused) = declared().desired(&declared(), &desired);
        assert_eq!(refused, BTreeMap::new());
        assert_eq!(
            (tuning.threshold, tuning.sample_every, tuning.report_every_s),
            (Some(0.75), 10, 60)
        );
        let drift = DriftSpec {
            enabled: false,
            window: 100,
            floor: 0.0,
            ..DriftSpec::default()
        };
        assert_eq!(tuning.drift, drift);
        assert_eq!(tuning.shadow, Some(ShadowTuning { share: 0.0 }));
        assert_eq!(
            (tuning.log_level, tuning.is_on("stdout"), tuning.is_on("edge-hub")),
            (Level::Warning, false, true)
        );
        let (back, _) = tuning.desired(&declared(), &Map::new());
        assert_eq!(back, declared());
    }

    #[test]
    fn bad_values_are_refused_and_the_old_ones_stay() {
        let (old, _) = declared().desired(
            &declared(),
            &object(
                json!({"threshold": 0.5, "sampleEvery": 3, "logLevel": "error", "sinks": {"stdout": false}}),
            ),
        );
        for (bad, name) in [
            (json!({"threshold": "high"}), "threshold"),
            (json!({"threshold": null}), "threshold"),
            (json!({"threshold": 1e300}), "threshold"),
            (json!({"sampleEvery": 0}), "sampleEvery"),
            (json!({"sampleEvery": 1.5}), "sampleEvery"),
            (json!({"sampleEvery": -1}), "sampleEvery"),
            (json!({"reportEveryS": 1}), "reportEveryS"),
            (json!({"logLevel": "loud"}), "logLevel"),
            (json!({"sinks": true}), "sinks"),
            (json!({"sinks": {"stdout": 1}}), "sinks/stdout"),
            (json!({"sinks": {"kafka": true}}), "sinks/kafka"),
            (json!({"treshold": 0.5}), "treshold"),
            (json!({"drift": false}), "drift"),
            (json!({"capture": true}), "capture"),
            (json!({"capture": {"enabled": true}}), "capture"),
            (json!({"capture": {"perHour": 0}}), "capture"),
            (json!({"capture": {"per-hour": 5}}), "capture"),
            (json!({"shadow": 0.5}), "shadow"),
            (json!({"shadow": {"share": 1.5}}), "shadow"),
            (json!({"shadow": {"rate": 0.5}}), "shadow"),
            (json!({"drift": {"window": 5}}), "drift/window"),
            (json!({"drift": {"window": 1e3}}), "drift/window"),
            (json!({"drift": {"enabled": 1}}), "drift/enabled"),
            (json!({"drift": {"alarmRate": 0}}), "drift/alarmRate"),
            (json!({"drift": {"alarm-rate": 0.1}}), "drift/alarm-rate"),
        ] {
            let mut desired = object(json!({
                "threshold": 0.5, "sampleEvery": 3, "logLevel": "error", "sinks": {"stdout": false},
            }));
            desired.extend(object(bad.clone()));
            let (tuning, refused) = old.desired(&declared(), &desired);
            assert_eq!(refused.keys().collect::<Vec<_>>(), [name], "{bad}");
            if name != "sinks/kafka" {
                assert_eq!(tuning, old, "{bad}");
            }
        }
    }

    #[test]
    fn without_a_challenger_its_share_is_refused() {
        let declared = Tuning::new([]);
        let (tuning, refused) = declared.desired(&declared, &object(json!({"shadow": {"share": 0.5}})));
        assert_eq!(tuning, declared);
        assert_eq!(refused["shadow"], "the image has no challenger");
    }

    #[test]
    fn many_mistakes_take_little_room() {
        let desired: Map<String, Value> = (0..500)
            .map(|n| (format!("{n}-{}", "x".repeat(500)), Value::Null))
            .collect();
        let (_, refused) = declared().desired(&declared(), &desired);
        assert_eq!(refused.len(), MAX_REFUSED);
        assert!(refused.keys().all(|name| name.len() <= 64));
    }

    proptest! {
        #[test]
        fn any_value_is_taken_or_refused(name in "threshold|sampleEvery|reportEveryS|logLevel|sinks|drift|capture|shadow|other", text in r#"(-?[0-9]{1,20}(\.[0-9]{1,5})?|"[a-z]{0,8}"|null|true|\{"stdout":(true|1)\}|\{"(enabled|window|floor|perHour|share)":(true|-?[0-9]{1,20}|"a"|null)\})"#) {
            let value: Value = match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(_) => return Ok(()),
            };
            let (tuning, refused) = declared().desired(&declared(), &Map::from_iter([(name, value)]));
            prop_assert!(refused.is_empty() || tuning == declared());
            prop_assert_eq!(tuning.drift.problem(), None);
        }
    }
}
