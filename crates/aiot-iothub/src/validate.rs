//! Checks the input: names, images, conditions, routes, variables. Everything that is wrong, not only the first.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::condition::Condition;
use crate::error::{ManifestError, Problem};
use crate::image::{check_pinned, is_repository};
use crate::manifest::module_place;
use crate::release::{EnvValue, ModuleRelease, Release, RouteSpec, TargetRelease};
use crate::route;
use crate::syntax::{is_module_id, shortened};

/// Parsed conditions of a release, in the order of its lists. What could not be read is [`Condition::All`] there
/// and an error beside it.
pub(crate) struct Conditions {
    /// Each with the devices of the rings before it.
    pub rings: Vec<Condition>,
    pub targets: Vec<TargetConditions>,
}

pub(crate) struct TargetConditions {
    pub devices: Condition,
    pub modules: Vec<Condition>,
}

const NAME: &str = "lower-case letters, digits and `-`, a letter or digit first and last, at most 40";
const MODULE_NAME: &str = "letters, digits, `_` and `-`, at most 128";
const ROUTE_NAME: &str = "letters, digits, `_` and `-`";
const VARIABLE_NAME: &str = "no `+`, `#`, `$`, `.`, `=` or white space";

pub(crate) fn check(release: &Release, errors: &mut Vec<ManifestError>) -> Conditions {
    let mut check = Check { errors };
    check.name("environment", &release.environment);
    if !is_repository(&release.registry_prefix) {
        let image = release.registry_prefix.clone();
        let problem =
            "is not a registry prefix: write `host[:port]/path` in lower case, without tag or final `/`";
        check.error("registry prefix", Problem::Image { image, problem });
    }
    for (name, module) in [
        ("edgeAgent", &release.system.edge_agent),
        ("edgeHub", &release.system.edge_hub),
    ] {
        let place = format!("system module `{name}`");
        if let Err(problem) = check_pinned(&module.image) {
            check.error(&place, problem);
        }
        check.variables(&place, &module.env, &module.create_options);
    }
    let rings = check.rings(release);
    let targets = release
        .targets
        .iter()
        .map(|target| check.target(release, target))
        .collect();
    let conditions = Conditions { rings, targets };
    check.distinct_targets(release, &conditions);
    conditions
}

struct Check<'a> {
    errors: &'a mut Vec<ManifestError>,
}

