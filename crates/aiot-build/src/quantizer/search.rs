//! Which improvements a model keeps, and which of its nodes stay float.
//!
//! Every improvement is tried on this model's own calibration samples and kept only where it brings the outputs
//! measurably closer to the float model's, cheapest first. Where a goal is still missed, the nodes whose rounding
//! costs most stay float, as few as reach it. The number of trials is bounded, and what was found is plain data
//! ([`Decisions`]): with it, [`apply`] makes the same bytes anywhere, without running anything.

use std::collections::{BTreeMap, BTreeSet};

use aiot_inference::Engine;
use aiot_onnx::{Activations, Granularity, Model, NodeOutcome, QuantizeReport, Ranges, StaticOptions};

use super::compare::{Closeness, Reference};
use super::observe::{Observed, RangeMethod, observe};
use super::samples::Samples;
use crate::error::BuildError;

/// An improvement below this is noise, dB.
const LEAST_GAIN_DB: f64 = 0.1;
/// Range methods tried after min-max.
const RANGE_METHODS: [RangeMethod; 3] = [
    RangeMethod::LeastError,
    RangeMethod::Percentile(0.9999),
    RangeMethod::Percentile(0.999),
];
/// Nodes whose sensitivity is measured, and samples for it.
const MAX_SENSITIVITIES: usize = 96;
const SENSITIVITY_SAMPLES: usize = 16;
/// Numbers of float nodes that are tried, in this order.
const FLOAT_NODES: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/// What a variant is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// How activations are stored.
    pub activations: Activations,
    /// Scales per weight.
    pub granularity: Granularity,
}

/// What the search decided; together with the float model it determines the variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Decisions {
    /// Whether channels were evened out between weighted nodes.
    pub equalized: bool,
    /// How ranges were cut.
    pub method: String,
    /// Ranges of the (equalized) model's tensors.
    pub ranges: Ranges,
    /// Means for bias correction; empty where it does not help.
    pub input_means: BTreeMap<String, Vec<f32>>,
    /// Nodes that stay float.
    pub float_nodes: BTreeSet<String>,
}

/// Something that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// In words.
    pub what: String,
    /// What came of it.
    pub closeness: Closeness,
    /// Drop of the metric against float, where it was measured.
    pub drop: Option<f64>,
    /// Whether it stayed.
    pub kept: bool,
}

/// What one node's rounding costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// The node.
    pub node: String,
    /// What leaving it float alone brings, dB.
    pub gain_db: f64,
}

/// Measures how much worse a variant is than float, in the metric's own unit.
pub type MeasureDrop<'a> = dyn Fn(&Model) -> Result<f64, BuildError> + 'a;

/// How good the variant must be.
#[derive(Default)]
pub struct Goal<'a> {
    /// Least signal to noise of the outputs, dB.
    pub target_sqnr_db: Option<f64>,
    /// Largest drop, and what measures it.
    pub max_drop: Option<(f64, &'a MeasureDrop<'a>)>,
}

/// What the search found.
pub struct Found {
    /// The result, as data.
    pub decisions: Decisions,
    /// The result.
    pub model: Model,
    /// What became of its nodes.
    pub report: QuantizeReport,
    /// All that was tried, in order.
    pub steps: Vec<Step>,
    /// Most sensitive node first; empty where every goal held without.
    pub sensitivities: Vec<Sensitivity>,
    /// What is still missing, in words.
    pub shortfall: Option<String>,
}

/// The variant that the decisions stand for.
///
/// # Errors
/// When the decisions belong to another model, or nothing of it can be quantized.
pub fn apply(
    prepared: &Model,
    decisions: &Decisions,
    form: Form,
) -> Result<(Model, QuantizeReport), BuildError> {
    let equalized;
    let model = match decisions.equalized {
        true => {
            equalized = aiot_onnx::equalize(prepared).map_err(BuildError::other)?;
            &equalized
        }
        false => prepared,
    };
    let options = StaticOptions {
        activations: form.activations,
        granularity: form.granularity,
        float_nodes: decisions.float_nodes.clone(),
        input_means: decisions.input_means.clone(),
    };
    let (variant, report) =
        aiot_onnx::quantize_static(model, &decisions.ranges, &options).map_err(BuildError::other)?;
    if report.quantized() == 0 {
        return Err(BuildError::Other(
            "no node of this model can be quantized; set quantization.scheme = \"none\"".to_owned(),
        ));
    }
    Ok((variant, report))
}

