//! Rings: which devices get a release first, and when the next ones may have it. Reviewed data, no behaviour.
//!
//! A ring says its devices by tag (`condition`), by name (`devices`) or by share of the fleet (`percent`); several
//! of them add up. Rings are cumulative: a later ring always holds the devices of the earlier ones, so that
//! widening can never take a release away from a device. The parts are joined with OR and never negated: on a hub
//! `NOT tags.ring = 'canary'` misses every device without the tag.

use std::fmt;
use std::str::FromStr;

use aiot_package::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::condition::{Condition, Literal, Operator, Path};
use crate::quiet::QuietHours;

/// Key of the twin tag that holds a device's wave, 0 to 99.
pub const WAVE_TAG: &str = "aiotWave";

/// A part of the fleet that gets a release before the next part does, and what it must show before that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ring {
    /// Lower-case letters, digits and `-`.
    pub name: String,
    /// Target condition of the ring's devices. Without condition, devices and percent: all devices of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Devices by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Devices whose wave is below this, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Hours that a release stays here before it goes on.
    #[serde(default = "default_soak_hours")]
    pub soak_hours: u32,
    /// Devices that must have reported on the release before it goes on; of the devices that it targets, rounded up.
    #[serde(default = "default_minimum_reported")]
    pub minimum_reported: Amount,
    /// How many devices may be in trouble.
    #[serde(default)]
    pub at_most: Thresholds,
    /// A person must agree before a release enters this ring.
    #[serde(default)]
    pub approval: bool,
    /// Local hours in which nothing is rolled out to this ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
}

fn default_soak_hours() -> u32 {
    24
}

fn default_minimum_reported() -> Amount {
    Amount::Percent(50)
}

/// How many devices of a ring may be in each kind of trouble; above it, the release stops there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Thresholds {
    /// A module ended, crashes again and again, or the agent could not apply the release.
    pub failed: Amount,
    /// A module runs, and its health check fails.
    pub unhealthy: Amount,
    /// A module runs, and its model does not compute what it should.
    pub self_check_failed: Amount,
    /// A model sees inputs that are unlike its training data.
    pub drifting: Amount,
    /// Not heard of since the release came. Too many never stop a release, they only keep it waiting.
    pub silent: Amount,
}

impl Default for Thresholds {
    fn default() -> Self {
        let few = Amount::Percent(5);
        let all = Amount::Percent(100);
        Thresholds {
            failed: few,
            unhealthy: few,
            self_check_failed: few,
            drifting: all,
            silent: all,
        }
    }
}

/// A number of devices, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AmountForm", into = "AmountForm")]
pub enum Amount {
    /// Devices.
    Count(u32),
    /// Percent of the devices, 0 to 100.
    Percent(u8),
}

/// As it is written: `3` or `"5 %"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AmountForm {
    Count(u32),
    Text(String),
}

