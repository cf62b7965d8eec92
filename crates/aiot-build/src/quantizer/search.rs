//! Which improvements a model keeps, and which of its nodes stay float.
//!
//! Every improvement is tried on this model's own calibration samples and kept only where it brings the outputs
//! measurably closer to the float model's, cheapest first. Where a goal is still missed, the nodes whose rounding
//! costs most stay float, as few as reach it. Recurrent nets and transformers are also tried with scales found at run
//! time, and get those unless fixed ones are better. The number of trials is bounded, and what was found is plain data
//! ([`Decisions`]): with it, [`apply`] makes the same bytes anywhere, without running anything.

use std::collections::BTreeSet;

use aiot_inference::Engine;
use aiot_onnx::{Activations, Model, NodeOutcome, QuantizeReport};
use aiot_plan::records::Scales;

use super::compare::Reference;
use super::goal::{Goal, LEAST_GAIN_DB, static_wins};
use super::observe::{Observed, RangeMethod, observe};
use super::samples::Samples;
use super::variant::{Decisions, Evened, Form, Step, Variant, apply};
use crate::error::BuildError;

/// Range methods tried after min-max.
const RANGE_METHODS: [RangeMethod; 3] = [
    RangeMethod::LeastError,
    RangeMethod::Percentile(0.9999),
    RangeMethod::Percentile(0.999),
];
/// Nodes whose sensitivity is measured, and samples for it.
const MAX_SENSITIVITIES: usize = 96;
const SENSITIVITY_SAMPLES: usize = 16;
/// The step that leaves scales to run time.
const RUN_TIME_SCALES: &str = "scales found at run time";
/// Numbers of float nodes that are tried, in this order.
const FLOAT_NODES: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/// What one node's rounding costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// The node.
    pub node: String,
    /// Noise of the outputs where this node alone is quantized, as a share of all nodes' sum, 0 to 1.
    pub noise_share: f64,
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
    /// Why it is refused although it is good enough: it is slower than float.
    pub too_slow: Option<String>,
}

impl Found {
    fn new(variant: Variant, steps: Vec<Step>) -> Found {
        Found {
            decisions: variant.decisions,
            model: variant.model,
            report: variant.report,
            steps,
            sensitivities: Vec::new(),
            shortfall: variant.shortfall,
            too_slow: None,
        }
    }
}

/// Searches for the best variant of one form.
///
/// # Errors
/// Samples or models that cannot be read or run. A missed goal is no error: see [`Found::shortfall`] and
/// [`Found::too_slow`].
pub fn search(
    engine: &Engine,
    prepared: &Model,
    samples: &Samples,
    form: Form,
    goal: &Goal<'_>,
) -> Result<Found, BuildError> {
    let reference = Reference::new(engine, prepared, samples)?;
    let dynamic =
        match form.activations == Activations::U8Asymmetric && aiot_onnx::is_sequence_model(prepared) {
            true => Some(Variant::dynamic(prepared, &reference, goal)?),
            false => None,
        };
    let mut found = match dynamic {
        Some(dynamic) if aiot_onnx::calibration_tensors(prepared).is_empty() => {
            let step = dynamic.step(RUN_TIME_SCALES, true);
            Found::new(dynamic, vec![step])
        }
        dynamic => {
            let search = improve(engine, prepared, samples, form, &reference)?;
            search.reach(goal, dynamic)?
        }
    };
    // Refused only if it is slow a second time: a busy machine is no reason.
    for _ in 0..2 {
        found.too_slow = too_slow(&reference, prepared, &found.model, goal)?;
        if found.too_slow.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Measures a variant against float, unless any time is allowed.
fn too_slow(
    reference: &Reference<'_>,
    prepared: &Model,
    variant: &Model,
    goal: &Goal<'_>,
) -> Result<Option<String>, BuildError> {
    if goal.allow_slower {
        return Ok(None);
    }
    let latencies = reference.latencies(&[prepared, variant])?;
    Ok(goal.too_slow(latencies[0], latencies[1]))
}

/// Tries every improvement of fixed scales.
fn improve<'a>(
    engine: &Engine,
    prepared: &'a Model,
    samples: &Samples,
    form: Form,
    reference: &'a Reference<'a>,
) -> Result<Search<'a>, BuildError> {
    let plain = observe(engine, prepared, samples)?;
    let means = plain.means();
    let mut search = Search::begin(prepared, form, reference, plain)?;
    search.try_out("bias correction", |decisions| decisions.input_means = means)?;
    let factors = aiot_onnx::channel_factors(prepared, &search.observed.largest());
    for (what, evened) in [
        ("even activations", Evened::Activations(factors)),
        ("even weights", Evened::Weights),
    ] {
        let graph = evened.of(prepared)?;
        if *graph != *prepared {
            let seen = observe(engine, &graph, samples)?;
            search.try_evened(what, evened, seen)?;
        }
    }
    if form.activations == Activations::U8Asymmetric {
        search.try_out("channels in another order", |decisions| decisions.permuted = true)?;
    }
    for method in RANGE_METHODS {
        let ranges = search.observed.ranges(method, form.activations);
        search.try_out(&format!("{method} ranges"), |decisions| {
            decisions.method = method.to_string();
            decisions.ranges = ranges;
        })?;
    }
    Ok(search)
}

struct Search<'a> {
    prepared: &'a Model,
    form: Form,
    reference: &'a Reference<'a>,
    best: Variant,
    /// What was seen of the best one's graph before it was quantized.
    observed: Observed,
    steps: Vec<Step>,
}

