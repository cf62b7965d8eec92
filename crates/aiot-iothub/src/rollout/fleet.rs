//! What runs where: for each device and module what the hub wants there, and what the device says that it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde::{Serialize, Serializer};

use super::declared::{Declared, images};
use super::explain::{Readable, effective};
use super::health::{Standing, standing};
use super::labels::Place;
use super::state::{Device, HubDeployment};
use crate::merge::MergeError;

/// Which rows are wanted; none set: all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A model's name, or a module's.
    pub model: Option<String>,
    /// A device's id.
    pub device: Option<String>,
    /// A target's name.
    pub target: Option<String>,
}

/// One module on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row<'a> {
    /// The device.
    pub device: &'a str,
    /// Target of the deployments that match it; none: no deployment of ours does.
    #[serde(serialize_with = "some_text")]
    pub target: Option<Rc<str>>,
    /// The edge module; `edgeAgent` and `edgeHub` among them.
    #[serde(serialize_with = "text")]
    pub module: Rc<str>,
    /// What the hub wants; none: nothing, the module is left over.
    #[serde(serialize_with = "some_text")]
    pub wanted: Option<Rc<str>>,
    /// What the device says that it runs; none: nothing.
    #[serde(serialize_with = "some_text")]
    pub reported: Option<Rc<str>>,
    /// How it does.
    pub state: State,
}

fn text<S: Serializer>(text: &Rc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn some_text<S: Serializer>(text: &Option<Rc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(serializer)
}

/// How a module does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As [`Standing`], for this module alone; silent: not what is wanted yet.
    Of(Standing),
    /// Runs, and no deployment wants it.
    LeftOver,
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl State {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Of(Standing::Failed) => "failed",
            State::Of(Standing::Unhealthy) => "unhealthy",
            State::Of(Standing::SelfCheckFailed) => "self-check-failed",
            State::Of(Standing::Silent) => "waiting",
            State::Of(Standing::Drifting) => "drifting",
            State::Of(Standing::Good) => "good",
            State::LeftOver => "left-over",
        }
    }
}

/// What the same deployments bring to every device that they match.
struct Wanted {
    target: Option<Rc<str>>,
    /// Module → its image, and the image in the words of people.
    images: BTreeMap<Rc<str>, (String, Rc<str>)>,
}

/// The fleet under one set of deployments.
pub struct Fleet<'a> {
    declared: &'a Declared,
    readable: Readable<'a>,
    filter: Filter,
    /// By the ids of the deployments that match.
    known: BTreeMap<Vec<&'a str>, Rc<Wanted>>,
    /// Images in the words of people.
    names: BTreeMap<String, Rc<str>>,
    /// Names of modules that the filter's model has.
    modules: Option<BTreeSet<String>>,
}

impl<'a> Fleet<'a> {
    /// Reads the conditions once.
    pub fn new(declared: &'a Declared, deployments: &'a [HubDeployment], filter: Filter) -> Fleet<'a> {
        let facts = || declared.list().deployments.iter().flat_map(|one| &one.modules);
        let modules = filter.model.as_ref().map(|model| {
            let of_model = facts()
                .filter(|facts| facts.model == *model)
                .map(|facts| facts.name.clone());
            of_model.chain([model.clone()]).collect()
        });
        let mut names = BTreeMap::new();
        for deployment in &declared.list().deployments {
            let Some(content) = declared.content(&deployment.id) else {
                continue;
            };
            for (name, image) in images(content) {
                if let Some(facts) = deployment.modules.iter().find(|facts| facts.name == name) {
                    let text = format!("{} {} ({})", facts.model, facts.version, short(&image));
                    names.insert(image, Rc::from(text));
                }
            }
        }
        Fleet {
            declared,
            readable: Readable::new(deployments),
            filter,
            known: BTreeMap::new(),
            names,
            modules,
        }
    }

    /// The rows of one device, by module.
    ///
    /// # Errors
    /// Contents that are no deployments.
    pub fn rows<'d>(&mut self, device: &'d Device) -> Result<Vec<Row<'d>>, MergeError> {
        if self
            .filter
            .device
            .as_ref()
            .is_some_and(|wanted| *wanted != device.id)
        {
            return Ok(Vec::new());
        }
        let wanted = self.wanted(device)?;
        if self.filter.target.is_some() && self.filter.target.as_deref() != wanted.target.as_deref() {
            return Ok(Vec::new());
        }
        let shown = |module: &str| {
            self.modules
                .as_ref()
                .is_none_or(|modules| modules.contains(module))
        };
        let mut rows = Vec::new();
        for (module, (image, name)) in wanted.images.iter().filter(|(module, _)| shown(module)) {
            let reported = device.agent.modules.get(&**module);
            let same = reported.is_some_and(|report| report.image == *image);
            let alone = BTreeMap::from([(module.to_string(), image.clone())]);
            rows.push(Row {
                device: &device.id,
                target: wanted.target.clone(),
                module: Rc::clone(module),
                wanted: Some(Rc::clone(name)),
                reported: match reported {
                    Some(_) if same => Some(Rc::clone(name)),
                    Some(report) => Some(named(&mut self.names, &report.image)),
                    None => None,
                },
                state: State::Of(standing(device, "", &alone, false)),
            });
        }
        for (module, report) in &device.agent.modules {
            if !wanted.images.contains_key(module.as_str()) && shown(module) {
                rows.push(Row {
                    device: &device.id,
                    target: wanted.target.clone(),
                    module: Rc::from(module.as_str()),
                    wanted: None,
                    reported: Some(named(&mut self.names, &report.image)),
                    state: State::LeftOver,
                });
            }
        }
        Ok(rows)
    }

    fn wanted(&mut self, device: &Device) -> Result<Rc<Wanted>, MergeError> {
        let matching = self.readable.matching(device);
        let ids: Vec<&str> = matching.iter().map(|one| one.id.as_str()).collect();
        if let Some(known) = self.known.get(&ids) {
            return Ok(Rc::clone(known));
        }
        let environment = &self.declared.list().environment;
        let target = matching
            .iter()
            .filter_map(|one| Place::of(one)?.ok())
            .find(|place| place.environment == *environment)
            .map(|place| Rc::from(place.lineage.target.as_str()));
        let merged = effective(matching.iter().copied())?;
        let found = merged
            .map(|(_, merged)| images(&merged.to_content()))
            .unwrap_or_default();
        let images = found
            .into_iter()
            .map(|(module, image)| {
                let name = named(&mut self.names, &image);
                (Rc::from(module), (image, name))
            })
            .collect();
        let wanted = Rc::new(Wanted { target, images });
        self.known.insert(ids, Rc::clone(&wanted));
        Ok(wanted)
    }
}

/// An image in the words of people; shortened where it is not declared.
fn named(names: &mut BTreeMap<String, Rc<str>>, image: &str) -> Rc<str> {
    if let Some(name) = names.get(image) {
        return Rc::clone(name);
    }
    let name: Rc<str> = match image.split_once("@sha256:") {
        Some((repository, _)) => {
            let last = repository.rsplit('/').next().unwrap_or(repository);
            Rc::from(format!("{last} ({})", short(image)))
        }
        None => Rc::from(image.rsplit('/').next().unwrap_or(image)),
    };
    names.insert(image.to_owned(), Rc::clone(&name));
    name
}

/// The first 12 digits of an image's digest.
fn short(image: &str) -> &str {
    let digest = image.split_once("@sha256:").map_or("", |(_, digest)| digest);
    digest.get(..12).unwrap_or(digest)
}