/// A text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not an amount: write a number of devices, `3`, or a share of them, `\"5 %\"`")]
pub struct AmountError(String);

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let error = || AmountError(crate::syntax::shortened(text, 40));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        match text.strip_suffix('%').map(str::trim_end) {
            Some(number) if digits(number) => number
                .parse()
                .ok()
                .filter(|percent| *percent <= 100)
                .map(Amount::Percent)
                .ok_or_else(error),
            None if digits(text) => text.parse().map(Amount::Count).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

impl TryFrom<AmountForm> for Amount {
    type Error = AmountError;

    fn try_from(form: AmountForm) -> Result<Self, AmountError> {
        match form {
            AmountForm::Count(count) => Ok(Amount::Count(count)),
            AmountForm::Text(text) => text.parse(),
        }
    }
}

impl From<Amount> for AmountForm {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => AmountForm::Count(count),
            Amount::Percent(_) => AmountForm::Text(amount.to_string()),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Count(count) => write!(f, "{count}"),
            Amount::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

impl Amount {
    /// The amount in devices as an upper bound: a share of `total`, rounded down.
    pub fn at_most_of(self, total: usize) -> usize {
        match self {
            Amount::Count(count) => count as usize,
            Amount::Percent(percent) => total * usize::from(percent) / 100,
        }
    }

    /// The amount in devices as a lower bound: a share of `total`, rounded up.
    pub fn at_least_of(self, total: usize) -> usize {
        match self {
            Amount::Count(count) => count as usize,
            Amount::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

impl Ring {
    /// A ring with the default policy: a day of soak, half of the devices reported, 5 % in trouble.
    pub fn new(name: &str, condition: Option<&str>) -> Ring {
        Ring {
            name: name.to_owned(),
            condition: condition.map(str::to_owned),
            devices: Vec::new(),
            percent: None,
            soak_hours: default_soak_hours(),
            minimum_reported: default_minimum_reported(),
            at_most: Thresholds::default(),
            approval: false,
            quiet_hours: None,
        }
    }

    /// The ring's own devices as one condition; `condition` is [`Ring::condition`], parsed.
    pub(crate) fn members(&self, condition: Option<Condition>) -> Condition {
        let mut parts: Vec<Condition> = condition.into_iter().collect();
        if !self.devices.is_empty() {
            let mut devices = self.devices.clone();
            devices.sort();
            devices.dedup();
            let values = devices.into_iter().map(Literal::Text).collect();
            parts.push(Condition::In {
                path: Path::DeviceId,
                negated: false,
                values,
            });
        }
        if let Some(percent) = self.percent {
            parts.push(Condition::Compare {
                path: Path::Tag(vec![WAVE_TAG.to_owned()]),
                operator: Operator::Less,
                value: Literal::Number(f64::from(percent)),
            });
        }
        if parts.is_empty() {
            Condition::All
        } else {
            Condition::any_of(parts)
        }
    }
}

/// The wave of a device, 0 to 99: stable for a device and salt, spread evenly.
pub fn wave(salt: &str, device_id: &str) -> u8 {
    let hex = Digest::of(format!("{salt}\n{device_id}").as_bytes()).hex();
    let number = u64::from_str_radix(&hex[..15], 16).unwrap_or(0);
    (number % 100) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let check = |text: &str, expected: Option<Amount>| assert_eq!(text.parse().ok(), expected, "{text}");
        check("3", Some(Amount::Count(3)));
        check("5 %", Some(Amount::Percent(5)));
        check("100%", Some(Amount::Percent(100)));
        for bad in ["101 %", "-1", "", "%", "five", "5 % ", "4294967296", "+3"] {
            check(bad, None);
        }
        assert_eq!(Amount::Percent(5).at_most_of(39), 1);
        assert_eq!(Amount::Percent(5).at_least_of(39), 2);
        assert_eq!(
            (
                Amount::Percent(50).at_least_of(0),
                Amount::Count(3).at_least_of(0)
            ),
            (0, 3)
        );
        let json = serde_json::to_string(&[Amount::Count(3), Amount::Percent(5)]).unwrap();
        assert_eq!(json, r#"[3,"5 %"]"#);
        assert_eq!(
            serde_json::from_str::<[Amount; 2]>(&json).unwrap(),
            [Amount::Count(3), Amount::Percent(5)]
        );
        assert!(
            serde_json::from_str::<Amount>("\"x\"")
                .unwrap_err()
                .to_string()
                .contains("not an amount")
        );
    }

    #[test]
    fn members_add_up() {
        let mut ring = Ring::new("canary", None);
        assert_eq!(ring.members(None), Condition::All);
        ring.percent = Some(5);
        ring.devices = vec!["b".to_owned(), "a'".to_owned(), "b".to_owned()];
        let condition = "tags.ring = 'canary'".parse().unwrap();
        assert_eq!(
            ring.members(Some(condition)).to_string(),
            "tags.ring = 'canary' OR deviceId IN ['a''', 'b'] OR tags.aiotWave < 5"
        );
    }

    #[test]
    fn waves_are_stable_and_even() {
        assert_eq!(
            (wave("prod", "press-1"), wave("dev", "press-1")),
            (wave("prod", "press-1"), wave("dev", "press-1"))
        );
        let below = (0..10_000)
            .filter(|n| wave("prod", &format!("device-{n}")) < 5)
            .count();
        assert!((400..600).contains(&below), "{below}");
    }
}
