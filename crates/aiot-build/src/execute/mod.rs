//! Runs the actions of a plan on a thread pool, each as soon as its inputs are there, results into the store.
//!
//! An action whose inputs came out as they were before is not run. The first error stops the start of further actions;
//! what runs is finished and kept, so running again goes on from there.

mod base;
mod compile;
mod contents;
mod earlier;
mod image;
mod measure;
mod quantize;

pub use contents::LayerContent;
pub use image::{LayerContents, UNPACKED_OUTPUT, oci_platform};

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Instant;

use aiot_inference::engine::Engine;
use aiot_oci::{Digest, Store};
use aiot_package::{PACKAGE_DIR, SHADOW_DIR};
use aiot_plan::action::{Action, Output, Record};
use aiot_plan::plan::{Node, Plan, Source, Status, status};
use aiot_plan::{Model, Workspace};

use crate::cache::Cache;
use crate::error::BuildError;
use crate::events::{Event, Sink};
use crate::model_file::read_model_with;
use crate::network::Network;
use crate::observe::Observation;
use crate::paths::Paths;

/// Everything that actions need beside their inputs.
pub struct Context<'a> {
    /// Folders.
    pub paths: &'a Paths,
    /// Declarations.
    pub workspace: &'a Workspace,
    /// The lock, for build tools.
    pub lock: &'a aiot_plan::lock::Lock,
    /// Contents behind given digests.
    pub observation: &'a Observation,
    /// Blobs.
    pub store: &'a Store,
    /// Results.
    pub cache: &'a Cache,
    /// The network; `None` = offline.
    pub network: Option<&'a Network>,
    /// Where progress goes.
    pub events: Sink<'a>,
    /// The host's engine, loaded at most once.
    pub engine: OnceLock<Result<Engine, String>>,
    /// cargo uses all cores by itself and locks its folders: one compile at a time.
    pub compiling: Mutex<()>,
    /// Layers that were looked into.
    pub layers: LayerContents,
}

/// An input of a running action.
#[derive(Clone, Debug)]
pub struct Input {
    /// Digest of its content.
    pub digest: Digest,
    /// Where it is an output: all that is known of it.
    pub output: Option<Output>,
}

/// What ran, and what everything came to.
pub struct Outcome {
    /// Outputs of all actions, in the plan's order.
    pub outputs: Vec<BTreeMap<String, Output>>,
    /// Ids of actions that ran, with their reasons, in the plan's order.
    pub ran: Vec<(String, Vec<aiot_plan::action::DirtyReason>)>,
}

struct State {
    outputs: Vec<Option<BTreeMap<String, Output>>>,
    missing_inputs: Vec<usize>,
    ready: std::collections::BTreeSet<usize>,
    running: usize,
    ran: BTreeMap<usize, Vec<aiot_plan::action::DirtyReason>>,
    errors: Vec<BuildError>,
}

/// Runs the plan with `jobs` threads.
///
/// # Errors
/// All errors of actions that ran.
pub fn execute(plan: &Plan, context: &Context<'_>, jobs: usize) -> Result<Outcome, BuildError> {
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); plan.nodes.len()];
    let mut missing_inputs = vec![0; plan.nodes.len()];
    for (index, node) in plan.nodes.iter().enumerate() {
        for before in inputs_before(node) {
            dependents[before].push(index);
            missing_inputs[index] += 1;
        }
    }
    let ready = (0..plan.nodes.len())
        .filter(|&node| missing_inputs[node] == 0)
        .collect();
    let state = Mutex::new(State {
        outputs: vec![None; plan.nodes.len()],
        missing_inputs,
        ready,
        running: 0,
        ran: BTreeMap::new(),
        errors: Vec::new(),
    });
    let wake = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| worker(plan, context, &dependents, &state, &wake));
        }
    });
    context.cache.save()?;
    let state = state.into_inner().expect("no panic while held");
    match state.errors.len() {
        0 => {}
        1 => return Err(state.errors.into_iter().next().expect("one")),
        _ => return Err(BuildError::Many(state.errors)),
    }
    Ok(Outcome {
        outputs: state
            .outputs
            .into_iter()
            .map(|outputs| outputs.expect("all ran"))
            .collect(),
        ran: state
            .ran
            .into_iter()
            .map(|(node, reasons)| (plan.nodes[node].id.clone(), reasons))
            .collect(),
    })
}