/// Searches for the best variant of one form.
///
/// # Errors
/// Samples or models that cannot be read or run. A missed goal is no error: see [`Found::shortfall`].
pub fn search(
    engine: &Engine,
    prepared: &Model,
    samples: &Samples,
    form: Form,
    goal: &Goal<'_>,
) -> Result<Found, BuildError> {
    let reference = Reference::new(engine, prepared, samples)?;
    let plain = observe(engine, prepared, samples)?;
    let mut search = Search::begin(prepared, form, &reference, &plain)?;

    let means = plain.means();
    search.try_out("bias correction", |decisions| decisions.input_means = means)?;

    let even = aiot_onnx::equalize(prepared).map_err(BuildError::other)?;
    let mut observed = plain;
    if even != *prepared {
        let seen = observe(engine, &even, samples)?;
        let kept = search.try_out("equalized channels", |decisions| {
            decisions.equalized = true;
            decisions.ranges = seen.ranges(RangeMethod::MinMax, form.activations);
            decisions.input_means = seen.means();
        })?;
        if kept {
            observed = seen;
        }
    }
    for method in RANGE_METHODS {
        let ranges = observed.ranges(method, form.activations);
        search.try_out(&format!("{method} ranges"), |decisions| {
            decisions.method = method.to_string();
            decisions.ranges = ranges;
        })?;
    }
    search.reach(goal)
}

struct Search<'a> {
    prepared: &'a Model,
    form: Form,
    reference: &'a Reference<'a>,
    decisions: Decisions,
    model: Model,
    report: QuantizeReport,
    closeness: Closeness,
    steps: Vec<Step>,
}

