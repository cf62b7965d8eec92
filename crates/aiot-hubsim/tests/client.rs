//! The client of `aiot-hub` against the simulated hub, over https: what each call does and how each refusal reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aiot_hub::entra::Credential;
use aiot_hub::{Client, Connection, LiveHub, Options};
use aiot_hubsim::rest::entra;
use aiot_hubsim::{Behaviour, Faults, Fleet, Server, Service};
use aiot_iothub::rollout::{Hub, HubDeployment, HubErrorKind, RuntimeStatus};
use serde_json::{Value, json};

const START_SECS: u64 = 1_780_000_000;
/// What the clients of all tests were told of.
static PAUSES: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

fn server(devices: usize, units: u32) -> Server {
    let mut fleet = Fleet::default();
    for number in 0..devices {
        fleet.add(
            &format!("device-{number:04}"),
            json!({"kind": "pi", "number": number}),
            Behaviour::GOOD,
        );
    }
    Server::start(Service::new(fleet, START_SECS), 0, units, 0.0).unwrap()
}

fn client_with(server: &Server, units: u32, connection: &str) -> Client {
    client_by(server, units, connection.parse().unwrap())
}

fn client_by(server: &Server, units: u32, connection: Connection) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let options = Options {
        ca_file: Some(ca_file),
        units,
        on_pause: Some(|pause| PAUSES.lock().unwrap().push(pause)),
    };
    Client::new(connection, &options).unwrap()
}

fn client(server: &Server) -> Client {
    client_with(server, 1000, &server.connection_string())
}

fn base(image: &str) -> Value {
    json!({"modulesContent": {"$edgeAgent": {"properties.desired": {
        "schemaVersion": "1.1",
        "systemModules": {"edgeAgent": {"settings": {"image": "r/agent:1"}}, "edgeHub": {"settings": {"image": "r/hub:1"}}},
        "modules": {"m": {"settings": {"image": image}}},
    }}}})
}

fn deployment(id: &str, condition: &str) -> HubDeployment {
    HubDeployment {
        id: id.to_owned(),
        content: Arc::new(base("r/m@sha256:1")),
        condition: condition.to_owned(),
        priority: 10,
        labels: BTreeMap::from([("k".to_owned(), "v'\"é".to_owned())]),
        metrics: BTreeMap::from([("all".to_owned(), "SELECT deviceId FROM devices".to_owned())]),
        ..HubDeployment::default()
    }
}

#[test]
fn deployments_are_created_changed_and_deleted() {
    let server = server(3, 1000);
    let client = client(&server);
    let mut one = deployment("prod-a", "tags.number < 2");
    one.etag = client.put_deployment(&one, None).unwrap();
    let (list, date_secs) = client.deployments().unwrap();
    assert_eq!(date_secs, START_SECS);
    one.created_secs = START_SECS;
    assert_eq!(list, [one.clone()]);
    assert_eq!(client.deployment("prod-a").unwrap().unwrap(), one);

    // A second creation, an update with an old ETag, changed content: each refusal by its name.
    let refused = |result: Result<String, aiot_hub::CallError>, kind: HubErrorKind, code: &str| {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.code.as_str()), (kind, code), "{error}");
        assert!(error.request_id.starts_with("simulated-"), "{error}");
    };
    refused(
        client.put_deployment(&one, None),
        HubErrorKind::Exists,
        "ConfigurationAlreadyExists",
    );
    let old = one.etag.clone();
    one.condition = "*".to_owned();
    one.etag = client.put_deployment(&one, Some(&old)).unwrap();
    assert_ne!(one.etag, old);
    refused(
        client.put_deployment(&one, Some(&old)),
        HubErrorKind::Stale,
        "PreconditionFailed",
    );
    let mut other = one.clone();
    other.content = Arc::new(base("r/m@sha256:2"));
    let code = "CannotModifyImmutableConfigurationContent";
    refused(
        client.put_deployment(&other, Some(&one.etag)),
        HubErrorKind::Refused,
        code,
    );
    let bad = deployment("prod-b", "tags.a = \"x\"");
    refused(
        client.put_deployment(&bad, None),
        HubErrorKind::Refused,
        "InvalidConfigurationTargetCondition",
    );

    assert_eq!(
        client.delete_deployment("prod-a", &old).unwrap_err().kind(),
        HubErrorKind::Stale
    );
    client.delete_deployment("prod-a", &one.etag).unwrap();
    assert_eq!(
        client.delete_deployment("prod-a", &one.etag).unwrap_err().kind(),
        HubErrorKind::Missing
    );
    assert!(client.deployments().unwrap().0.is_empty());
}

