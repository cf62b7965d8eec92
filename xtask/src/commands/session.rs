//! What the commands that talk to a hub share: flags, the connection, and how decisions are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::environment::{CommittedEnvironment, committed, layers_in_history};
use aiot_build::paths::Paths;
use aiot_hub::{Client, Connection, LiveHub, Options};
use aiot_iothub::UsedOf;
use aiot_iothub::rollout::{
    Action, Decision, Declared, Hub, Snapshot, Step, Verdict, apply, notes, our_images,
};
use serde_json::{Value, json};

use crate::output::{Format, table};

/// Variable with the file of further authorities.
const CA_FILE_VARIABLE: &str = "AIOT_HUB_CA_FILE";
/// Variable with the units of the hub.
const UNITS_VARIABLE: &str = "AIOT_HUB_UNITS";

/// Which hub.
#[derive(clap::Args)]
pub struct HubArguments {
    /// Environment: deployments/<NAME>.toml
    #[arg(long, value_name = "NAME")]
    environment: String,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// How to reach a hub.
#[derive(clap::Args)]
pub struct ConnectionArguments {
    /// File with the hub's connection string [default: AIOT_HUB_CONNECTION_STRING, else AIOT_HUB_CONNECTION_FILE]
    #[arg(long, value_name = "FILE")]
    connection_file: Option<PathBuf>,
    /// PEM file of authorities besides the system's that the hub's certificate may be from [default: AIOT_HUB_CA_FILE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Units of the hub, which its throttles grow with [default: AIOT_HUB_UNITS, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    units: Option<u32>,
    /// Deployments that the hub takes: 100, on the free tier 10
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..=1000))]
    deployment_limit: u64,
}

/// A hub, and what it shall have.
pub struct Session {
    paths: Paths,
    /// What is committed.
    pub declared: Declared,
    /// The hub.
    pub hub: LiveHub,
}

impl Session {
    /// Reads the environment and makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// The environment, the connection string, or a hub that is not the environment's.
    pub fn open(paths: &Paths, arguments: &HubArguments) -> Result<Session, BuildError> {
        Session::open_for(paths, &arguments.environment, &arguments.connection)
    }

