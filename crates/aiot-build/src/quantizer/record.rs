//! Decisions to and from the committed calibration record.

use std::collections::BTreeMap;

use aiot_onnx::{Range, Ranges};
use aiot_package::Digest;
use aiot_plan::records::{CALIBRATION_METHOD, Calibration, Tried};
use aiot_plan::tools::HOST_ENGINE_VERSION;

use super::samples::Samples;
use super::search::{Decisions, Found, Step};

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
        equalized: decisions.equalized,
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
        equalized: record.equalized,
        permuted: record.permuted,
        method: record.range_method.clone(),
        ranges,
        input_means: BTreeMap::clone(&record.means),
        float_nodes: record.float_nodes.iter().cloned().collect(),
    }
}
