//! One `[[ring]]` → [`Ring`].

use toml::Spanned;

use super::{Resolver, site};
use crate::declare::*;
use crate::diagnose::{ConfigError, SourceFile};
use crate::names::EnvironmentName;
use crate::workspace::*;

impl Resolver {
    pub(super) fn ring(
        &mut self,
        file: &SourceFile,
        environment: &EnvironmentName,
        declared: &RingDeclaration,
    ) -> Ring {
        let owner = format!("environment `{environment}`, ring `{}`", declared.name.get_ref());
        if let Some(percent) = declared
            .percent
            .as_ref()
            .filter(|percent| *percent.get_ref() > 100)
        {
            self.error(ConfigError::new(
                "plan::ring_percent",
                site(file, percent),
                format!(
                    "{owner}: {} percent of the fleet are not to be had",
                    percent.get_ref()
                ),
                "0 to 100",
            ));
        }
        let limits = &declared.at_most;
        let limits = [
            ("failed", &limits.failed),
            ("unhealthy", &limits.unhealthy),
            ("self-check-failed", &limits.self_check_failed),
            ("drifting", &limits.drifting),
            ("silent", &limits.silent),
        ];
        let at_most = limits
            .into_iter()
            .filter_map(|(kind, value)| Some((kind, self.amount(file, &owner, value.as_ref()?)?)))
            .collect();
        if let Some(hours) = &declared.quiet_hours {
            for time in [&hours.from, &hours.to] {
                if !is_time_of_day(time.get_ref()) {
                    self.error(ConfigError::new(
                        "plan::quiet_hours",
                        site(file, time),
                        format!("{owner}: `{}` is no time of day", time.get_ref()),
                        "hours and minutes, \"06:00\"",
                    ));
                }
            }
        }
        let place = declared.condition.as_ref().unwrap_or(&declared.name);
        Ring {
            name: declared.name.get_ref().clone(),
            condition: declared.condition.as_ref().map(|text| text.get_ref().clone()),
            devices: declared.devices.clone(),
            percent: declared.percent.as_ref().map(|percent| *percent.get_ref()),
            soak_hours: declared.soak_hours,
            minimum_reported: declared
                .minimum_reported
                .as_ref()
                .and_then(|value| self.amount(file, &owner, value)),
            at_most,
            approval: declared.approval,
            quiet_hours: declared
                .quiet_hours
                .as_ref()
                .map(|hours| [&hours.from, &hours.to, &hours.time_zone].map(|text| text.get_ref().clone())),
            site: site(file, place),
        }
    }

    /// `3` or `"5 %"`.
    fn amount(&mut self, file: &SourceFile, owner: &str, value: &Spanned<toml::Value>) -> Option<Amount> {
        let amount = match value.get_ref() {
            toml::Value::Integer(count) => u32::try_from(*count).ok().map(Amount::Count),
            toml::Value::String(text) => text
                .strip_suffix('%')
                .map(str::trim_end)
                .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .filter(|percent| *percent <= 100)
                .map(Amount::Percent),
            _ => None,
        };
        if amount.is_none() {
            self.error(ConfigError::new(
                "plan::ring_amount",
                site(file, value),
                format!("{owner}: `{}` is no amount of devices", value.get_ref()),
                "a number, 3, or a share, \"5 %\"",
            ));
        }
        amount
    }
}

/// `00:00` to `23:59`.
fn is_time_of_day(text: &str) -> bool {
    let below = |text: &str, bound: u8| {
        text.len() == 2
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && text.parse().is_ok_and(|number: u8| number < bound)
    };
    text.split_once(':')
        .is_some_and(|(hours, minutes)| below(hours, 24) && below(minutes, 60))
}
