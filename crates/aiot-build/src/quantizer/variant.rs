//! A variant: what was decided of it, how it is made from that, and what came out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use aiot_onnx::{Activations, Granularity, Model, QuantizeReport, Ranges, StaticOptions};
use aiot_plan::records::Scales;

use super::compare::{Closeness, Latency, Reference};
use super::goal::{Goal, Merits};
use super::observe::RangeMethod;
use crate::error::BuildError;

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
    /// Where the scales of u8 activations come from; s8 ones have fixed scales always.
    pub scales: Scales,
    /// How channels are evened out between weighted nodes.
    pub evened: Evened,
    /// How ranges were cut.
    pub method: String,
    /// Ranges of the evened model's tensors.
    pub ranges: Ranges,
    /// Means for bias correction; empty where it does not help.
    pub input_means: BTreeMap<String, Vec<f32>>,
    /// Whether channels are put into an order in which weights lose less.
    pub permuted: bool,
    /// Nodes that stay float.
    pub float_nodes: BTreeSet<String>,
}

/// How channels are evened out between weighted nodes. One of the two, since each undoes much of the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Evened {
    /// As trained.
    Not,
    /// By their largest weights.
    Weights,
    /// By these factors for activations.
    Activations(BTreeMap<String, Vec<f32>>),
}

impl Evened {
    /// The graph with its channels so; the graph itself where there is nothing to do.
    ///
    /// # Errors
    /// Factors of another graph.
    pub fn of<'a>(&self, prepared: &'a Model) -> Result<Cow<'a, Model>, BuildError> {
        match self {
            Evened::Not => Ok(Cow::Borrowed(prepared)),
            Evened::Weights => aiot_onnx::equalize(prepared).map(Cow::Owned),
            Evened::Activations(factors) => aiot_onnx::scale_channels(prepared, factors).map(Cow::Owned),
        }
        .map_err(BuildError::other)
    }
}

impl Decisions {
    /// Nothing but smallest to largest value.
    pub fn new(scales: Scales, ranges: Ranges) -> Decisions {
        Decisions {
            scales,
            evened: Evened::Not,
            method: RangeMethod::MinMax.to_string(),
            ranges,
            input_means: BTreeMap::new(),
            permuted: false,
            float_nodes: BTreeSet::new(),
        }
    }
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

/// The variant that the decisions stand for.
///
/// # Errors
/// When the decisions belong to another model, or nothing of it can be quantized.
pub fn apply(
    prepared: &Model,
    decisions: &Decisions,
    form: Form,
) -> Result<(Model, QuantizeReport), BuildError> {
    if decisions.scales == Scales::Dynamic && form.activations == Activations::U8Asymmetric {
        return aiot_onnx::quantize_dynamic(prepared).map_err(BuildError::other);
    }
    let evened = decisions.evened.of(prepared)?;
    let options = StaticOptions {
        activations: form.activations,
        granularity: form.granularity,
        float_nodes: decisions.float_nodes.clone(),
        input_means: decisions.input_means.clone(),
        permuted: decisions.permuted,
    };
    let (variant, report) =
        aiot_onnx::quantize_static(&evened, &decisions.ranges, &options).map_err(BuildError::other)?;
    if report.quantized() == 0 {
        return Err(BuildError::Other(
            "no node of this model can be quantized; set quantization.scheme = \"none\"".to_owned(),
        ));
    }
    Ok((variant, report))
}

/// A variant that was made and compared with float.
pub(super) struct Variant {
    pub(super) decisions: Decisions,
    pub(super) model: Model,
    pub(super) report: QuantizeReport,
    pub(super) closeness: Closeness,
    /// Drop of the metric, once it was measured.
    pub(super) drop: Option<f64>,
    /// What it lacks, as far as is known.
    pub(super) shortfall: Option<String>,
}

impl Variant {
    pub(super) fn new(
        prepared: &Model,
        decisions: Decisions,
        form: Form,
        reference: &Reference<'_>,
    ) -> Result<Variant, BuildError> {
        let (model, report) = apply(prepared, &decisions, form)?;
        let closeness = reference.closeness(&model, usize::MAX)?;
        Ok(Variant {
            decisions,
            model,
            report,
            closeness,
            drop: None,
            shortfall: None,
        })
    }

    /// With scales found at run time.
    pub(super) fn dynamic(
        prepared: &Model,
        reference: &Reference<'_>,
        goal: &Goal<'_>,
    ) -> Result<Variant, BuildError> {
        let decisions = Decisions::new(Scales::Dynamic, Ranges::new());
        let form = Form {
            activations: Activations::U8Asymmetric,
            granularity: Granularity::PerChannel,
        };
        let mut variant = Variant::new(prepared, decisions, form, reference)?;
        variant.judge(goal)?;
        Ok(variant)
    }

    pub(super) fn judge(&mut self, goal: &Goal<'_>) -> Result<(), BuildError> {
        self.drop = goal.measure(&self.model)?;
        self.shortfall = goal.missing(self.closeness, self.drop);
        Ok(())
    }

    pub(super) fn step(&self, what: &str, kept: bool) -> Step {
        Step {
            what: what.to_owned(),
            closeness: self.closeness,
            drop: self.drop,
            kept,
        }
    }

    pub(super) fn merits(&self, latency: Latency) -> Merits {
        Merits {
            holds: self.shortfall.is_none(),
            sqnr_db: self.closeness.sqnr_db,
            size_bytes: self.model.size_bytes(),
            latency,
        }
    }
}