/// Actions that a node needs, each once.
fn inputs_before(node: &Node) -> std::collections::BTreeSet<usize> {
    node.inputs
        .values()
        .filter_map(|source| match source {
            Source::Output { node, .. } => Some(*node),
            Source::Given(_) => None,
        })
        .collect()
}

fn worker(
    plan: &Plan,
    context: &Context<'_>,
    dependents: &[Vec<usize>],
    state: &Mutex<State>,
    wake: &Condvar,
) {
    let mut guard = state.lock().expect("no panic while held");
    loop {
        if !guard.errors.is_empty() || (guard.ready.is_empty() && guard.running == 0) {
            wake.notify_all();
            return;
        }
        let Some(node) = guard.ready.pop_first() else {
            guard = wake.wait(guard).expect("no panic while held");
            continue;
        };
        guard.running += 1;
        let inputs = inputs(plan, node, &guard.outputs);
        let known = status(plan, node, &guard.outputs, context.cache);
        drop(guard);
        let result = match known {
            Status::Done(record) => Ok((record.outputs, None)),
            Status::Run { key, reasons } => run_and_keep(&plan.nodes[node], key, &inputs, &reasons, context)
                .map(|outputs| (outputs, Some(reasons))),
            Status::Waiting { .. } => unreachable!("all inputs are there"),
        };
        guard = state.lock().expect("no panic while held");
        guard.running -= 1;
        match result {
            Ok((outputs, reasons)) => {
                guard.outputs[node] = Some(outputs);
                if let Some(reasons) = reasons {
                    guard.ran.insert(node, reasons);
                }
                for &next in &dependents[node] {
                    guard.missing_inputs[next] -= 1;
                    if guard.missing_inputs[next] == 0 {
                        guard.ready.insert(next);
                    }
                }
            }
            Err(error) => guard.errors.push(error),
        }
        wake.notify_all();
    }
}

fn inputs(plan: &Plan, node: usize, outputs: &[Option<BTreeMap<String, Output>>]) -> BTreeMap<String, Input> {
    let one = |source: &Source| match source {
        Source::Given(digest) => Input {
            digest: *digest,
            output: None,
        },
        Source::Output { node, output } => {
            let output = &outputs[*node].as_ref().expect("ran before")[output];
            Input {
                digest: output.digest,
                output: Some(output.clone()),
            }
        }
    };
    plan.nodes[node]
        .inputs
        .iter()
        .map(|(name, source)| (name.clone(), one(source)))
        .collect()
}

fn run_and_keep(
    node: &Node,
    key: Digest,
    inputs: &BTreeMap<String, Input>,
    reasons: &[aiot_plan::action::DirtyReason],
    context: &Context<'_>,
) -> Result<BTreeMap<String, Output>, BuildError> {
    (context.events)(Event::Started {
        id: node.id.clone(),
        reasons: reasons.to_vec(),
    });
    let started = Instant::now();
    let outputs = run(node, inputs, context)?;
    let record = Record {
        id: node.id.clone(),
        key,
        parameters: node.action.parameters(),
        inputs: inputs
            .iter()
            .map(|(name, input)| (name.clone(), input.digest))
            .collect(),
        outputs: outputs.clone(),
    };
    context.cache.keep(&record)?;
    (context.events)(Event::Finished {
        id: node.id.clone(),
        millis: started.elapsed().as_millis(),
    });
    Ok(outputs)
}

