//! Decisions to and from the committed calibration record.

use std::collections::BTreeMap;

use aiot_onnx::{Range, Ranges};
use aiot_package::Digest;
use aiot_plan::records::{CALIBRATION_METHOD, Calibration, Tried};
use aiot_plan::tools::HOST_ENGINE_VERSION;

use super::samples::Samples;
use super::search::Found;
use super::variant::{Decisions, Evened, Step};

/// The record of what was found.
pub fn record(
    subject: Digest,
    made_from: BTreeMap<String, Digest>,
    samples: &Samples,
    found: &Found,
) -> Calibration {
    let decisions = &found.decisions;
    Calibration {
        subject,
        method: CALIBRATION_METHOD.to_owned(),
        engine: HOST_ENGINE_VERSION.to_owned(),
        scales: decisions.scales,
        samples: samples.len(),
        range_method: decisions.method.clone(),
        equalized: decisions.evened == Evened::Weights,
        permuted: decisions.permuted,
        float_nodes: decisions.float_nodes.iter().cloned().collect(),
        made_from,
        tried: found.steps.iter().map(tried).collect(),
        ranges: decisions
            .ranges
            .iter()
            .map(|(name, range)| (name.to_owned(), [range.min, range.max]))
            .collect(),
        means: decisions.input_means.clone(),
        channel_factors: match &decisions.evened {
            Evened::Activations(factors) => factors.clone(),
            Evened::Not | Evened::Weights => BTreeMap::new(),
        },
    }
}

/// Rounded to what a reviewer can use, so that a last bit changes no file.
fn tried(step: &Step) -> Tried {
    Tried {
        what: step.what.clone(),
        sqnr_db: (step.closeness.sqnr_db * 10.0).round() / 10.0,
        drop: step.drop.map(|drop| (drop * 1e6).round() / 1e6),
        kept: step.kept,
    }
}

/// What a record decided.
pub fn decisions(record: &Calibration) -> Decisions {
    let mut ranges = Ranges::new();
    for (tensor, &[min, max]) in &record.ranges {
        ranges.insert(tensor.clone(), Range { min, max });
    }
    Decisions {
        scales: record.scales,
        evened: match record.equalized {
            true => Evened::Weights,
            false if record.channel_factors.is_empty() => Evened::Not,
            false => Evened::Activations(record.channel_factors.clone()),
        },
        permuted: record.permuted,
        method: record.range_method.clone(),
        ranges,
        input_means: record.means.clone(),
        float_nodes: record.float_nodes.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_how_channels_are_evened_out() {
        let factors = BTreeMap::from([("b".to_owned(), vec![1.0, 2.5])]);
        for (lines, expected) in [
            ("", Evened::Not),
            ("equalized = true", Evened::Weights),
            ("[channel-factors]\nb = [1.0, 2.5]", Evened::Activations(factors)),
        ] {
            let text = format!(
                "subject = \"{}\"\nmethod = \"\"\nengine = \"\"\nsamples = 1\nranges.x = [0.0, 1.0]\n{lines}\n",
                Digest::of(b"")
            );
            let record = Calibration::parse(&text).unwrap();
            assert_eq!(decisions(&record).evened, expected, "{lines}");
        }
    }
}
