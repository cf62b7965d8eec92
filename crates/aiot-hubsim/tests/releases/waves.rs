//! Waves of 10,000 devices over the real client: below the throttle, cut in the middle, and while others write too.

use std::sync::Mutex;

use aiot_hubsim::{Behaviour, Faults, Random};
use aiot_iothub::ring::{WAVE_TAG, wave};
use aiot_iothub::rollout::WaveTag;
use serde_json::json;

use crate::every::{agreed, world};
use crate::road::{Interruption, Road};
use crate::tool::{How, Trace, tool};

const DEVICES: usize = 10_000;

#[test]
fn ten_thousand_devices_below_the_throttle_and_cut() {
    let (mut service, first, _) = world();
    service.fleet.devices.clear();
    for number in 0..DEVICES {
        let tags = json!({"kind": "kind-0", "ring": "none", "line": "press"});
        service
            .fleet
            .add(&format!("device-{number:05}"), tags, Behaviour::GOOD);
    }
    let road = Road::far(service, 1, 1);
    let patches = || road.simulator().calls.get("PATCH twins").copied().unwrap_or(0);
    let start_ms = road.simulator().virtual_ms();
    let run = |kill_at: Option<(u64, bool)>| {
        road.simulator().kill_at = kill_at;
        let trace = Mutex::new(Trace::default());
        let how = How::Advance(agreed());
        let came_through = road
            .run(
                Faults::default(),
                Random::new(1),
                &Interruption::default(),
                |hub| {
                    tool(hub, &first, &how, &trace);
                },
            )
            .is_some();
        (came_through, trace.into_inner().expect("no panic holds it"))
    };
    // The look is one list of deployments and 11 pages of two queries, and one of troubles.
    let (came_through, _) = run(Some((4_000, true)));
    assert!(!came_through);
    let before = patches();
    assert!((3_000..4_000).contains(&before), "{before}");
    let (came_through, trace) = run(None);
    assert!(
        came_through && matches!(trace.result, Some(Ok(_))),
        "{:?}",
        trace.result
    );
    // What was written is not written again.
    assert_eq!(patches(), DEVICES as u64);
    let simulator = road.simulator();
    assert_eq!(simulator.throttled, 0);
    let took_ms = simulator.virtual_ms() - start_ms;
    assert!(took_ms >= DEVICES as u64 * 1000 / 50 - 2_000, "{took_ms} ms");
    for (id, device) in &simulator.service.fleet.devices {
        assert_eq!(device.tags[WAVE_TAG], json!(wave("prod", id)), "{id}");
        assert_eq!(device.tags["line"], "press", "{id}");
    }
}

#[test]
fn others_write_the_same_twins() {
    let (mut service, ..) = world();
    service.fleet.devices.clear();
    for id in ["tagged", "moved", "plain"] {
        service.fleet.add(id, json!({"line": "press"}), Behaviour::GOOD);
    }
    let road = Road::far(service, 1, 1);
    let wave = |device, wave| WaveTag {
        device,
        wave,
        etag: Some("v1"),
    };
    let tags = |id: &str| road.simulator().service.fleet.devices[id].tags.clone();
    let no_etag = |device, number| WaveTag {
        etag: None,
        ..wave(device, number)
    };
    let write = |waves: &[WaveTag<'_>]| {
        let mut done = vec![false; waves.len()];
        let result = road.run(
            Faults::default(),
            Random::new(1),
            &Interruption::default(),
            |hub| hub.tag_waves(waves, &mut |index| done[index] = true),
        );
        assert_eq!(result, Some(Ok(())));
        assert_eq!(done, vec![true; waves.len()]);
    };
    // Somebody else is faster on the first, and then it has another ETag.
    write(&[no_etag("tagged", 7)]);
    write(&[wave("tagged", 9), wave("plain", 1), wave("gone", 2)]);
    assert_eq!(tags("tagged"), json!({"line": "press", WAVE_TAG: 7}));
    assert_eq!(tags("plain"), json!({"line": "press", WAVE_TAG: 1}));
    // A twin that was written for other reasons gets its wave all the same.
    write(&[wave("moved", 3)]);
    let moved = json!({"line": "press", WAVE_TAG: null});
    road.simulator()
        .service
        .patch_tags("moved", &moved)
        .expect("it is there");
    write(&[wave("moved", 5)]);
    assert_eq!(tags("moved"), json!({"line": "press", WAVE_TAG: 5}));
}
