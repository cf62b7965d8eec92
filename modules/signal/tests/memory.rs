//! A module that has served many messages takes the memory that it took after the first ones.
//!
//! By hand, a million: `AIOT_MESSAGES=1000000 cargo test --profile xtask -p signal --test memory -- --nocapture`

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use aiot_testkit::edge::{Certificates, Mosquitto, free_port};
use aiot_testkit::tools;
use serde_json::json;
use support::{Service, command, package};

/// Messages after which the module has all that it needs.
const WARM: u64 = 3_000;

/// What it may grow after that, KiB: the allocator's own ups and downs.
const GROWTH_KIB: u64 = 2 << 10;

/// Messages that the broker has confirmed.
fn sent(service: &Service) -> u64 {
    let metrics = service.scrape();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("aiot_messages_sent_total{sink=\"mqtt\"} "));
    line.unwrap().parse().unwrap()
}

#[test]
fn memory_is_flat() {
    if !tools::have(&["mosquitto", "openssl"]) {
        return;
    }
    let messages: u64 = std::env::var("AIOT_MESSAGES").map_or(10_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path(), "localhost");
    let broker = Mosquitto::start(folder.path(), free_port(), &certificates, &[]);
    let recorded = folder.path().join("recorded");
    std::fs::create_dir(&recorded).unwrap();
    for number in 0..10 {
        let samples: String = (0..8)
            .map(|at| format!("{}\n", (at * number) as f32 / 10.0))
            .collect();
        std::fs::write(recorded.join(format!("{number}.csv")), samples).unwrap();
    }
    let dir = package("clip");
    let pipeline = json!({
        "sources": {"replay": {"path": recorded, "rounds": messages / 10}},
        "sinks": {"mqtt": {"broker": format!("mqtt://127.0.0.1:{}", broker.plain_port), "topic": "plant/signal"}},
        // Larger than what is predicted while the broker confirms: nothing is dropped.
        "queue": {"directory": folder.path().join("queue"), "max-mib": 1024},
    });
    let mut command = command(env!("CARGO_BIN_EXE_signal"), dir.path(), &["serve"]);
    command.env("AIOT_PIPELINE", pipeline.to_string());
    let service = Service::start(command);
    let (mut warm_kib, mut next) = (0, WARM);
    loop {
        let done = sent(&service);
        if done >= next {
            let now_kib = service.resident_kib();
            println!("{done} messages: {now_kib} KiB");
            if warm_kib == 0 {
                warm_kib = now_kib;
            }
            next = done + (messages / 10).max(1);
        }
        if done >= messages {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let end_kib = service.resident_kib();
    println!("{messages} messages: {warm_kib} KiB when warm, {end_kib} KiB at the end");
    assert!(
        end_kib <= warm_kib + GROWTH_KIB,
        "{warm_kib} KiB, then {end_kib} KiB"
    );
    assert!(
        service
            .scrape()
            .contains("aiot_queue_dropped_total{sink=\"mqtt\"} 0")
    );
}
