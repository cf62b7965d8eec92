//! Variants of one model side by side: made, measured, and put into a table.

use std::path::PathBuf;

use aiot_inference::Engine;
use aiot_onnx::{Granularity, Model, NodeOutcome, NodeReport};
use aiot_package::{Metric, Precision};
use serde::Serialize;

use super::compare::{Closeness, Reference};
use super::direct::direct;
use super::goal::{Goal, MeasureDrop};
use super::judge::Judge;
use super::pareto::{Cost, pareto};
use super::samples::Samples;
use super::search::{Found, Sensitivity, search};
use super::variant::{Form, Step};
use crate::error::BuildError;
use crate::events::{Event, Sink};

/// One variant in the table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// Which variant.
    pub scheme: Precision,
    /// Length of its file.
    pub size_bytes: u64,
    /// The metric, where there is evaluation data.
    pub metric: Option<f64>,
    /// Share of outputs with the same largest column as float.
    pub agreement: Option<f64>,
    /// Signal to noise of the outputs, dB; `None` for float itself and for equal outputs.
    pub sqnr_db: Option<f64>,
    /// Time per run against float, one thread, batch 1, in turns.
    pub latency_ratio: Option<f64>,
    /// Nodes that run in float, as far as the variant has 8-bit ones.
    pub float_nodes: Vec<NodeReport>,
    /// Whether no other row is as small, as fast and as close to float, and better in one of these; `None` where that was
    /// not measured.
    pub pareto: Option<bool>,
}

impl Row {
    fn cost(&self) -> Cost {
        Cost {
            size_bytes: self.size_bytes,
            latency_ratio: self.latency_ratio.unwrap_or(f64::INFINITY),
            // Float itself, and variants with equal outputs, have no noise.
            noise_db: self.sqnr_db.map_or(f64::NEG_INFINITY, |sqnr_db| -sqnr_db),
        }
    }
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// The metric of [`Row::metric`].
    pub metric: Option<Metric>,
    /// Float first.
    pub rows: Vec<Row>,
    /// What the search tried for each searched variant.
    pub steps: Vec<(Precision, Vec<Step>)>,
    /// Most sensitive node first, where a goal made the search look.
    pub sensitivities: Vec<Sensitivity>,
    /// The variant that misses its goal, and what it lacks.
    pub shortfall: Option<String>,
    /// Files that were written.
    pub written: Vec<PathBuf>,
}

/// All that a model can become, in the table's order.
pub const SWEEP: [Precision; 6] = [
    Precision::Int8,
    Precision::Int8Dynamic,
    Precision::Int8Weights,
    Precision::Int4Weights,
    Precision::Int8Symmetric,
    Precision::Float16,
];

/// Everything that variants of one model are made and judged with.
pub struct Bench<'a> {
    /// What runs them.
    pub engine: &'a Engine,
    /// As trained.
    pub float: &'a Model,
    /// In the form that variants are made from.
    pub prepared: &'a Model,
    /// What they are calibrated and compared with.
    pub samples: &'a Samples,
    /// What measures them, where there is evaluation data.
    pub judge: Option<&'a Judge>,
}

/// How good variants must be.
pub struct Wishes {
    /// Scales per weight.
    pub granularity: Granularity,
    /// Largest drop of the metric against float.
    pub max_drop: Option<f64>,
    /// Least signal to noise, dB.
    pub target_sqnr_db: Option<f64>,
    /// Whether `int8` may be slower than float.
    pub allow_slower: bool,
    /// Whether each node's share is wanted.
    pub show_sensitivities: bool,
}

impl Wishes {
    /// What a variant lacks that has no nodes to choose.
    fn missed(
        &self,
        judged: Option<Metric>,
        float: Option<f64>,
        metric: Option<f64>,
        closeness: Closeness,
    ) -> Option<String> {
        if let (Some(most), Some(judged), Some(float), Some(metric)) = (self.max_drop, judged, float, metric)
        {
            let drop = judged.drop(float, metric);
            if drop > most {
                return Some(format!("{judged} drops by {drop:.4}, allowed are {most}"));
            }
        }
        let least = self.target_sqnr_db.filter(|least| closeness.sqnr_db < *least)?;
        Some(format!("{:.1} dB, wanted are {least}", closeness.sqnr_db))
    }
}

/// A variant and how it came about.
pub struct Variant {
    /// Which one.
    pub precision: Precision,
    /// Its graph.
    pub model: Model,
    /// What became of the nodes, as far as it is told.
    pub nodes: Vec<NodeReport>,
    /// What the search found, where there is one.
    pub found: Option<Found>,
}

/// The nodes that a variant runs in float although it has others.
pub fn in_float(nodes: &[NodeReport]) -> Vec<NodeReport> {
    let is_float = |node: &&NodeReport| matches!(node.outcome, NodeOutcome::Float(_));
    nodes.iter().filter(is_float).cloned().collect()
}

