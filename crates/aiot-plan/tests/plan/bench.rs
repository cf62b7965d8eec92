//! A workspace whose actions are executed by making their outputs up: a digest of the key and the output's name.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::Digest;
use aiot_plan::action::{Action, DirtyReason, Lookup, Output, Record, Results};
use aiot_plan::lock::{Lock, LockedClosure, LockedPackage, LockedWheel};
use aiot_plan::plan::{Facts, Plan, Selection, Status, Unlocked, build, status};
use aiot_plan::{ModelName, ModuleName, Workspace};

use crate::common::{MODELS, TARGETS, workspace};

/// A digest that stands for something.
pub fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

/// A model's name.
pub fn model_name(name: &str) -> ModelName {
    ModelName::new(name).expect("a name")
}

/// Results in memory, as JSON: what is compared is what comes back from a file.
#[derive(Clone, Default)]
pub struct Memory {
    records: BTreeMap<Digest, String>,
    last: BTreeMap<String, Digest>,
    /// Blobs that are gone.
    pub lost: BTreeSet<Digest>,
}

impl Memory {
    fn keep(&mut self, record: &Record) {
        self.last.insert(record.id.clone(), record.key);
        self.records
            .insert(record.key, serde_json::to_string(record).unwrap());
        for output in record.outputs.values() {
            self.lost.remove(&output.digest);
        }
    }

    fn read(&self, key: &Digest) -> Option<Record> {
        self.records
            .get(key)
            .map(|text| serde_json::from_str(text).unwrap())
    }

    /// An action never ran here.
    pub fn forget(&mut self, id: &str) {
        self.last.remove(id);
    }

    /// What an action made last.
    #[track_caller]
    pub fn output(&self, id: &str, output: &str) -> Digest {
        let key = self.last.get(id).unwrap_or_else(|| panic!("`{id}` never ran"));
        self.read(key).unwrap().outputs[output].digest
    }
}

impl Results for Memory {
    fn result(&self, key: &Digest) -> Lookup {
        let Some(record) = self.read(key) else {
            return Lookup::Miss;
        };
        match record
            .outputs
            .values()
            .find(|output| self.lost.contains(&output.digest))
        {
            Some(output) => Lookup::Lost {
                digest: output.digest,
            },
            None => Lookup::Hit(record),
        }
    }

    fn previous(&self, id: &str) -> Option<Record> {
        self.read(self.last.get(id)?)
    }
}

/// Everything that a plan is made from, and what earlier plans left.
#[derive(Clone)]
pub struct Bench {
    /// `models.toml`
    pub models: String,
    /// `targets.toml`
    pub targets: String,
    /// What was observed.
    pub facts: Facts,
    /// What is locked.
    pub lock: Lock,
    /// What was selected.
    pub selection: Selection,
    /// What earlier plans left.
    pub memory: Memory,
    /// Actions that make the same whatever goes in.
    pub unmoved: BTreeSet<String>,
}

impl Bench {
    /// The small workspace, nothing locked, nothing built.
    pub fn empty() -> Bench {
        Bench::of(MODELS, TARGETS)
    }

    /// The small workspace, all locked, nothing built.
    pub fn locked() -> Bench {
        let mut bench = Bench::empty();
        bench.lock_all();
        bench
    }

    /// The small workspace, all built.
    pub fn built() -> Bench {
        let mut bench = Bench::locked();
        bench.release();
        assert_eq!(bench.release(), "", "twice is once");
        bench
    }

    /// Some workspace, all files there, nothing locked.
    pub fn of(models: &str, targets: &str) -> Bench {
        let workspace = workspace(models, targets);
        let mut facts = Facts {
            host_architecture: "x86_64".to_owned(),
            rustc: "1.95.0".to_owned(),
            ..Facts::default()
        };
        for model in workspace.models.values() {
            let files = [Some(&model.path), model.labels_path.as_ref()];
            facts.files.extend(
                files
                    .into_iter()
                    .flatten()
                    .map(|path| (path.clone(), digest(path))),
            );
            let sets = [Some(&model.evaluation_path), model.calibration_path.as_ref()];
            facts.datasets.extend(
                sets.into_iter()
                    .flatten()
                    .map(|path| (path.clone(), digest(path))),
            );
            facts
                .modules
                .insert(model.module.clone(), digest(model.module.as_str()));
        }
        for name in [
            "aiot-debian",
            "aiot-inference",
            "aiot-oci",
            "aiot-onnx",
            "aiot-toolchain",
        ] {
            facts.code.insert(name.to_owned(), digest(name));
        }
        Bench {
            models: models.to_owned(),
            targets: targets.to_owned(),
            facts,
            lock: Lock::default(),
            selection: Selection::default(),
            memory: Memory::default(),
            unmoved: BTreeSet::new(),
        }
    }

    /// The declarations, resolved.
    #[track_caller]
    pub fn workspace(&self) -> Workspace {
        workspace(&self.models, &self.targets)
    }

    /// What must be locked.
    #[track_caller]
    pub fn unlocked(&self) -> Unlocked {
        build(&self.workspace(), &self.facts, &self.lock, &self.selection)
            .err()
            .unwrap_or_default()
    }