    /// As [`Session::open`], for an environment that a plan names.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_for(
        paths: &Paths,
        environment: &str,
        arguments: &ConnectionArguments,
    ) -> Result<Session, BuildError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let CommittedEnvironment { hub, declared } = committed(paths, environment)?;
        let connection =
            Connection::find(arguments.connection_file.as_deref(), &variable).map_err(BuildError::other)?;
        match &hub {
            Some(hub) if connection.is_loopback() => eprintln!(
                "talking to a simulated hub at {}, not to {hub}",
                connection.authority()
            ),
            Some(hub) if !hub.eq_ignore_ascii_case(connection.host()) => {
                let given = match &connection {
                    Connection::Key(_) => "the connection string is of",
                    Connection::Entra { .. } => "AIOT_HUB_HOSTNAME is",
                };
                return Err(BuildError::Other(format!(
                    "deployments/{environment}.toml names hub {hub}, and {given} {}: use the one of {hub}",
                    connection.authority()
                )));
            }
            _ => {}
        }
        let units = match (arguments.units, variable(UNITS_VARIABLE)) {
            (Some(units), _) => units,
            (None, Some(text)) => text.parse().map_err(|_| {
                BuildError::Other(format!("{UNITS_VARIABLE} is not a number of units: {text}"))
            })?,
            (None, None) => 1,
        };
        let options = Options {
            ca_file: arguments
                .ca_file
                .clone()
                .or_else(|| variable(CA_FILE_VARIABLE).map(PathBuf::from)),
            units,
            on_pause: Some(|pause| eprintln!("waiting {} s for the hub's throttle", pause.as_secs())),
        };
        let client = Client::new(connection, &options).map_err(BuildError::other)?;
        Ok(Session {
            paths: paths.clone(),
            declared,
            hub: LiveHub::new(client, arguments.deployment_limit),
        })
    }

    /// The hub as it is. What its deployments' images take on a device is looked up in the history of the branch.
    ///
    /// # Errors
    /// From the hub, with what to do.
    pub fn snapshot(&mut self) -> Result<Snapshot, BuildError> {
        let snapshot = self.hub.snapshot().map_err(BuildError::other)?;
        let environment = &self.declared.list().environment;
        let images = our_images(environment, &snapshot.deployments);
        let unknown = images
            .into_iter()
            .filter(|image| !self.declared.layers().knows(image))
            .collect();
        let layers = layers_in_history(&self.paths, environment, &unknown);
        self.declared.learn(layers);
        Ok(snapshot)
    }

    /// Has the hub try the conditions and metrics of what is to be created, each only once.
    ///
    /// # Errors
    /// What the hub finds wrong, all of it; or from the hub.
    pub fn try_conditions(&self, steps: &[Step]) -> Result<(), BuildError> {
        let mut tried = BTreeSet::new();
        let mut wrong = Vec::new();
        for step in steps {
            let Action::Create { deployment } = &step.action else {
                continue;
            };
            // The metrics differ in nothing but the deployment's id.
            if !tried.insert(deployment.condition.as_str()) {
                continue;
            }
            let found = self
                .hub
                .client()
                .test_queries(&deployment.condition, &deployment.metrics)
                .map_err(BuildError::other)?;
            wrong.extend(
                found
                    .into_iter()
                    .map(|(name, why)| format!("{}: {name}: {why}", deployment.id)),
            );
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(BuildError::Other(format!(
                "the hub does not take this: {}",
                wrong.join("; ")
            ))),
        }
    }

    /// Makes the steps, and says each one.
    ///
    /// # Errors
    /// Somebody else was faster, or from the hub. What was made stays.
    pub fn obey(&mut self, steps: &[Step]) -> Result<(), BuildError> {
        let mut tags = 0;
        apply(&mut self.hub, steps, &mut |step| match step.action {
            Action::Tag { .. } => {
                tags += 1;
                if tags % 500 == 0 {
                    eprintln!("{tags} devices have their wave");
                }
            }
            _ => eprintln!("done: {}: {}", step.action.subject(), step.why),
        })
        .map_err(BuildError::other)?;
        Ok(())
    }
}

/// What is shown of a decision, and the exit code: 1 where a person must look, 2 where steps are due and not made.
pub fn show(
    session: &Session,
    snapshot: &Snapshot,
    decision: &Decision,
    is_done: bool,
    format: Format,
) -> u8 {
    let notes = notes(&session.declared, snapshot);
    match format {
        Format::Text => {
            print!("{}", text(session, decision, is_done));
            for note in &notes {
                println!("note: {note}");
            }
        }
        Format::Json => println!("{:#}", data(session, decision, &notes, is_done)),
    }
    if decision.lineages.iter().any(|one| one.verdict.needs_a_person()) {
        crate::EXIT_ERROR
    } else if decision.steps.is_empty() || is_done {
        crate::EXIT_OK
    } else {
        crate::EXIT_CHANGES
    }
}