impl Bench<'_> {
    /// All schemes; none was asked for, so none can miss a goal.
    ///
    /// # Errors
    /// Models and data that cannot be used.
    pub fn sweep(&self, wishes: &Wishes, events: Sink<'_>) -> Result<Outcome, BuildError> {
        let (outcome, _) = self.run(&SWEEP, wishes, events)?;
        Ok(Outcome {
            shortfall: None,
            ..outcome
        })
    }

    /// Makes variants, and compares them with float and each other.
    ///
    /// # Errors
    /// Models and data that cannot be used.
    pub fn run(
        &self,
        precisions: &[Precision],
        wishes: &Wishes,
        events: Sink<'_>,
    ) -> Result<(Outcome, Vec<Variant>), BuildError> {
        let float_metric = self.measure(self.float, Precision::Float32)?;
        if wishes.max_drop.is_some() && float_metric.is_none() {
            return Err(BuildError::Other(
                "--max-drop needs --evaluation DIR with labels.npy".to_owned(),
            ));
        }
        let mut variants = Vec::new();
        for &precision in precisions {
            events(Event::Note(format!("{precision}: calibrating and searching")));
            variants.push(self.variant(precision, wishes, float_metric)?);
        }
        let models: Vec<&Model> = std::iter::once(self.float)
            .chain(variants.iter().map(|variant| &variant.model))
            .collect();
        let reference = Reference::new(self.engine, self.float, self.samples)?;
        let latencies: Vec<f64> = reference
            .latencies(&models)?
            .into_iter()
            .map(|latency| latency.ratio)
            .collect();
        let judged = self.judge.map(Judge::metric);
        let mut outcome = Outcome {
            metric: judged,
            ..Outcome::default()
        };
        outcome.rows.push(row(
            Precision::Float32,
            self.float,
            float_metric,
            None,
            latencies.first().copied(),
        ));
        for (variant, latency) in variants.iter().zip(&latencies[1..]) {
            let metric = self.measure(&variant.model, variant.precision)?;
            let closeness = reference.closeness(&variant.model, usize::MAX)?;
            let mut row = row(
                variant.precision,
                &variant.model,
                metric,
                Some(closeness),
                Some(*latency),
            );
            row.float_nodes = in_float(&variant.nodes);
            // Nothing can be searched here, so a missed goal is only told; a sweep shows all.
            if variant.found.is_none()
                && let Some(missed) = wishes.missed(judged, float_metric, metric, closeness)
            {
                outcome.shortfall = Some(format!("{}: {missed}", variant.precision));
            }
            if let Some(found) = &variant.found {
                outcome.steps.push((variant.precision, found.steps.clone()));
                if let Some(shortfall) = found.shortfall.as_ref().or(found.too_slow.as_ref()) {
                    outcome.shortfall = Some(format!("{}: {shortfall}", variant.precision));
                }
                if !found.sensitivities.is_empty() {
                    outcome.sensitivities.clone_from(&found.sensitivities);
                }
            }
            outcome.rows.push(row);
        }
        let costs: Vec<Cost> = outcome.rows.iter().map(Row::cost).collect();
        for (row, best) in outcome.rows.iter_mut().zip(pareto(&costs)) {
            row.pareto = Some(best);
        }
        Ok((outcome, variants))
    }

    fn measure(&self, model: &Model, precision: Precision) -> Result<Option<f64>, BuildError> {
        self.judge
            .map(|judge| judge.measure(self.engine, model, precision))
            .transpose()
    }

    fn variant(
        &self,
        precision: Precision,
        wishes: &Wishes,
        float_metric: Option<f64>,
    ) -> Result<Variant, BuildError> {
        if let Some((model, nodes)) = direct(self.prepared, precision).map_err(BuildError::other)? {
            return Ok(Variant {
                precision,
                model,
                nodes,
                found: None,
            });
        }
        let form = Form {
            activations: super::activations(precision),
            granularity: wishes.granularity,
        };
        let drop = |model: &Model| match (self.judge, float_metric) {
            (Some(judge), Some(float)) => Ok(judge
                .metric()
                .drop(float, judge.measure(self.engine, model, precision)?)),
            _ => Ok(0.0),
        };
        let goal = Goal {
            target_sqnr_db: wishes.target_sqnr_db,
            max_drop: wishes.max_drop.map(|most| (most, &drop as &MeasureDrop<'_>)),
            allow_slower: wishes.allow_slower,
            show_sensitivities: wishes.show_sensitivities,
        };
        let found = search(self.engine, self.prepared, self.samples, form, &goal)?;
        Ok(Variant {
            precision,
            model: found.model.clone(),
            nodes: found.report.nodes.clone(),
            found: Some(found),
        })
    }
}

/// A row of the table; what was not measured is `None`.
pub fn row(
    scheme: Precision,
    model: &Model,
    metric: Option<f64>,
    closeness: Option<Closeness>,
    latency_ratio: Option<f64>,
) -> Row {
    Row {
        scheme,
        size_bytes: model.size_bytes(),
        metric,
        agreement: closeness.and_then(|closeness| closeness.agreement),
        sqnr_db: closeness
            .map(|closeness| closeness.sqnr_db)
            .filter(|db| db.is_finite()),
        latency_ratio,
        float_nodes: Vec::new(),
        pareto: None,
    }
}