impl<'a> Search<'a> {
    fn begin(
        prepared: &'a Model,
        form: Form,
        reference: &'a Reference<'a>,
        observed: &Observed,
    ) -> Result<Search<'a>, BuildError> {
        let decisions = Decisions {
            equalized: false,
            method: RangeMethod::MinMax.to_string(),
            ranges: observed.ranges(RangeMethod::MinMax, form.activations),
            input_means: BTreeMap::new(),
            float_nodes: BTreeSet::new(),
        };
        let (model, report) = apply(prepared, &decisions, form)?;
        let closeness = reference.closeness(&model, usize::MAX)?;
        let steps = vec![Step {
            what: "min-max ranges".to_owned(),
            closeness,
            drop: None,
            kept: true,
        }];
        Ok(Search {
            prepared,
            form,
            reference,
            decisions,
            model,
            report,
            closeness,
            steps,
        })
    }

    /// Tries a change and keeps it where it measurably helps; returns whether it did.
    fn try_out(&mut self, what: &str, change: impl FnOnce(&mut Decisions)) -> Result<bool, BuildError> {
        let mut decisions = self.decisions.clone();
        change(&mut decisions);
        let (model, report) = apply(self.prepared, &decisions, self.form)?;
        let closeness = self.reference.closeness(&model, usize::MAX)?;
        let kept = closeness.sqnr_db >= self.closeness.sqnr_db + LEAST_GAIN_DB;
        self.steps.push(Step {
            what: what.to_owned(),
            closeness,
            drop: None,
            kept,
        });
        if kept {
            (self.decisions, self.model, self.report, self.closeness) = (decisions, model, report, closeness);
        }
        Ok(kept)
    }

    /// Leaves nodes in float until the goal holds.
    fn reach(mut self, goal: &Goal<'_>) -> Result<Found, BuildError> {
        let mut drop = measure(goal, &self.model)?;
        if let Some(last) = self.steps.iter_mut().rev().find(|step| step.kept) {
            last.drop = drop;
        }
        let mut shortfall = missing(goal, self.closeness, drop);
        let mut sensitivities = Vec::new();
        if shortfall.is_some() {
            sensitivities = self.sensitivities()?;
            let most = sensitivities.len().saturating_sub(1);
            for count in FLOAT_NODES.into_iter().filter(|&count| count <= most) {
                let mut decisions = self.decisions.clone();
                decisions.float_nodes = sensitivities[..count]
                    .iter()
                    .map(|node| node.node.clone())
                    .collect();
                let (model, report) = apply(self.prepared, &decisions, self.form)?;
                let closeness = self.reference.closeness(&model, usize::MAX)?;
                drop = measure(goal, &model)?;
                let still = missing(goal, closeness, drop);
                let what = format!("{count} most sensitive nodes in float");
                let kept = still.is_none();
                self.steps.push(Step {
                    what,
                    closeness,
                    drop,
                    kept,
                });
                if kept {
                    (self.decisions, self.model, self.report) = (decisions, model, report);
                    shortfall = None;
                    break;
                }
                shortfall = still;
            }
        }
        let Search {
            decisions,
            model,
            report,
            steps,
            ..
        } = self;
        Ok(Found {
            decisions,
            model,
            report,
            steps,
            sensitivities,
            shortfall,
        })
    }

    /// What leaving each weighted node float brings, the most first.
    fn sensitivities(&self) -> Result<Vec<Sensitivity>, BuildError> {
        let base = self
            .reference
            .closeness(&self.model, SENSITIVITY_SAMPLES)?
            .sqnr_db;
        let weighted = self.report.nodes.iter().filter(|node| {
            node.outcome == NodeOutcome::Quantized
                && matches!(node.operator.as_str(), "Conv" | "Gather" | "Gemm" | "MatMul")
        });
        let mut found = Vec::new();
        for node in weighted.take(MAX_SENSITIVITIES) {
            let mut decisions = self.decisions.clone();
            decisions.float_nodes.insert(node.node.clone());
            // The last quantized node cannot be left out.
            let Ok((model, _)) = apply(self.prepared, &decisions, self.form) else {
                continue;
            };
            let closeness = self.reference.closeness(&model, SENSITIVITY_SAMPLES)?;
            found.push(Sensitivity {
                node: node.node.clone(),
                gain_db: closeness.sqnr_db - base,
            });
        }
        found.sort_by(|a, b| b.gain_db.total_cmp(&a.gain_db).then_with(|| a.node.cmp(&b.node)));
        Ok(found)
    }
}

fn measure(goal: &Goal<'_>, model: &Model) -> Result<Option<f64>, BuildError> {
    goal.max_drop.map(|(_, measure)| measure(model)).transpose()
}

/// What a variant lacks, in words.
fn missing(goal: &Goal<'_>, closeness: Closeness, drop: Option<f64>) -> Option<String> {
    if let Some(target) = goal.target_sqnr_db
        && closeness.sqnr_db < target
    {
        return Some(format!(
            "{:.1} dB of the {target} dB asked for",
            closeness.sqnr_db
        ));
    }
    match (goal.max_drop, drop) {
        // Metrics are shares of samples: a drop of exactly the limit must not fail by its last bit.
        (Some((max_drop, _)), Some(drop)) if drop > max_drop + 1e-9 => Some(format!(
            "a drop of {drop:.4} against float, {max_drop} is allowed"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_say_what_is_missing() {
        let closeness = Closeness {
            sqnr_db: 30.0,
            agreement: None,
        };
        let measure = |_: &Model| Ok(0.0);
        for (target_sqnr_db, max_drop, drop, expected) in [
            (None, None, None, None),
            (Some(30.0), None, None, None),
            (Some(35.0), None, None, Some("30.0 dB of the 35 dB asked for")),
            (None, Some(0.01), Some(0.01), None),
            (None, Some(0.01), Some(-0.5), None),
            (
                None,
                Some(0.01),
                Some(0.02),
                Some("a drop of 0.0200 against float, 0.01 is allowed"),
            ),
        ] {
            let goal = Goal {
                target_sqnr_db,
                max_drop: max_drop.map(|most| (most, &measure as &MeasureDrop<'_>)),
            };
            assert_eq!(missing(&goal, closeness, drop).as_deref(), expected);
        }
    }
}