fn text(session: &Session, decision: &Decision, is_done: bool) -> String {
    let rows: Vec<Vec<String>> = decision
        .lineages
        .iter()
        .map(|one| {
            let (verb, why) = verdict(&one.verdict);
            let tally = &one.tally;
            let bad = tally.failed + tally.unhealthy + tally.self_check_failed;
            vec![
                one.lineage.to_string(),
                one.ring.clone().unwrap_or_default(),
                tally.targeted.to_string(),
                (tally.good + tally.drifting).to_string(),
                bad.to_string(),
                tally.silent.to_string(),
                if why.is_empty() {
                    verb.to_owned()
                } else {
                    format!("{verb}: {why}")
                },
            ]
        })
        .collect();
    let header = [
        "lineage",
        "ring",
        "devices>",
        "good>",
        "bad>",
        "silent>",
        "what follows",
    ];
    let mut text = table(&header, &rows);
    let (tags, steps): (Vec<&Step>, Vec<&Step>) = decision
        .steps
        .iter()
        .partition(|step| matches!(step.action, Action::Tag { .. }));
    text.push('\n');
    if decision.steps.is_empty() {
        text.push_str("Nothing to do.\n");
    } else {
        text.push_str(if is_done { "Done:\n" } else { "Steps:\n" });
    }
    if !tags.is_empty() {
        text.push_str(&format!(
            "  write the wave of {} devices into their tags ({} at the throttle of a hub with {})\n",
            tags.len(),
            duration(session.hub.waves_secs(tags.len())),
            match session.hub.client().units() {
                1 => "1 unit".to_owned(),
                units => format!("{units} units"),
            }
        ));
    }
    for step in steps {
        text.push_str(&format!(
            "  {} {}: {} ({} → {} devices)\n",
            word(&step.action),
            step.action.subject(),
            step.why,
            step.devices_before,
            step.devices_after
        ));
    }
    for used in &decision.used {
        text.push_str(&format!(
            "{}: {} of {} afterwards\n",
            used.what, used.used, used.limit
        ));
    }
    text
}

/// How much of the limits of a device is used, for people: of each limit the target that uses most of it.
pub fn device_limits(session: &Session) -> String {
    let mut most: BTreeMap<String, (String, UsedOf)> = BTreeMap::new();
    for (target, used) in session.declared.device_limits() {
        for used in used {
            let known = most.get(&used.what).map_or(0, |(_, known)| known.used);
            if used.used >= known {
                most.insert(used.what.clone(), (target.clone(), used));
            }
        }
    }
    let line = |(target, used): &(String, UsedOf)| {
        format!(
            "{}: at most {} of {} (on {target})\n",
            used.what, used.used, used.limit
        )
    };
    most.values().map(line).collect()
}

fn data(session: &Session, decision: &Decision, notes: &[String], is_done: bool) -> Value {
    let (declared, hub) = (&session.declared, session.hub.client().host());
    let steps: Vec<Value> = decision
        .steps
        .iter()
        .map(|step| {
            json!({
                "action": word(&step.action), "subject": step.action.subject(), "why": step.why,
                "devices-before": step.devices_before, "devices-after": step.devices_after,
            })
        })
        .collect();
    let is_tag = |step: &&Step| matches!(step.action, Action::Tag { .. });
    let tags = decision.steps.iter().filter(is_tag).count();
    json!({
        "schema": 1, "environment": declared.list().environment, "hub": hub, "commit": declared.commit,
        "done": is_done, "waves": { "devices": tags, "seconds": session.hub.waves_secs(tags) }, "steps": steps, "lineages": decision.lineages,
        "used": decision.used, "used-on-devices": BTreeMap::from_iter(declared.device_limits()), "notes": notes,
    })
}

/// For people.
fn duration(secs: u64) -> String {
    match secs {
        0..100 => format!("{} s", secs.max(1)),
        secs => format!("{} minutes", secs.div_ceil(60)),
    }
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Tag { .. } => "tag",
        Action::Update { .. } => "update",
        Action::Delete { .. } => "delete",
        Action::Create { .. } => "create",
    }
}

fn verdict(verdict: &Verdict) -> (&'static str, &str) {
    match verdict {
        Verdict::Acts(why) => ("acts", why),
        Verdict::Finished => ("finished", ""),
        Verdict::Waits(why) => ("waits", why),
        Verdict::Stopped(why) => ("STOPPED", why),
        Verdict::RolledBack(why) => ("rolled back", why),
        Verdict::Refused(why) => ("REFUSED", why),
    }
}