#[test]
fn a_snapshot_says_what_devices_run() {
    let server = server(2500, 1000);
    let mut hub = LiveHub::new(client(&server), 100);
    hub.create(&deployment("prod-a", "tags.number >= 1")).unwrap();
    server.simulator().service.pass(3600);
    let snapshot = hub.snapshot().unwrap();
    assert_eq!(
        (snapshot.now_secs, snapshot.devices.len()),
        (START_SECS + 3600, 2500)
    );
    let device = &snapshot.devices[2499];
    assert_eq!(device.id, "device-2499");
    assert_eq!(device.tags["number"], 2499);
    assert_eq!(device.agent.code, 200);
    assert_eq!(device.agent.desired_version, device.agent.reported_version);
    assert!(device.agent.deployments.contains("prod-a"));
    let report = &device.agent.modules["m"];
    assert_eq!(
        (report.image.as_str(), report.status),
        ("r/m@sha256:1", RuntimeStatus::Running)
    );
    assert!(
        snapshot.devices[0].agent.modules.is_empty(),
        "no deployment is for it"
    );
    // Over the wire it is what the service itself says, but for good self-checks, which nobody asks for.
    let mut direct = server.simulator().service.devices();
    for module in direct
        .iter_mut()
        .flat_map(|device| device.agent.modules.values_mut())
    {
        module.self_check = None;
    }
    for device in &mut direct {
        device.etag = "v1".to_owned();
    }
    assert!(snapshot.devices == direct, "what the wire says is something else");
}

#[test]
fn failed_self_checks_are_heard_of() {
    let server = server(20, 1000);
    let quality = aiot_hubsim::Quality {
        fails_percent: 40,
        trouble: aiot_hubsim::Trouble::SelfCheck,
    };
    server
        .simulator()
        .service
        .fleet
        .qualities
        .insert("r/m@sha256:1".to_owned(), quality);
    let mut hub = LiveHub::new(client(&server), 100);
    hub.create(&deployment("prod-a", "*")).unwrap();
    server.simulator().service.pass(3600);
    let failed = |devices: &[aiot_iothub::rollout::Device]| -> Vec<String> {
        let bad =
            |device: &&aiot_iothub::rollout::Device| device.agent.modules["m"].self_check == Some(false);
        devices
            .iter()
            .filter(bad)
            .map(|device| device.id.clone())
            .collect()
    };
    let over_the_wire = failed(&hub.snapshot().unwrap().devices);
    assert_eq!(over_the_wire, failed(&server.simulator().service.devices()));
    assert!(
        !over_the_wire.is_empty() && over_the_wire.len() < 20,
        "{over_the_wire:?}"
    );
}