impl<'a> Search<'a> {
    fn begin(
        prepared: &'a Model,
        form: Form,
        reference: &'a Reference<'a>,
        observed: Observed,
    ) -> Result<Search<'a>, BuildError> {
        let ranges = observed.ranges(RangeMethod::MinMax, form.activations);
        let decisions = Decisions::new(Scales::Static, ranges);
        let best = Variant::new(prepared, decisions, form, reference)?;
        let steps = vec![best.step("min-max ranges", true)];
        Ok(Search {
            prepared,
            form,
            reference,
            best,
            observed,
            steps,
        })
    }

    /// Tries a change and keeps it where it measurably helps; returns whether it did.
    fn try_out(&mut self, what: &str, change: impl FnOnce(&mut Decisions)) -> Result<bool, BuildError> {
        let mut decisions = self.best.decisions.clone();
        change(&mut decisions);
        let variant = Variant::new(self.prepared, decisions, self.form, self.reference)?;
        let kept = variant.closeness.sqnr_db >= self.best.closeness.sqnr_db + LEAST_GAIN_DB;
        self.steps.push(variant.step(what, kept));
        if kept {
            self.best = variant;
        }
        Ok(kept)
    }

    /// Tries a way to even channels out, with what was seen of such a graph.
    fn try_evened(&mut self, what: &str, evened: Evened, seen: Observed) -> Result<(), BuildError> {
        let activations = self.form.activations;
        let kept = self.try_out(what, |decisions| {
            decisions.evened = evened;
            decisions.ranges = seen.ranges(RangeMethod::MinMax, activations);
            // Bias correction that did not help does not help here either.
            if !decisions.input_means.is_empty() {
                decisions.input_means = seen.means();
            }
        })?;
        if kept {
            self.observed = seen;
        }
        Ok(())
    }

    /// Chooses where the scales come from, and leaves nodes in float until the goal holds.
    fn reach(mut self, goal: &Goal<'_>, dynamic: Option<Variant>) -> Result<Found, BuildError> {
        self.best.judge(goal)?;
        if let Some(last) = self.steps.iter_mut().rev().find(|step| step.kept) {
            last.drop = self.best.drop;
        }
        if let Some(mut dynamic) = dynamic {
            let models = [self.prepared, &self.best.model, &dynamic.model];
            let latencies = self.reference.latencies(&models)?;
            let wins = static_wins(self.best.merits(latencies[1]), dynamic.merits(latencies[2]));
            self.steps.push(dynamic.step(RUN_TIME_SCALES, !wins));
            if !wins {
                // A GPU's variant of the same model still needs the ranges.
                dynamic.decisions = Decisions {
                    scales: Scales::Dynamic,
                    ..self.best.decisions
                };
                return Ok(Found::new(dynamic, self.steps));
            }
        }
        let mut sensitivities = Vec::new();
        if self.best.shortfall.is_some() || goal.show_sensitivities {
            sensitivities = self.sensitivities()?;
        }
        if self.best.shortfall.is_some() {
            let most = sensitivities.len().saturating_sub(1);
            for count in FLOAT_NODES.into_iter().filter(|&count| count <= most) {
                let mut decisions = self.best.decisions.clone();
                decisions.float_nodes = sensitivities[..count]
                    .iter()
                    .map(|node| node.node.clone())
                    .collect();
                let mut variant = Variant::new(self.prepared, decisions, self.form, self.reference)?;
                variant.judge(goal)?;
                let kept = variant.shortfall.is_none();
                self.steps
                    .push(variant.step(&format!("{count} most sensitive nodes in float"), kept));
                if kept {
                    self.best = variant;
                    break;
                }
                self.best.shortfall = variant.shortfall;
            }
        }
        Ok(Found {
            sensitivities,
            ..Found::new(self.best, self.steps)
        })
    }

    /// How much noise each weighted node alone brings, the most first.
    ///
    /// Leaving one node in float and looking at what remains would drown its share in the noise of all others: that of
    /// the outputs is known to a few tenths of a decibel only.
    fn sensitivities(&self) -> Result<Vec<Sensitivity>, BuildError> {
        let quantized = self.best.report.nodes.iter().filter(|node| {
            node.outcome == NodeOutcome::Quantized
                && matches!(
                    node.operator.as_str(),
                    "Conv" | "ConvTranspose" | "Gather" | "Gemm" | "MatMul"
                )
        });
        let names: BTreeSet<String> = quantized.clone().map(|node| node.node.clone()).collect();
        let mut found = Vec::new();
        for node in quantized.take(MAX_SENSITIVITIES) {
            let mut decisions = self.best.decisions.clone();
            decisions.float_nodes.clone_from(&names);
            decisions.float_nodes.remove(&node.node);
            let (model, _) = apply(self.prepared, &decisions, self.form)?;
            let closeness = self.reference.closeness(&model, SENSITIVITY_SAMPLES)?;
            found.push(Sensitivity {
                node: node.node.clone(),
                noise_share: 10f64.powf(-closeness.sqnr_db / 10.0),
            });
        }
        let sum: f64 = found.iter().map(|node| node.noise_share).sum();
        for node in &mut found {
            node.noise_share = if sum > 0.0 { node.noise_share / sum } else { 0.0 };
        }
        found.sort_by(|a, b| {
            b.noise_share
                .total_cmp(&a.noise_share)
                .then_with(|| a.node.cmp(&b.node))
        });
        Ok(found)
    }
}