    /// Locks what must be.
    #[track_caller]
    pub fn lock_all(&mut self) {
        let unlocked = self.unlocked();
        for request in unlocked.wheels {
            let filename = format!("{}-{}-{}.whl", request.package, request.version, request.platform);
            self.lock.wheel.push(LockedWheel {
                digest: digest(&filename),
                package: request.package,
                platform: request.platform,
                version: request.version,
                filename,
                size_bytes: 1,
            });
        }
        for request in unlocked.closures {
            let package = |name: &String| LockedPackage {
                name: name.clone(),
                version: "1".to_owned(),
                architecture: request.architecture.clone(),
                filename: format!("pool/{name}_{}.deb", request.architecture),
                size_bytes: 1,
                digest: digest(name),
            };
            self.lock.debian.push(LockedClosure {
                package: request.roots.iter().map(package).collect(),
                suite: request.suite,
                architecture: request.architecture.clone(),
                roots: request.roots,
                exclude: request.exclude,
            });
        }
        assert_eq!(
            self.unlocked(),
            Unlocked::default(),
            "all that was asked for is there"
        );
    }

    /// The plan.
    #[track_caller]
    pub fn plan(&self) -> Plan {
        build(&self.workspace(), &self.facts, &self.lock, &self.selection).expect("all is locked")
    }

    /// Executes the plan in its order. One line for each action that ran: id and reasons.
    #[track_caller]
    pub fn release(&mut self) -> String {
        let plan = self.plan();
        let mut outputs: Vec<Option<BTreeMap<String, Output>>> = Vec::new();
        let mut ran = String::new();
        for (node, planned) in plan.nodes.iter().enumerate() {
            let record = match status(&plan, node, &outputs, &self.memory) {
                Status::Done(record) => *record,
                Status::Waiting { reasons } => panic!("`{}` waits in its turn: {reasons:?}", planned.id),
                Status::Run { key, reasons } => {
                    ran.push_str(&format!("{}: {}\n", planned.id, words(&reasons)));
                    let record = self.make(&plan, node, key, &outputs);
                    self.memory.keep(&record);
                    record
                }
            };
            outputs.push(Some(record.outputs));
        }
        ran.trim_end().to_owned()
    }

    fn make(
        &self,
        plan: &Plan,
        node: usize,
        key: Digest,
        outputs: &[Option<BTreeMap<String, Output>>],
    ) -> Record {
        use aiot_plan::plan::Source;
        let planned = &plan.nodes[node];
        let inputs = planned.inputs.iter().map(|(name, source)| {
            let digest = match source {
                Source::Given(digest) => *digest,
                Source::Output { node, output } => {
                    outputs[*node].as_ref().expect("ran before")[output].digest
                }
            };
            (name.clone(), digest)
        });
        let seed = if self.unmoved.contains(&planned.id) {
            planned.id.clone()
        } else {
            key.to_string()
        };
        let made = output_names(&planned.action).iter().map(|name| {
            let output = Output {
                digest: digest(&format!("{seed} {name}")),
                size_bytes: 1,
                diff_id: None,
                media_type: None,
            };
            ((*name).to_owned(), output)
        });
        Record {
            id: planned.id.clone(),
            key,
            parameters: planned.action.parameters(),
            inputs: inputs.collect(),
            outputs: made.collect(),
        }
    }

    /// Replaces a declaration's only `old`.
    #[track_caller]
    pub fn edit_models(&mut self, old: &str, new: &str) {
        self.models = crate::common::with(&self.models, old, new);
    }

    /// Replaces a declaration's only `old`.
    #[track_caller]
    pub fn edit_targets(&mut self, old: &str, new: &str) {
        self.targets = crate::common::with(&self.targets, old, new);
    }

    /// Changes the sources of a module, to something new each time.
    pub fn edit_module(&mut self, module: &str) {
        let digest_of = self
            .facts
            .modules
            .get_mut(&ModuleName::new(module).expect("a name"))
            .expect("a module");
        *digest_of = digest(&format!("{digest_of} edited"));
    }
}

/// What each action makes, by its documentation.
fn output_names(action: &Action) -> &'static [&'static str] {
    match action {
        Action::FetchModel { .. } | Action::Quantize { .. } => &["model"],
        Action::FetchEngine { .. } => &["library"],
        Action::AssembleBase {
            engine_library: Some(_),
            ..
        } => &["layer", "engine-layer"],
        Action::AssembleBase { .. } | Action::AssemblePackage { .. } | Action::AssembleLayer { .. } => {
            &["layer"]
        }
        Action::FetchBaseImage { .. } => &["manifest", "config", "layer-0"],
        Action::Calibrate { .. } => &["ranges"],
        Action::Measure { .. } => &["measured"],
        Action::CompileModule { .. } => &["binary"],
        Action::AssembleImage { .. } => &["manifest", "config"],
        Action::AssembleIndex { .. } => &["index"],
    }
}

/// Reasons as people read them.
pub fn words(reasons: &[DirtyReason]) -> String {
    reasons
        .iter()
        .map(DirtyReason::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Compares lines.
#[track_caller]
pub fn same(found: &str, expected: &str) {
    let (found, expected) = (found.trim_end(), crate::common::dedent(expected));
    assert!(found == expected, "found:\n{found}\n\nexpected:\n{expected}\n");
}