#[test]
fn twins_and_tags() {
    let server = server(2, 1000);
    let client = client(&server);
    client
        .patch_tags("device-0001", &json!({"aiotWave": 7, "kind": null}), None)
        .unwrap();
    let twin = client.twin("device-0001", None).unwrap();
    assert_eq!(twin["tags"], json!({"number": 1, "aiotWave": 7}));
    let agent = client.twin("device-0001", Some("$edgeAgent")).unwrap();
    assert_eq!(agent["moduleId"], "$edgeAgent");
    assert_eq!(client.modules("device-0001").unwrap(), ["$edgeAgent", "$edgeHub"]);
    let gone = client.twin("no/such device", None).unwrap_err();
    assert_eq!(
        (gone.kind(), gone.code.as_str()),
        (HubErrorKind::Missing, "DeviceNotFound")
    );
    let long = "x".repeat(9000);
    let refused = client
        .patch_tags("device-0001", &json!({"a": long}), None)
        .unwrap_err();
    assert_eq!(
        (refused.status, refused.code.as_str()),
        (403, "DeviceModelMaxPropertiesExceeded")
    );
}

#[test]
fn conditions_are_tried_beforehand() {
    let server = server(1, 1000);
    let client = client(&server);
    let metrics = |query: &str| BTreeMap::from([("m".to_owned(), query.to_owned())]);
    let good = client
        .test_queries("tags.a = 'b'", &metrics("SELECT deviceId FROM devices"))
        .unwrap();
    assert!(good.is_empty(), "{good:?}");
    let wrong = client.test_queries("tags.a = \"b\"", &metrics("SELECT")).unwrap();
    let names: Vec<&str> = wrong.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["target condition", "m"]);
}

#[test]
fn a_wrong_key_says_what_to_do_and_not_the_key() {
    let server = server(1, 1);
    let connection = format!(
        "HostName=localhost:{};SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0a2V5",
        server.port()
    );
    let error = client_with(&server, 1, &connection).deployments().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("401 IotHubUnauthorizedAccess") && text.contains("clock"),
        "{text}"
    );
    assert!(!text.contains("c2VjcmV0") && !text.contains("sig="), "{text}");
}

