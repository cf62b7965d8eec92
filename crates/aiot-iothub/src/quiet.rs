//! Quiet hours: when a plant does not want its devices touched, in its own time zone.

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil::Time};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A window of every day. `from` after `to` goes over midnight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuietHours {
    /// First minute, `06:00`.
    pub from: String,
    /// First minute after it, `22:00`.
    pub to: String,
    /// Name in the time zone database, `Europe/Berlin`.
    pub time_zone: String,
}

/// Quiet hours that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuietHoursError {
    /// No time of day.
    #[error("quiet hours: `{0}` is not a time of day: write hours and minutes, `06:00`")]
    Time(String),
    /// Begins when it ends.
    #[error("quiet hours: from and to are both `{0}`: leave the quiet hours out, or let them end")]
    Empty(String),
    /// Unknown zone.
    #[error(
        "quiet hours: `{0}` is not in the time zone database: write a name such as `Europe/Berlin` or `UTC`"
    )]
    Zone(String),
}

impl QuietHours {
    /// Whether `now_secs` (seconds since 1970) is within the window.
    ///
    /// # Errors
    /// [`QuietHoursError`], whatever the time is.
    pub fn contains(&self, now_secs: u64) -> Result<bool, QuietHoursError> {
        let (from, to) = (time(&self.from)?, time(&self.to)?);
        if from == to {
            return Err(QuietHoursError::Empty(self.from.clone()));
        }
        let zone = TimeZone::get(&self.time_zone)
            .map_err(|_| QuietHoursError::Zone(crate::syntax::shortened(&self.time_zone, 60)))?;
        let local = timestamp(now_secs).to_zoned(zone).time();
        Ok(if from < to {
            from <= local && local < to
        } else {
            from <= local || local < to
        })
    }
}

fn time(text: &str) -> Result<Time, QuietHoursError> {
    let bad = || QuietHoursError::Time(crate::syntax::shortened(text, 40));
    let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| {
        let good = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| text.parse::<i8>().ok()).flatten()
    };
    let (hour, minute) = number(hour).zip(number(minute)).ok_or_else(bad)?;
    Time::new(hour, minute, 0, 0).map_err(|_| bad())
}

fn timestamp(secs: u64) -> Timestamp {
    i64::try_from(secs)
        .ok()
        .and_then(|secs| Timestamp::from_second(secs).ok())
        .unwrap_or(Timestamp::MAX)
}

/// `2026-03-01T06:00:00Z`, as it stands in labels and tables.
pub fn time_text(secs: u64) -> String {
    timestamp(secs).to_string()
}

/// The reverse of [`time_text`]; none for what is no time, or before 1970.
pub fn time_of_text(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Timestamp>().ok()?.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str, zone: &str, at: &str, expected: Result<bool, &str>) {
        let hours = QuietHours {
            from: from.to_owned(),
            to: to.to_owned(),
            time_zone: zone.to_owned(),
        };
        match (hours.contains(time_of_text(at).unwrap()), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{from} {to} {zone} {at}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn windows() {
        check("06:00", "22:00", "UTC", "2026-01-05T06:00:00Z", Ok(true));
        check("06:00", "22:00", "UTC", "2026-01-05T22:00:00Z", Ok(false));
        check("22:00", "06:00", "UTC", "2026-01-05T23:00:00Z", Ok(true));
        check("22:00", "06:00", "UTC", "2026-01-05T05:59:59Z", Ok(true));
        check("22:00", "06:00", "UTC", "2026-01-05T12:00:00Z", Ok(false));
        // The same instant of the day, in winter and in summer.
        check(
            "06:00",
            "22:00",
            "Europe/Berlin",
            "2026-01-05T04:30:00Z",
            Ok(false),
        );
        check(
            "06:00",
            "22:00",
            "Europe/Berlin",
            "2026-07-05T04:30:00Z",
            Ok(true),
        );
    }

    #[test]
    fn mistakes() {
        let at = "2026-01-05T06:00:00Z";
        check("6:00", "22:00", "UTC", at, Err("`6:00` is not a time"));
        check("06:00", "24:00", "UTC", at, Err("`24:00` is not a time"));
        check("06:00", "é", "UTC", at, Err("is not a time"));
        check("06:00", "06:00", "UTC", at, Err("both `06:00`"));
        check(
            "06:00",
            "07:00",
            "Europe/Bielefeld",
            at,
            Err("time zone database"),
        );
    }

    #[test]
    fn times_are_texts() {
        assert_eq!(time_text(1_767_614_400), "2026-01-05T12:00:00Z");
        assert_eq!(time_of_text("2026-01-05T12:00:00Z"), Some(1_767_614_400));
        assert_eq!(
            (time_of_text("yesterday"), time_of_text("1950-01-01T00:00:00Z")),
            (None, None)
        );
        assert_eq!(time_text(u64::MAX), Timestamp::MAX.to_string());
    }
}
