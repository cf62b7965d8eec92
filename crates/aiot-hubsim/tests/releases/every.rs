//! Each command over the real client, killed before and after every request that it makes, and crossed by a second
//! operator at every moment: what stands on the hub in the end is the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aiot_hubsim::{Faults, Random, Service};
use aiot_iothub::rollout::{ApplyError, Declared, Intent};
use serde_json::Value;

use crate::life::second;
use crate::road::{Interruption, Road};
use crate::tool::{How, Trace, tool};
use crate::world::{TICK_SECS, World};

/// Most requests of a run here.
const REQUESTS_LIMIT: u64 = 200;

pub fn agreed() -> Intent {
    Intent {
        approve: Some("somebody".to_owned()),
        resume: false,
    }
}

fn run(road: &Road, declared: &Declared, how: &How, interruption: &Interruption) -> (bool, Trace) {
    let trace = Mutex::new(Trace::default());
    let came_through = road
        .run(Faults::default(), Random::new(1), interruption, |hub| {
            tool(hub, declared, how, &trace);
        })
        .is_some();
    (came_through, trace.into_inner().expect("no panic holds it"))
}

/// Runs until there is nothing left to do, and gives what then stands on the hub, but for times and ETags.
fn to_the_end(
    road: &Road,
    declared: &Declared,
    how: &How,
) -> (BTreeMap<String, String>, BTreeMap<String, Value>) {
    for _ in 0..20 {
        let (came_through, trace) = run(road, declared, how, &Interruption::default());
        assert!(came_through && trace.blind.is_none(), "{trace:?}");
        let decision = trace.decision.expect("it has looked");
        assert!(matches!(trace.result, Some(Ok(_))), "{:?}", trace.result);
        if decision.steps.is_empty() {
            let simulator = road.simulator();
            let deployment = |one: &aiot_iothub::rollout::HubDeployment| {
                let mut labels = one.labels.clone();
                labels.retain(|name, _| !["aiot-since", "aiot-finished"].contains(&name.as_str()));
                (
                    one.id.clone(),
                    format!("{} {} {labels:?}", one.condition, one.priority),
                )
            };
            let tags = |(id, device): (&String, &aiot_hubsim::fleet::SimulatedDevice)| {
                (id.clone(), device.tags.clone())
            };
            let service = &simulator.service;
            return (
                service.peek().map(deployment).collect(),
                service.fleet.devices.iter().map(tags).collect(),
            );
        }
    }
    panic!("it never comes to rest");
}

/// Checks a command from a state of the hub. `one_loses`: it changes what is there; else two may make the same at once.
fn check(service: &Service, declared: &Arc<Declared>, how: &How, one_loses: bool) {
    let far = |service: &Service| Road::far(service.clone(), 1, 1);
    let expected = to_the_end(&far(service), declared, how);
    for after in [false, true] {
        for request in 1.. {
            assert!(request < REQUESTS_LIMIT, "a run without end");
            let road = far(service);
            road.simulator().kill_at = Some((request, after));
            let (came_through, _) = run(&road, declared, how, &Interruption::default());
            road.simulator().kill_at = None;
            if came_through {
                assert!(request > 5, "it makes more than a look");
                break;
            }
            let end = to_the_end(&road, declared, how);
            assert_eq!(end, expected, "killed at request {request}, after it: {after}");
        }
    }
    let mut lost = 0;
    for moment in 0..REQUESTS_LIMIT {
        let road = far(service);
        let span = Arc::default();
        let other = Arc::new(Mutex::new(Trace::default()));
        let tool = {
            let (declared, how, other) = (Arc::clone(declared), how.clone(), Arc::clone(&other));
            move |hub: &mut dyn aiot_iothub::rollout::Hub| tool(hub, &declared, &how, &other)
        };
        let meanwhile = second(&road, Random::new(2), tool, Arc::clone(&span));
        let (came_through, first) = run(&road, declared, how, &Interruption::new(moment, meanwhile));
        let other = std::mem::take(&mut *other.lock().expect("no panic holds it"));
        if other.decision.is_none() {
            break;
        }
        assert!(came_through && matches!(other.result, Some(Ok(_))), "{other:?}");
        match first.result {
            Some(Err(ApplyError::Moved { .. })) => lost += 1,
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
        let end = to_the_end(&road, declared, how);
        assert_eq!(end, expected, "crossed at moment {moment}");
    }
    assert_eq!(lost > 0, one_loses, "{lost} have lost");
}

/// A world whose first release is all over the fleet, and the second is declared.
pub fn world() -> (Service, Arc<Declared>, Arc<Declared>) {
    // A seed with a ring by percent, so that there are waves to write.
    for seed in 0.. {
        let mut world = World::new(seed, false);
        let rings = &world.commits[0].1.list().rings;
        let by_percent = rings.iter().any(|ring| ring.percent.is_some());
        let mut simulator = world.road.simulator();
        let devices = simulator.service.fleet.devices.len();
        if !by_percent || !(4..=8).contains(&devices) {
            continue;
        }
        for device in simulator.service.fleet.devices.values_mut() {
            device.behaviour = aiot_hubsim::Behaviour::GOOD;
        }
        let service = simulator.service.clone();
        drop(simulator);
        let first = Arc::clone(&world.commits[0].1);
        let mut release = world.commits[0].0.clone();
        for target in &mut release.targets {
            for module in &mut target.modules {
                module.image_digest = world.digest();
            }
        }
        world.commit(release, "all models anew");
        return (service, first, Arc::clone(&world.commits[1].1));
    }
    unreachable!("one of the seeds is such a world")
}

/// The hub some days later, when nothing is left to do.
fn settled(service: Service, declared: &Declared) -> Service {
    let road = Road::near(service);
    for _ in 0..100 {
        road.simulator().service.pass(TICK_SECS);
        let (_, trace) = run(&road, declared, &How::Advance(agreed()), &Interruption::default());
        assert!(matches!(trace.result, Some(Ok(_))), "{trace:?}");
    }
    road.simulator().service.clone()
}

#[test]
fn a_first_release_with_waves() {
    let (service, first, _) = world();
    check(&service, &first, &How::Advance(agreed()), false);
}

#[test]
fn a_release_over_another_and_back() {
    let (service, first, second) = world();
    let service = settled(service, &first);
    check(&service, &second, &How::Advance(agreed()), false);
    let road = Road::near(service);
    run(&road, &second, &How::Advance(agreed()), &Interruption::default());
    for _ in 0..20 {
        road.simulator().service.pass(TICK_SECS);
    }
    let service = road.simulator().service.clone();
    // Now it is widened.
    check(&service, &second, &How::Advance(agreed()), true);
    let model = second
        .list()
        .deployments
        .iter()
        .find_map(|one| Some(one.modules.first()?.model.clone()));
    let model = model.expect("a model");
    check(&service, &second, &How::Rollback(model), true);
}