#[test]
fn only_the_given_authority_is_trusted() {
    let (here, there) = (server(1, 1), server(1, 1));
    // The certificate of one against the port of the other.
    let error = client_with(&here, 1, &there.connection_string())
        .deployments()
        .unwrap_err();
    assert_eq!((error.status, error.kind()), (0, HubErrorKind::Retry), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(there.simulator().calls.len(), 0);
}

#[test]
fn answers_that_are_refused_or_cut_are_tried_again() {
    let server = server(30, 1000);
    let client = client(&server);
    server.simulator().faults = Faults {
        cut_percent: 30,
        ..Faults::default()
    };
    // Each call has four tries: all of 12 come through but for bad luck that the simulator's fixed seed has not.
    for _ in 0..12 {
        assert_eq!(client.deployments().unwrap().0.len(), 0);
    }
    server.simulator().faults = Faults {
        cut_percent: 100,
        ..Faults::default()
    };
    let before = *server.simulator().calls.values().next().unwrap();
    let error = client.deployments().unwrap_err();
    assert_eq!((error.status, error.kind()), (0, HubErrorKind::Retry), "{error}");
    assert_eq!(
        *server.simulator().calls.values().next().unwrap() - before,
        4,
        "tries are bounded"
    );
}

#[test]
fn calls_wait_for_the_throttle() {
    // 100 twin reads a second: the client that knows waits, and is never refused.
    let server = server(1, 1);
    let client = client_with(&server, 1, &server.connection_string());
    let start = Instant::now();
    for _ in 0..150 {
        client.twin("device-0000", None).unwrap();
    }
    assert!(start.elapsed().as_millis() >= 1000);
    assert_eq!(server.simulator().throttled, 0);
    // One that believes in more units is refused, waits, and comes through.
    let eager = client_with(&server, 1000, &server.connection_string());
    for _ in 0..21 {
        if eager.deployments().is_err() {
            assert!(server.simulator().throttled > 0);
            let told = PAUSES.lock().unwrap().clone();
            assert!(
                !told.is_empty() && told.iter().all(|pause| pause.as_secs() >= 2),
                "{told:?}"
            );
            return;
        }
    }
    panic!("21 calls in a minute are one too many");
}

/// A client that signs in.
fn signed_in(server: &Server, credential: Credential) -> Client {
    let authority = format!("localhost:{}", server.port());
    client_by(
        server,
        1000,
        Connection::Entra {
            authority,
            credential,
        },
    )
}

fn by_secret(server: &Server, tenant: &str, client: &str, secret: &str) -> Credential {
    Credential::ClientSecret {
        authority: format!("https://localhost:{}", server.port()),
        tenant: tenant.to_owned(),
        client: client.to_owned(),
        secret: secret.to_owned(),
    }
}

#[test]
fn entra_identities_sign_in() {
    let server = server(3, 1000);
    let (tenant, application) = (entra::TENANT, entra::CLIENT);
    let secret = server.simulator().entra.secret.clone();
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    let assertion = server.simulator().entra.assertion.clone();
    std::fs::write(&token_file, format!("{assertion}\n")).unwrap();
    let address = format!("https://localhost:{}", server.port());
    let workload = Credential::WorkloadIdentity {
        authority: address.clone(),
        tenant: tenant.to_owned(),
        client: application.to_owned(),
        token_file: token_file.clone(),
    };
    let machine = |client: Option<&str>| Credential::ManagedIdentity {
        metadata: address.clone(),
        client: client.map(str::to_owned),
    };
    let good = [
        by_secret(&server, tenant, application, &secret),
        workload.clone(),
        machine(None),
        machine(Some(application)),
    ];
    for (index, credential) in good.into_iter().enumerate() {
        let client = signed_in(&server, credential);
        for _ in 0..3 {
            assert_eq!(client.deployments().unwrap().0.len(), 0);
        }
        let given = server.simulator().entra.given;
        assert_eq!(given, index as u64 + 1, "a token is kept");
    }

    let check = |credential: Credential, expected: &str| {
        let kind = credential.kind();
        let error = signed_in(&server, credential).deployments().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(kind), "{text}");
        assert!(text.contains("look at AIOT_HUB_CREDENTIAL"), "{text}");
        assert!(!text.contains(&secret) && !text.contains("hush"), "{text}");
        assert_eq!(error.kind(), HubErrorKind::Refused);
    };
    check(by_secret(&server, "other", application, &secret), "AADSTS90002");
    check(by_secret(&server, tenant, "other", &secret), "AADSTS700016");
    check(by_secret(&server, tenant, application, "hush"), "AADSTS7000215");
    check(machine(Some("other")), "Identity not found");
    std::fs::write(&token_file, "another issuer's").unwrap();
    check(workload.clone(), "AADSTS700213");
    std::fs::remove_file(&token_file).unwrap();
    check(workload, "the federated token in");
}

#[test]
fn entra_tokens_are_renewed() {
    let server = server(1, 1000);
    let secret = server.simulator().entra.secret.clone();
    let credential = by_secret(&server, entra::TENANT, entra::CLIENT, &secret);
    let client = signed_in(&server, credential.clone());
    let given = || server.simulator().entra.given;
    client.deployments().unwrap();
    assert_eq!(given(), 1);
    // A token that the hub does not take any more is replaced within the same call.
    server.simulator().entra.revoke();
    client.deployments().unwrap();
    assert_eq!(given(), 2);
    // One that is told to be over is not sent again.
    server.simulator().entra.told_secs = 0;
    let client = signed_in(&server, credential.clone());
    client.deployments().unwrap();
    client.deployments().unwrap();
    assert_eq!(given(), 4);
    // New tokens that the hub refuses: said, and not tried for ever.
    server.simulator().entra.lifetime_secs = 0;
    let error = signed_in(&server, credential).deployments().unwrap_err();
    assert_eq!((error.status, given()), (401, 5));
    assert!(error.to_string().contains("token has expired"), "{error}");
    assert!(error.to_string().contains("IoT Hub Data Contributor"), "{error}");
}
