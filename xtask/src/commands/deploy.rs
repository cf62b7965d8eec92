//! `cargo xtask deploy`: look at a hub, decide, and obey what was decided.

use std::path::PathBuf;
use std::time::Duration;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::pins::{self, PinChange};
use aiot_iothub::rollout::{
    Decision, Intent, SavedPlan, Snapshot, WayBack, decide, fingerprint, rollback, ways_back,
};

use super::session::{ConnectionArguments, HubArguments, Session, device_limits, show};
use crate::output::Format;

/// What to do.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Look, and show what would be done; exit code 2 if there is something to do, 1 if a person must look
    Plan {
        #[command(flatten)]
        hub: HubArguments,
        #[command(flatten)]
        intent: IntentArguments,
        /// Save the plan, for `deploy apply`
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Do exactly what a saved plan says; refused when the hub has moved since
    Apply {
        /// The file that `deploy plan --out` has written; it names the environment
        plan: PathBuf,
        /// Refuse a plan for another environment
        #[arg(long, value_name = "NAME")]
        environment: Option<String>,
        #[command(flatten)]
        connection: ConnectionArguments,
        /// Only look whether the plan still holds
        #[arg(long)]
        dry_run: bool,
    },
    /// Make one safe step: the next ring if the last is healthy, stop if it is not. Made for cron and CI
    Advance {
        #[command(flatten)]
        hub: HubArguments,
        #[command(flatten)]
        intent: IntentArguments,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how each release stands; exit code 1 if a person must look
    Status {
        #[command(flatten)]
        hub: HubArguments,
        /// Look again and again, until nothing is under way or a person must look
        #[arg(long)]
        watch: bool,
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        every: u64,
    },
    /// Take the newest release of a model back, on all its devices at once; the images before run again
    ///
    /// Writes the change that makes this last into deployments/NAME.toml, as `[[pin]]`: commit it, run
    /// `cargo xtask release`, and commit what that writes. Removing the lines undoes it.
    Rollback {
        #[command(flatten)]
        hub: HubArguments,
        /// The model
        model: String,
        /// Why; kept on the hub
        #[arg(long, value_name = "TEXT", default_value = "taken back by hand")]
        reason: String,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// What a person agrees to.
#[derive(clap::Args)]
pub struct IntentArguments {
    /// Agree that releases enter rings that ask for approval
    #[arg(long, value_name = "YOUR-NAME")]
    approve: Option<String>,
    /// Let stopped releases go on, if their ring is well again
    #[arg(long)]
    resume: bool,
}

impl IntentArguments {
    fn intent(&self) -> Intent {
        Intent {
            approve: self.approve.clone(),
            resume: self.resume,
        }
    }
}

/// Runs one of them.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    match arguments {
        Arguments::Plan { hub, intent, out } => {
            let mut session = Session::open(paths, hub)?;
            let snapshot = session.snapshot()?;
            let decision = decided(&session, &snapshot, &intent.intent())?;
            session.try_conditions(&decision.steps)?;
            if let Some(out) = out {
                save(&session, &snapshot, &intent.intent(), &decision, out)?;
            }
            let code = show(&session, &snapshot, &decision, false, format);
            if format == Format::Text {
                print!("{}", device_limits(&session));
            }
            Ok(code)
        }
        Arguments::Apply {
            plan,
            environment,
            connection,
            dry_run,
        } => {
            let bytes = std::fs::read(plan)
                .map_err(|error| BuildError::Other(format!("cannot read {}: {error}", plan.display())))?;
            let plan = SavedPlan::parse(&bytes).map_err(BuildError::other)?;
            if let Some(environment) = environment.as_ref().filter(|name| **name != plan.environment) {
                return Err(BuildError::Other(format!(
                    "the plan is for environment {}, not for {environment}",
                    plan.environment
                )));
            }
            let mut session = Session::open_for(paths, &plan.environment, connection)?;
            let snapshot = session.snapshot()?;
            let decision = decided(&session, &snapshot, &plan.intent())?;
            plan.check(
                session.hub.client().host(),
                &session.declared.commit,
                &print(&session, &snapshot),
                &decision.steps,
            )
            .map_err(BuildError::other)?;
            obeyed(&mut session, &snapshot, &decision, *dry_run, format)
        }
        Arguments::Advance { hub, intent, dry_run } => {
            let mut session = Session::open(paths, hub)?;
            let snapshot = session.snapshot()?;
            let decision = decided(&session, &snapshot, &intent.intent())?;
            obeyed(&mut session, &snapshot, &decision, *dry_run, format)
        }
        Arguments::Status { hub, watch, every } => loop {
            let mut session = Session::open(paths, hub)?;
            let snapshot = session.snapshot()?;
            let decision = decided(&session, &snapshot, &Intent::default())?;
            let code = show(&session, &snapshot, &decision, false, format);
            let is_quiet = decision
                .lineages
                .iter()
                .all(|one| one.verdict == aiot_iothub::rollout::Verdict::Finished);
            if !watch || is_quiet || code == crate::EXIT_ERROR {
                return Ok(if code == crate::EXIT_ERROR {
                    code
                } else {
                    crate::EXIT_OK
                });
            }
            std::thread::sleep(Duration::from_secs(*every));
        },
        Arguments::Rollback {
            hub,
            model,
            reason,
            dry_run,
        } => {
            let mut session = Session::open(paths, hub)?;
            let snapshot = session.snapshot()?;
            let decision =
                rollback(&session.declared, &snapshot, model, reason).map_err(BuildError::other)?;
            if decision.lineages.is_empty() {
                return Err(BuildError::Other(format!(
                    "no deployment of environment {} on this hub brings a model `{model}`",
                    session.declared.list().environment
                )));
            }
            let ways = ways_back(&session.declared, &snapshot, model).map_err(BuildError::other)?;
            // Devices first: that the change cannot be written is no reason to leave a bad release running.
            let code = obeyed(&mut session, &snapshot, &decision, *dry_run, format)?;
            let pinned = make_last(paths, &session, &ways, reason, *dry_run, format);
            let refused = decision
                .lineages
                .iter()
                .any(|one| matches!(one.verdict, aiot_iothub::rollout::Verdict::Refused(_)));
            let nothing = decision.steps.is_empty() && !pinned;
            // Taken back is what was asked for here.
            Ok(match (refused, dry_run, nothing) {
                (true, ..) => code,
                (false, true, false) => crate::EXIT_CHANGES,
                _ => crate::EXIT_OK,
            })
        }
    }
}

fn decided(session: &Session, snapshot: &Snapshot, intent: &Intent) -> Result<Decision, BuildError> {
    decide(&session.declared, snapshot, intent).map_err(BuildError::other)
}

fn obeyed(
    session: &mut Session,
    snapshot: &Snapshot,
    decision: &Decision,
    dry_run: bool,
    format: Format,
) -> Result<u8, BuildError> {
    if !dry_run {
        session.obey(&decision.steps)?;
    }
    Ok(show(session, snapshot, decision, !dry_run, format))
}

/// Writes, or shows, the change in git that makes a rollback last. Whether there is one; what is in its way is told,
/// and no error: the hub has what it was asked for.
fn make_last(
    paths: &Paths,
    session: &Session,
    ways: &[WayBack],
    reason: &str,
    dry_run: bool,
    format: Format,
) -> bool {
    let change = pins::change(paths, &session.declared, ways, reason).and_then(|change| {
        if !dry_run && !change.text.is_empty() {
            change.write(paths)?;
        }
        Ok(change)
    });
    let change = match change {
        Ok(change) => change,
        Err(error) => {
            eprintln!(
                "what git asks for stays blocked, and no pin was written that makes this last: {error}"
            );
            return false;
        }
    };
    tell(&change, dry_run, format);
    !change.text.is_empty()
}

fn tell(change: &PinChange, dry_run: bool, format: Format) {
    let file = change.file();
    if dry_run && !change.text.is_empty() {
        // Data is on stdout already where a machine reads it.
        match format {
            Format::Text => print!("{}", change.diff()),
            Format::Json => eprint!("{}", change.diff()),
        }
    } else if !change.text.is_empty() {
        eprintln!(
            "written: {file} pins the images before. To make this last: commit it, run `cargo xtask release`, commit \
             deployments/{}. Removing the pin undoes it.",
            change.environment
        );
    }
    for left in &change.left {
        eprintln!("a pin does not do this: {left}");
    }
    if change.text.is_empty() && change.left.is_empty() {
        eprintln!("nothing to pin: {file} asks for what runs, or holds it already");
    }
}

fn print(session: &Session, snapshot: &Snapshot) -> String {
    let declared = session
        .declared
        .list()
        .deployments
        .iter()
        .map(|one| one.id.as_str());
    fingerprint(&snapshot.deployments, declared)
}

fn save(
    session: &Session,
    snapshot: &Snapshot,
    intent: &Intent,
    decision: &Decision,
    out: &std::path::Path,
) -> Result<(), BuildError> {
    let plan = SavedPlan::new(
        &session.declared.list().environment,
        session.hub.client().host(),
        &session.declared.commit,
        print(session, snapshot),
        intent,
        decision.steps.clone(),
    );
    let mut bytes = serde_json::to_vec_pretty(&plan).map_err(BuildError::other)?;
    bytes.push(b'\n');
    std::fs::write(out, bytes)
        .map_err(|error| BuildError::Other(format!("cannot write {}: {error}", out.display())))?;
    eprintln!(
        "saved: cargo xtask deploy apply {} does exactly this",
        out.display()
    );
    Ok(())
}