/// Runs one action.
fn run(
    node: &Node,
    inputs: &BTreeMap<String, Input>,
    context: &Context<'_>,
) -> Result<BTreeMap<String, Output>, BuildError> {
    let task = Task {
        id: &node.id,
        inputs,
        context,
    };
    match &node.action {
        Action::FetchModel { path, data } => task.fetch_model(path, data),
        Action::FetchEngine { wheel } => task.fetch_engine(wheel),
        Action::AssembleBase {
            architecture,
            packages,
            engine_library,
            compression,
        } => task.assemble_base(architecture, packages, engine_library.as_deref(), *compression),
        Action::FetchBaseImage { reference, platform } => task.fetch_base_image(reference, platform),
        Action::Calibrate {
            model,
            subject,
            precision,
            granularity,
            budget,
        } => task.calibrate(model, *subject, *precision, *granularity, budget),
        Action::Quantize {
            precision,
            granularity,
        } => task.quantize(*precision, *granularity),
        Action::Measure {
            model,
            precision,
            subject,
            metric,
            package,
        } => task.measure(model, *precision, *subject, *metric, package),
        Action::AssemblePackage {
            model,
            version,
            description,
            precision,
            package,
            shadow,
        } => {
            let root = if *shadow { SHADOW_DIR } else { PACKAGE_DIR };
            task.assemble_package(root, (model, version, description), *precision, package)
        }
        Action::CompileModule {
            module,
            triple,
            glibc,
            builder,
            ..
        } => task.compile(module, triple, glibc, *builder),
        Action::AssembleLayer {
            path,
            mode,
            compression,
        } => task.assemble_layer(path, *mode, *compression),
        Action::AssembleImage {
            model,
            target,
            platform,
            entrypoint,
            env,
            labels,
            glibc,
        } => task.assemble_image((model, target), platform, entrypoint, env, labels, glibc),
        Action::AssembleIndex {
            platforms,
            annotations,
        } => task.assemble_index(platforms, annotations),
    }
}

/// One running action.
struct Task<'a> {
    id: &'a str,
    inputs: &'a BTreeMap<String, Input>,
    context: &'a Context<'a>,
}

/// Largest model or library that is read into memory.
const BLOB_LIMIT_BYTES: u64 = 4 << 30;

impl Task<'_> {
    fn fail(&self, reason: impl ToString) -> BuildError {
        BuildError::action(self.id, reason)
    }

    fn input(&self, name: &str) -> &Input {
        self.inputs
            .get(name)
            .unwrap_or_else(|| panic!("`{}` has no input `{name}`", self.id))
    }

    /// The content of an input that is a blob of the store or a committed record.
    fn bytes(&self, name: &str) -> Result<Vec<u8>, BuildError> {
        let digest = self.input(name).digest;
        if let Some(bytes) = self.context.observation.records.get(&digest) {
            return Ok(bytes.clone());
        }
        self.context
            .store
            .read_verified(&digest, BLOB_LIMIT_BYTES)
            .map_err(|error| self.fail(error))
    }

    fn put(&self, bytes: &[u8]) -> Result<Output, BuildError> {
        let blob = self
            .context
            .store
            .put_bytes(bytes)
            .map_err(|error| self.fail(error))?;
        Ok(Output {
            digest: blob.digest,
            size_bytes: blob.size,
            diff_id: None,
            media_type: None,
        })
    }

    fn one(&self, name: &str, output: Output) -> BTreeMap<String, Output> {
        BTreeMap::from([(name.to_owned(), output)])
    }

    fn model(&self, name: &aiot_plan::ModelName) -> &Model {
        &self.context.workspace.models[name]
    }

    fn fetch_model(
        &self,
        path: &str,
        data: &BTreeMap<String, Digest>,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let file = self.context.paths.file(path);
        let store = &self.context.store;
        let blob = store.put_file(&file).map_err(|error| self.fail(error))?;
        let expected = self.input("model").digest;
        if blob.digest != expected {
            return Err(self.fail(format!("{path} has {}, models.toml says {expected}", blob.digest)));
        }
        let blob = match data.is_empty() {
            true => blob,
            false => {
                let look = |place: &str, bytes: &[u8]| match (data.get(place), Digest::of(bytes)) {
                    (Some(expected), found) if *expected == found => Ok(()),
                    (Some(expected), found) => Err(format!("it has {found}, models.toml says {expected}")),
                    (None, _) => Err("models.toml does not declare it".to_owned()),
                };
                let model = read_model_with(&file, look)?.map_err(|error| self.fail(error))?;
                store
                    .put_bytes(&model.to_bytes())
                    .map_err(|error| self.fail(error))?
            }
        };
        let output = Output {
            digest: blob.digest,
            size_bytes: blob.size,
            diff_id: None,
            media_type: None,
        };
        Ok(self.one("model", output))
    }

    /// The host's engine, loaded once per process from the library in the store.
    fn engine(&self) -> Result<Engine, BuildError> {
        let digest = self.input("engine").digest;
        let engine = self.context.engine.get_or_init(|| {
            self.context
                .store
                .open_verified(&digest)
                .and_then(|reader| reader.finish())
                .map_err(|e| e.to_string())?;
            Engine::load(&self.context.store.path(&digest)).map_err(|error| error.to_string())
        });
        engine.clone().map_err(|reason| self.fail(reason))
    }
}
