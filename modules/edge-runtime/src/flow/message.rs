//! One prediction as it is published: the schema of `docs/modules.md`.

use aiot_inference::Prediction;
use serde::Serialize;

use crate::{ModuleSpec, Published};

/// Version of the schema; it rises when a field changes its meaning or goes.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Where an input came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    /// `edge-hub`, `http`, `directory`, `camera` or `replay`.
    pub(crate) kind: &'static str,
    /// Of the input, file or device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// The sender's id of the input.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message_id: String,
}

/// What all messages of a module have in common.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identity {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) module: Option<String>,
    /// How the input was prepared.
    pub(crate) preprocessing_digest: String,
}

#[derive(Serialize)]
struct Body<'a> {
    schema_version: u32,
    message_id: &'a str,
    time: &'a str,
    #[serde(flatten)]
    identity: &'a Identity,
    source: &'a Origin,
    #[serde(flatten)]
    published: Published<'a>,
}

/// The JSON of one prediction.
pub(crate) fn body(
    spec: ModuleSpec,
    identity: &Identity,
    origin: &Origin,
    (prediction, drifting): (&Prediction, Option<bool>),
    message_id: &str,
    time: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Body {
        schema_version: SCHEMA_VERSION,
        message_id,
        time,
        identity,
        source: origin,
        published: Published::new(spec, prediction, drifting),
    })
}

/// `2026-11-22T23:59:59.123Z` from milliseconds since 1970.
pub(crate) fn time_text(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days to a date of the proleptic Gregorian calendar, counted in eras of 400 years from 1 March of year 0.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_369_299, "2026-11-22T17:41:39.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time_text(unix_s * 1000), expected);
        }
        assert_eq!(time_text(1), "1970-01-01T00:00:00.001Z");
    }
}
