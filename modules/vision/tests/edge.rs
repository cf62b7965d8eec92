//! The module as an IoT Edge module. Nothing that was predicted may be lost, whatever happens to the broker or the
//! module.

mod device;
#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::Cursor;

use aiot_testkit::edge::{Certificates, Hub, wait_for};
use device::{DESIRED, Device, bodies, png, predict};
use serde_json::{Value, json};
use support::{Service, finished, golden};

fn ids(bodies: &[Value]) -> Vec<String> {
    bodies
        .iter()
        .map(|body| body["message_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Ids without repetitions, in order of their first appearance.
fn once_each(ids: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.iter().filter(|id| seen.insert(*id)).cloned().collect()
}

fn last_report(hub: &Hub) -> Value {
    serde_json::from_str(hub.reported().last().unwrap()).unwrap()
}

#[test]
fn inputs_become_predictions_with_everything_that_a_plant_needs() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    let service = device.start();
    wait_for("a report", || hub.reported().first().cloned());
    hub.input(
        "camera",
        "%24.mid=frame%201&%24.cdid=edge1&%24.cmid=camera",
        png([0, 0, 255]),
    );
    hub.input("camera", "", png([255, 0, 0]));
    let got = bodies(&hub, 2);
    let labels: Vec<_> = got
        .iter()
        .map(|body| body["result"]["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["blue", "red"]);
    let body = &got[0];
    assert_eq!(
        body["source"],
        json!({"kind": "edge-hub", "name": "camera", "message_id": "frame 1"})
    );
    assert_eq!(
        (&body["schema_version"], &body["device"], &body["module"]),
        (&json!(1), &json!("edge1"), &json!("digits"))
    );
    for digest in ["model_digest", "preprocessing_digest"] {
        let digest = body[digest].as_str().unwrap();
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    }
    let time = body["time"].as_str().unwrap();
    assert!(
        time.len() == 24 && time.starts_with("20") && time.ends_with('Z'),
        "{time}"
    );
    assert!(body["latency_us"].as_u64().is_some());
    let id = body["message_id"].as_str().unwrap();
    let expected = format!(
        "%24.on=predictions&%24.mid={id}&%24.cid=frame%201&%24.ct=application%2Fjson&%24.ce=utf-8&model=colour"
    );
    assert_eq!(hub.telemetry()[0].bag, expected);

    // Acknowledged after the prediction was kept: none is left to the broker.
    wait_for("both acknowledgements", || {
        (device
            .broker
            .log()
            .matches("Received PUBACK from edge1/digits")
            .count()
            >= 2)
            .then_some(())
    });
    let metrics = service.scrape();
    assert!(
        metrics.contains("aiot_sink_connected{sink=\"edge-hub\"} 1"),
        "{metrics}"
    );
    wait_for("both confirmations", || {
        service
            .scrape()
            .contains("aiot_messages_sent_total{sink=\"edge-hub\"} 2")
            .then_some(())
    });
    service.terminate();
    let (code, log) = service.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        device
            .broker
            .log()
            .contains("Received DISCONNECT from edge1/digits")
    );
}

#[test]
fn the_twin_tunes_and_is_told() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(r#"{"threshold": 0.5, "logLevel": "warning", "$version": 1}"#);
    let service = device.start();
    let report = wait_for("the twin's settings in force", || {
        let report: Value = serde_json::from_str(hub.reported().last()?).unwrap();
        (report["settings"]["threshold"] == 0.5).then_some(report)
    });
    assert_eq!(report["model"]["name"], "colour");
    assert_eq!(report["model"]["version"], "1.2.3");
    assert_eq!(report["engine"]["provider"], "cpu");
    assert_eq!(
        report["selfCheck"],
        json!({"passed": true, "cases": 0, "message": null})
    );
    assert_eq!(report["settings"]["logLevel"], "warning");
    for key in ["uptimeS", "inferences", "p50Us", "p99Us"] {
        assert!(report["statistics"][key].is_u64(), "{key}: {report}");
    }
    assert!(hub.twin_gets() >= 1);

    // A bad value is refused and said; the old one stays, good ones beside it count.
    let whole = r#"{"threshold": "high", "sampleEvery": 2, "$version": 2}"#;
    hub.patch(
        2,
        r#"{"threshold": "high", "logLevel": null, "sampleEvery": 2, "$version": 2}"#,
        whole,
    );
    let report = wait_for("the refusal", || {
        Some(last_report(&hub)).filter(|report| report["refused"].is_string())
    });
    assert_eq!(report["refused"], "threshold: a number is wanted");
    assert_eq!(
        (
            &report["settings"]["threshold"],
            &report["settings"]["sampleEvery"]
        ),
        (&json!(0.5), &json!(2))
    );
    assert_eq!(report["settings"]["logLevel"], "info");

    // Versions 3 to 5 were missed: the whole is asked for.
    let gets = hub.twin_gets();
    hub.patch(
        6,
        r#"{"threshold": 0.25}"#,
        r#"{"threshold": 0.9999, "sampleEvery": 1, "$version": 6}"#,
    );
    wait_for("the whole twin", || {
        let report = last_report(&hub);
        (hub.twin_gets() > gets && report["settings"]["sampleEvery"] == 1 && report["refused"].is_null())
            .then_some(())
    });
    // Grey is sure of nothing: below the new threshold there is no label.
    hub.input("camera", "", png([128, 128, 128]));
    assert_eq!(bodies(&hub, 1)[0]["result"]["label"], Value::Null);

    // A sink that is switched off gets nothing.
    hub.patch(7, r#"{"sinks": {"edge-hub": false}}"#, DESIRED);
    wait_for("the switch", || {
        (last_report(&hub)["settings"]["sinks"]["edge-hub"] == false).then_some(())
    });
    hub.input("camera", "", png([255, 0, 0]));
    wait_for("the inference", || {
        service
            .scrape()
            .contains("\naiot_inferences_total 2")
            .then_some(())
    });
    assert_eq!(hub.telemetry().len(), 1);
}

#[test]
fn direct_methods() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    let _service = device.start();
    wait_for("a report", || hub.reported().first().cloned());
    let call = |method: &str, payload: &str| {
        let (status, body) = hub.call(method, payload);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    assert_eq!(
        call("ping", "null"),
        ("200".into(), json!({"answer": "pong", "model": "colour"}))
    );
    assert_eq!(
        call("selfCheck", ""),
        ("200".into(), json!({"passed": true, "cases": 0}))
    );
    let (status, stats) = call("stats", "{}");
    assert!(
        status == "200" && stats["sinks"]["edge-hub"]["connected"] == true,
        "{stats}"
    );
    // A red PNG of one pixel.
    let red = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    let (status, answer) = call("predict", &json!({"data": red}).to_string());
    assert_eq!(
        (&status[..], &answer["predictions"][0]["result"]["label"]),
        ("200", &json!("red")),
        "{answer}"
    );
    for (method, payload, expected) in [
        ("dance", "{}", "404"),
        ("predict", "{}", "400"),
        ("predict", "nonsense", "400"),
        ("predict", r#"{"data": "%%%"}"#, "400"),
        ("predict", r#"{"data": "AAAA"}"#, "400"),
        ("ping", &"x".repeat(200_000), "413"),
    ] {
        let (status, body) = call(method, payload);
        assert!(
            status == expected && body["error"].is_string(),
            "{method}: {status} {body}"
        );
    }
    // Only answers: nothing of it is telemetry.
    assert_eq!(hub.telemetry(), []);
}

#[test]
fn nothing_is_lost_when_broker_and_module_are_killed_under_load() {
    let Some(mut device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    let service = device.start();
    for _ in 0..10 {
        predict(&service);
    }
    assert_eq!(bodies(&hub, 10).len(), 10);
    let waiting = |service: &Service, count: u32| {
        service
            .scrape()
            .contains(&format!("aiot_queue_messages{{sink=\"edge-hub\"}} {count}"))
            .then_some(())
    };
    // What the broker has but has not confirmed would come again.
    wait_for("ten confirmations", || waiting(&service, 0));
    // The hub's own connection ends with the broker; what the broker had not handed to it yet would be lost with it.
    device.broker.kill();
    for _ in 0..50 {
        predict(&service);
    }
    wait_for("fifty in the queue", || waiting(&service, 50));
    // Dropped: SIGKILL.
    drop(service);
    let service = device.start();
    wait_for("fifty from before", || waiting(&service, 50));
    for _ in 0..10 {
        predict(&service);
    }
    drop(hub);
    device.broker.again(&device.certificates, &[]);
    let hub = device.hub(DESIRED);
    let got = bodies(&hub, 60);
    wait_for("an empty queue", || waiting(&service, 0));
    let ids = ids(&got);
    let once = once_each(&ids);
    // The module may be quicker than the hub's subscription: the broker is no edge hub, which stores before it
    // confirms. But what came is in order, with the ids of the process that predicted it.
    assert_eq!(once, ids, "nothing twice without a lost connection");
    let (before, after): (Vec<_>, Vec<_>) = once.iter().partition(|id| id[..16] == once[0][..16]);
    assert_eq!((before.len(), after.len()), (50, 10));
    let numbers = |ids: &[&String]| -> Vec<u64> { ids.iter().map(|id| id[17..].parse().unwrap()).collect() };
    assert_eq!(numbers(&before), (10..60).collect::<Vec<_>>());
    assert_eq!(numbers(&after), (0..10).collect::<Vec<_>>());
}

#[test]
fn nothing_is_lost_while_the_broker_is_not_to_be_trusted() {
    let Some(mut device) = Device::new() else { return };
    device.broker.kill();
    // The same authority's name, another authority; the name of another host; no entry without a password.
    let other = tempfile::tempdir().unwrap();
    let stranger = Certificates::make(other.path(), "localhost");
    let wrong_name = Certificates::make(device.folder.path(), "elsewhere");
    let mixed = Certificates {
        authority: device.certificates.authority.clone(),
        ..stranger
    };
    device.broker.again(&mixed, &[]);
    let service = device.start();
    predict(&service);
    wait_for("the handshake to fail", || {
        device.broker.log().contains("OpenSSL Error").then_some(())
    });
    device.broker.again(&wrong_name, &[]);
    predict(&service);
    wait_for("the handshake to fail again", || {
        device.broker.log().contains("OpenSSL Error").then_some(())
    });
    device
        .broker
        .again(&device.certificates.clone(), &["allow_anonymous false"]);
    predict(&service);
    wait_for("CONNECT to be refused", || {
        device.broker.log().contains("not authorised").then_some(())
    });
    device.broker.again(&device.certificates.clone(), &[]);
    let hub = device.hub(DESIRED);
    let got = bodies(&hub, 3);
    assert_eq!(once_each(&ids(&got)).len(), 3);
    service.terminate();
    let (code, log) = service.wait();
    assert_eq!(code, Some(0));
    for expected in ["TLS: ", "the broker refuses the module: NotAuthorized"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
}

#[test]
fn tokens_are_renewed_before_they_end_and_a_deaf_daemon_is_asked_again() {
    let Some(device) = Device::new() else { return };
    device.workload.close_next(2);
    let hub = device.hub(DESIRED);
    let mut command = device.command(&device.pipeline());
    command.env("AIOT_TOKEN_LIFE_S", "2");
    let service = Service::start(command);
    let mut count = 0;
    while device.workload.sign_requests().len() < 4 {
        predict(&service);
        count += 1;
        assert!(count < 5000, "the token is never renewed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ids = ids(&bodies(&hub, count));
    assert_eq!(ids, once_each(&ids));
    assert_eq!(ids.len(), count);
    let requests = device.workload.sign_requests();
    let expiries: Vec<u64> = requests
        .iter()
        .map(|request| {
            let data = request.data();
            let (resource, expiry) = data.split_once('\n').unwrap();
            assert_eq!(
                resource,
                "hub1.azure-devices.net%2Fdevices%2Fedge1%2Fmodules%2Fdigits"
            );
            assert_eq!(
                request.target,
                "/modules/digits/genid/6370/sign?api-version=2022-08-03"
            );
            expiry.parse().unwrap()
        })
        .collect();
    assert!(expiries.is_sorted() && expiries[3] > expiries[0], "{expiries:?}");
}

#[test]
fn bad_inputs_are_counted_and_harm_nothing() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    let service = device.start();
    wait_for("a report", || hub.reported().first().cloned());
    let mut jpeg = Cursor::new(Vec::new());
    image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 3, y as u8 * 3, 7]))
        .write_to(&mut jpeg, image::ImageFormat::Jpeg)
        .unwrap();
    let jpeg = jpeg.into_inner();
    let mut huge = png([1, 2, 3]);
    // Width and height in the PNG's first chunk; its checksum has to fit.
    huge[16..20].copy_from_slice(&20_000u32.to_be_bytes());
    huge[20..24].copy_from_slice(&20_000u32.to_be_bytes());
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    let bad = [
        Vec::new(),
        jpeg[..jpeg.len() / 2].to_vec(),
        huge,
        b"no picture".to_vec(),
        vec![0xff; 200_000],
    ];
    let count = bad.len();
    for (number, payload) in bad.into_iter().enumerate() {
        hub.input("camera", &format!("%24.mid={number}"), payload);
    }
    hub.input("camera", "%24.mid=good", png([0, 255, 0]));
    let got = bodies(&hub, 1);
    assert_eq!(got[got.len() - 1]["source"]["message_id"], "good");
    assert_eq!(got[got.len() - 1]["result"]["label"], "green");
    // Half a JPEG may give a half-grey picture; none of the others gives anything.
    assert!(got.len() <= 2, "{got:?}");
    let stats = hub.call("stats", "").1;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    // The picture with 400 million pixels is of the wrong size, the others cannot be decoded.
    assert_eq!(stats["errors"]["wrong_size"], 1, "{stats}");
    assert_eq!(
        stats["errors"]["undecodable"].as_u64().unwrap() as usize + got.len(),
        count,
        "{stats}"
    );
    // All are done with: a broker that sent them again for ever would hold up the rest.
    wait_for("all acknowledgements", || {
        (device
            .broker
            .log()
            .matches("Received PUBACK from edge1/digits")
            .count()
            > count)
            .then_some(())
    });
    drop(service);
}

#[test]
fn drift_is_seen_told_and_switched_off() {
    let Some(device) = Device::new() else { return };
    // As if the evaluation set had held each colour as often as the others.
    let whole = |name: &str| json!({"name": name, "bins": {"edges": []}, "counts": [300]});
    let baseline = json!({"format-version": 1, "statistics": [
        whole("brightness"), whole("contrast"), whole("saturation"),
        {"name": "class", "bins": {"classes": [0, 1, 2]}, "counts": [100, 100, 100]},
        whole("confidence"), whole("margin"),
    ]});
    std::fs::write(device.package.path().join("baseline.json"), baseline.to_string()).unwrap();
    let hub = device.hub(DESIRED);
    let mut pipeline = device.pipeline();
    pipeline["drift"] = json!({"window": 20});
    let service = Service::start(device.command(&pipeline));
    wait_for("a report", || hub.reported().first().cloned());
    assert_eq!(last_report(&hub)["drift"]["drifting"], false);
    let ask = |colour| {
        let (status, body) = service.json("POST", "/v1/predict", &png(colour));
        assert_eq!(status, 200, "{body}");
        body["predictions"][0]["drifting"].clone()
    };
    // Two windows of 20 that hold all colours, then two that hold one.
    for n in 0..42 {
        let colour = [[255, 0, 0], [0, 255, 0], [0, 0, 255]][n % 3];
        assert_eq!(ask(colour), json!(false));
    }
    for n in 0..38 {
        assert_eq!(ask([255, 0, 0]), json!(n == 37), "{n}");
    }
    let report = wait_for("drift in the twin", || {
        Some(last_report(&hub)).filter(|report| report["drift"]["drifting"] == true)
    });
    let drift = &report["drift"];
    assert_eq!(
        (&drift["differing"], &drift["windows"], &drift["windowsWithDrift"]),
        (&json!(["class"]), &json!(4), &json!(2)),
        "{drift}"
    );
    assert_eq!(drift["counts"]["class"], json!([52, 14, 14]));
    assert_eq!(
        (&drift["stuck"], &drift["repeatedInputs"]),
        (&json!(true), &json!(37))
    );
    let metrics = service.scrape();
    for line in [
        "aiot_drifting 1",
        "aiot_drift_windows_total 4",
        "aiot_drift_observations_total{statistic=\"class\",bin=\"0\"} 52",
        "aiot_input_stuck 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    let sent = bodies(&hub, 80);
    assert_eq!(
        (&sent[0]["drifting"], &sent[79]["drifting"]),
        (&json!(false), &json!(true))
    );

    let off = r#"{"drift": {"enabled": false, "window": 3}, "$version": 2}"#;
    hub.patch(2, off, off);
    let report = wait_for("no watch", || {
        Some(last_report(&hub)).filter(|report| report["drift"]["enabled"] == false)
    });
    assert_eq!(report["drift"]["drifting"], false);
    assert_eq!(
        report["refused"],
        "drift/window: a whole number from 20 to 1000000 is wanted"
    );
    assert_eq!(ask([255, 0, 0]), Value::Null);
}

#[test]
fn inputs_are_kept_when_somebody_asks() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    let folder = device.folder.path().join("capture");
    let mut pipeline = device.pipeline();
    pipeline["capture"] = json!({"directory": folder});
    let service = Service::start(device.command(&pipeline));
    wait_for("a report", || hub.reported().first().cloned());
    predict(&service);
    assert!(!folder.exists(), "nothing is kept unless somebody asks");
    let call = |payload: &str| hub.call("capture", payload);
    assert_eq!(call(r#"{"count": 0}"#).0, "400");
    assert_eq!(call(r#"{"count": 2}"#).0, "200");
    (0..3).for_each(|_| predict(&service));
    let kept = || -> Vec<std::path::PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths
    };
    assert_eq!(kept().len(), 4, "{:?}", kept());
    let facts: Value = serde_json::from_slice(&std::fs::read(&kept()[0]).unwrap()).unwrap();
    assert_eq!(facts["predictions"][0]["result"]["label"], "red", "{facts}");
    assert_eq!(std::fs::read(&kept()[1]).unwrap(), png([255, 0, 0]));
    // The twin: one an hour is one now.
    let on = r#"{"capture": {"enabled": true, "perHour": 1}, "$version": 2}"#;
    hub.patch(2, on, on);
    wait_for("capture in force", || {
        Some(last_report(&hub)).filter(|report| report["settings"]["capture"]["enabled"] == true)
    });
    (0..3).for_each(|_| predict(&service));
    assert_eq!(kept().len(), 6, "{:?}", kept());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn a_failed_self_check_is_told_before_the_end() {
    let Some(device) = Device::new() else { return };
    let red = png([255, 0, 0]);
    golden(
        device.package.path(),
        &[("red.png", &red, json!({"output": [9.0, 0.0, 0.0]}))],
    );
    let hub = device.hub(DESIRED);
    let (code, _, log) = finished(device.command(&device.pipeline()));
    assert_eq!(code, 4, "{log}");
    let report = wait_for("a report", || hub.reported().first().cloned());
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["selfCheck"]["passed"], false);
    assert!(
        report["selfCheck"]["message"]
            .as_str()
            .unwrap()
            .contains("red.png"),
        "{report}"
    );
}