impl Check<'_> {
    fn error(&mut self, place: &str, problem: impl Into<Problem>) {
        self.errors.push(ManifestError::new(place, problem));
    }

    fn name(&mut self, place: &str, name: &str) {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let allowed = bytes
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !allowed || bytes.len() > 40 || !edge(bytes.first()) || !edge(bytes.last()) {
            self.error(
                place,
                Problem::Name {
                    name: shortened(name, 80),
                    allowed: NAME,
                },
            );
        }
    }

    fn condition(&mut self, place: &str, text: &str) -> Condition {
        text.parse().unwrap_or_else(|error| {
            self.error(
                place,
                Problem::Condition {
                    text: shortened(text, 200),
                    error,
                },
            );
            Condition::All
        })
    }

    fn rings(&mut self, release: &Release) -> Vec<Condition> {
        let mut seen = BTreeSet::new();
        let mut conditions = Vec::new();
        for ring in &release.rings {
            let place = format!("ring `{}`", ring.name);
            self.name(&place, &ring.name);
            if !seen.insert(&ring.name) {
                let why = "a ring is told by its name";
                self.error(
                    &place,
                    Problem::Repeated {
                        other: "the same list".to_owned(),
                        why,
                    },
                );
            }
            let own = ring.condition.as_ref().map(|text| self.condition(&place, text));
            if let Some(percent) = ring.percent.filter(|percent| *percent > 100) {
                let problem = format!("percent is {percent}: write 0 to 100");
                self.error(&place, Problem::Ring { problem });
            }
            if let Some(Err(error)) = ring.quiet_hours.as_ref().map(|hours| hours.contains(0)) {
                self.error(
                    &place,
                    Problem::Ring {
                        problem: error.to_string(),
                    },
                );
            }
            // Cumulative: widening never takes a release away from a device.
            let members = ring.members(own);
            conditions.push(match conditions.last() {
                Some(earlier) => Condition::any_of([Condition::clone(earlier), members]),
                None => members,
            });
        }
        conditions
    }

    fn target(&mut self, release: &Release, target: &TargetRelease) -> TargetConditions {
        let place = format!("target `{}`", target.name);
        self.name(&place, &target.name);
        let hub = &release.system.edge_hub;
        self.variables(
            &format!("{place}, edge hub"),
            &target.edge_hub_env,
            &hub.create_options,
        );
        let devices = self.condition(&place, &target.condition);
        let modules: Vec<_> = target
            .modules
            .iter()
            .map(|module| self.module(target, module))
            .collect();

        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut routes: BTreeMap<&str, &str> = BTreeMap::new();
        for module in &target.modules {
            let place = module_place(target, module);
            if !seen.insert(&module.name) {
                let why =
                    "a device runs one module of a name, so one model would silently displace the other";
                self.error(
                    &place,
                    Problem::Repeated {
                        other: "the same target".to_owned(),
                        why,
                    },
                );
            }
            for name in module.routes.keys() {
                if let Some(other) = routes.insert(name, &module.name) {
                    let other = format!("module `{other}`");
                    let why = "routes of a device share one list, so one would silently displace the other";
                    self.error(
                        &format!("{place}, route `{name}`"),
                        Problem::Repeated { other, why },
                    );
                }
            }
        }
        for (module, condition) in target.modules.iter().zip(&modules) {
            for (name, spec) in &module.routes {
                let place = format!("{}, route `{name}`", module_place(target, module));
                self.route(&place, target, &modules, condition, name, spec);
            }
        }
        TargetConditions { devices, modules }
    }

    fn module(&mut self, target: &TargetRelease, module: &ModuleRelease) -> Condition {
        let place = module_place(target, module);
        if !is_module_id(&module.name) || ["edgeAgent", "edgeHub"].contains(&module.name.as_str()) {
            self.error(
                &place,
                Problem::Name {
                    name: shortened(&module.name, 80),
                    allowed: MODULE_NAME,
                },
            );
        }
        if !is_repository(&module.image_repository) {
            let problem = "is not a repository: lower case, parts joined by `/`, without tag or digest";
            self.error(
                &place,
                Problem::Image {
                    image: module.image_repository.clone(),
                    problem,
                },
            );
        }
        let options = crate::create_options::overlay(&target.create_options, &module.create_options);
        self.variables(&place, &module.env, &options);
        module
            .condition
            .as_ref()
            .map_or(Condition::All, |text| self.condition(&place, text))
    }

    /// Names of variables; and that createOptions do not set them again, since theirs would win unseen.
    fn variables(
        &mut self,
        place: &str,
        variables: &BTreeMap<String, EnvValue>,
        options: &Map<String, Value>,
    ) {
        let set_again: BTreeSet<&str> = options
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case("Env"))
            .filter_map(|(_, value)| value.as_array())
            .flatten()
            .filter_map(|entry| Some(entry.as_str()?.split('=').next().unwrap_or_default()))
            .collect();
        for name in variables.keys() {
            if name.is_empty() || name.contains(|c: char| "+#$.=".contains(c) || c.is_whitespace()) {
                self.error(
                    place,
                    Problem::Name {
                        name: shortened(name, 80),
                        allowed: VARIABLE_NAME,
                    },
                );
            }
        }
        let names: BTreeSet<&str> = variables
            .keys()
            .map(String::as_str)
            .chain(set_again.iter().copied())
            .collect();
        for name in names {
            let problem = if variables.contains_key(name) && set_again.contains(name) {
                "is set here and in createOptions, where it would win: set it once"
            } else if name.starts_with("IOTEDGE_") {
                "is set by the runtime: use another name"
            } else {
                continue;
            };
            self.error(
                place,
                Problem::Variable {
                    name: name.to_owned(),
                    problem,
                },
            );
        }
    }

    fn route(
        &mut self,
        place: &str,
        target: &TargetRelease,
        conditions: &[Condition],
        condition: &Condition,
        name: &str,
        spec: &RouteSpec,
    ) {
        if !is_module_id(name) {
            self.error(
                place,
                Problem::Name {
                    name: shortened(name, 80),
                    allowed: ROUTE_NAME,
                },
            );
        }
        if let Some(priority) = spec.priority.filter(|priority| *priority > 9) {
            let help = "0 is the first to be sent";
            self.error(
                place,
                Problem::Limit {
                    what: "priority",
                    used: priority.into(),
                    limit: 9,
                    help,
                },
            );
        }
        let route = match route::parse(&spec.route) {
            Ok(route) => route,
            Err(error) => {
                self.error(
                    place,
                    Problem::Route {
                        text: shortened(&spec.route, 200),
                        error,
                    },
                );
                return;
            }
        };
        for module in route.modules() {
            let known = target.modules.iter().position(|known| known.name == module);
            let problem = match known.map(|index| &conditions[index]) {
                // In the same layer, or on every device of the target.
                Some(other) if other == condition || *other == Condition::All => continue,
                Some(other) => format!(
                    "is only on devices with `{other}`: give both modules the same condition, or none to that one"
                ),
                None if target.external_modules.iter().any(|external| external == module) => continue,
                None => {
                    let names: Vec<_> = target
                        .modules
                        .iter()
                        .map(|module| format!("`{}`", module.name))
                        .collect();
                    format!(
                        "is not on this target: it has {}; declare modules of other deployments as external",
                        names.join(", ")
                    )
                }
            };
            self.error(
                place,
                Problem::RouteModule {
                    module: module.to_owned(),
                    problem,
                },
            );
        }
    }

    fn distinct_targets(&mut self, release: &Release, conditions: &Conditions) {
        let mut names = BTreeSet::new();
        let mut devices: BTreeMap<String, &str> = BTreeMap::new();
        for (target, conditions) in release.targets.iter().zip(&conditions.targets) {
            let place = format!("target `{}`", target.name);
            if !names.insert(&target.name) {
                let why = "a target is told by its name";
                self.error(
                    &place,
                    Problem::Repeated {
                        other: "the same list".to_owned(),
                        why,
                    },
                );
            }
            // A condition that could not be read has its own error already.
            if target.condition.parse::<Condition>().is_err() {
                continue;
            }
            if let Some(other) = devices.insert(conditions.devices.to_string(), &target.name) {
                self.error(
                    &place,
                    Problem::SameDevices {
                        other: other.to_owned(),
                    },
                );
            }
        }
    }
}
