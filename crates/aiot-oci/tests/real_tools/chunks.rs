//! Uploads in pieces to a real registry behind a proxy that refuses whole blobs, breaks links and loses its memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aiot_oci::{
    ClientOptions, Credentials, PullLayers, PushOptions, Reference, RegistryClient, Repository, Store,
};

use crate::faults::{Fault, Head, Rule, answer, is_upload, proxy, support_options, token_gate};
use crate::support::{Registry, Workplace, block_on, client, have};

fn length(head: &Head) -> u64 {
    let length = head.headers.get("content-length");
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_piece(head: &Head) -> bool {
    head.method == "PATCH"
}

/// Pushes the sample index through a proxy and checks what arrived; returns the length of pieces that was found out.
fn check(known: Option<u64>, rule: Rule) -> Option<u64> {
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let gate = proxy(&registry.address, rule);
    let repository: Repository = format!("{gate}/m").parse().unwrap();
    let client = RegistryClient::new(ClientOptions {
        chunk_bytes: known.map(|bytes| (gate.clone(), bytes)).into_iter().collect(),
        ..support_options()
    });
    block_on(client.push(
        &place.store,
        &index,
        &repository,
        Some("1"),
        &PushOptions::default(),
    ))
    .unwrap();
    is_whole(&place, &registry.repository("m"), &index.digest);
    client.chunk_bytes().get(&gate).copied()
}

/// The tag `1` of a repository names this index, and all below it can be pulled.
pub fn is_whole(place: &Workplace, repository: &Repository, index: &aiot_oci::Digest) {
    let back = tempfile::tempdir_in(place.path()).unwrap();
    let store = Store::create(back.path()).unwrap();
    let reference: Reference = format!("{repository}:1").parse().unwrap();
    for platform in ["linux/arm/v7", "linux/amd64"] {
        let platform = platform.parse().unwrap();
        let pulled = block_on(client().pull_image(&store, &reference, &platform, PullLayers::All)).unwrap();
        assert_eq!(pulled.named.digest, *index);
    }
}

/// Lets the first `times` requests that match fail.
fn first(times: u32, matches: fn(&Head) -> bool, fault: Fault) -> Rule {
    let mut left = times;
    Box::new(move |head| {
        if left > 0 && matches(head) {
            left -= 1;
            return fault.clone();
        }
        Fault::Pass
    })
}

#[test]
fn a_registry_that_refuses_whole_blobs_gets_pieces_and_is_remembered() {
    if !have(&["docker-registry"]) {
        return;
    }
    let limit = |refusals: Arc<AtomicU64>, status: &'static str| -> Rule {
        Box::new(move |head| {
            if length(head) > 100_000 && (is_upload(head) || is_piece(head)) {
                refusals.fetch_add(1, Ordering::Relaxed);
                return answer(status, "", "");
            }
            Fault::Pass
        })
    };
    let refusals = Arc::new(AtomicU64::new(0));
    let found = check(None, limit(refusals.clone(), "413 Too Large"));
    // Halved until it is below the proxy's limit, and no further.
    assert!(
        found.is_some_and(|bytes| (50_000..=100_000).contains(&bytes)),
        "{found:?}"
    );
    assert!(refusals.load(Ordering::Relaxed) >= 2);
    let refusals = Arc::new(AtomicU64::new(0));
    check(found, limit(refusals.clone(), "413 Too Large"));
    assert_eq!(refusals.load(Ordering::Relaxed), 0, "a second client knows");

    // A PUT with a body is no longer understood, or its session is lost each time.
    for status in ["400 Bad Request", "404 Not Found", "405 No", "416 No"] {
        let rule: Rule = Box::new(move |head| {
            if is_upload(head) && length(head) > 0 {
                return answer(status, "", "");
            }
            Fault::Pass
        });
        assert_eq!(check(None, rule), Some(4 << 20), "{status}");
    }
}

#[test]
fn pieces_go_on_after_a_break() {
    if !have(&["docker-registry"]) {
        return;
    }
    let known = Some(64 << 10);
    let check = |rule: Rule| assert_eq!(check(known, rule), known);
    check(first(0, is_piece, Fault::Pass));
    check(first(2, is_piece, Fault::CutRequest(1_000)));
    check(first(2, is_piece, Fault::LoseAnswer));
    check(first(2, is_piece, answer("500 Oops", "", "")));
    check(first(2, is_piece, answer("429 Slow", "Retry-After: 0\r\n", "")));
    check(first(1, is_piece, answer("416 Out of order", "", "")));
    check(first(1, is_piece, answer("404 Not Found", "", "")));
    // The registry forgets how far it is, or says something else.
    let is_question = |head: &Head| head.method == "GET" && head.path.contains("/uploads/");
    for reply in [
        answer("404 Not Found", "", ""),
        answer("204 No Content", "Range: nonsense\r\n", ""),
        answer("204 No Content", "Range: 0-99999999999\r\n", ""),
        answer("204 No Content", "", ""),
    ] {
        let mut broken = false;
        check(Box::new(move |head| {
            if is_question(head) {
                return reply.clone();
            }
            if is_piece(head) && !broken {
                broken = true;
                return answer("500 Oops", "", "");
            }
            Fault::Pass
        }));
    }
    // The last request of an upload.
    check(first(1, is_upload, Fault::LoseAnswer));
    check(first(1, is_upload, answer("404 Not Found", "", "")));
}

#[test]
fn an_acknowledged_piece_is_not_sent_again() {
    if !have(&["docker-registry"]) {
        return;
    }
    let starts: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let seen = starts.clone();
    let sessions = Arc::new(AtomicU64::new(0));
    let opened = sessions.clone();
    let (mut pieces, mut ends) = (0, 0);
    // Every third piece, and every second request that ends an upload, is refused before the registry sees it: nothing
    // is lost there.
    let found = check(
        Some(32 << 10),
        Box::new(move |head| {
            if head.method == "POST" {
                opened.fetch_add(1, Ordering::Relaxed);
            }
            if is_upload(head) {
                ends += 1;
                return match ends % 2 {
                    0 => Fault::Pass,
                    _ => answer("503 Busy", "", ""),
                };
            }
            if !is_piece(head) {
                return Fault::Pass;
            }
            pieces += 1;
            if pieces % 3 == 0 {
                return answer("503 Busy", "", "");
            }
            // A session and where the piece begins: what goes through twice was acknowledged twice.
            let session = head.path.split('?').next().unwrap_or_default();
            let key = format!("{session} {}", head.headers["content-range"]);
            *seen.lock().unwrap().entry(key).or_default() += 1;
            Fault::Pass
        }),
    );
    assert_eq!(found, Some(32 << 10));
    let starts = starts.lock().unwrap();
    assert!(starts.len() >= 10, "{starts:?}");
    assert!(starts.values().all(|times| *times == 1), "{starts:?}");
    assert_eq!(sessions.load(Ordering::Relaxed), 4, "one for each blob");
}

#[test]
fn a_token_dies_between_two_pieces() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let (realm, log) = (Arc::new(Mutex::new(String::new())), Arc::default());
    let gate = proxy(&registry.address, token_gate(realm.clone(), 3, Arc::clone(&log)));
    *realm.lock().unwrap() = format!("http://{gate}/token");
    let client = RegistryClient::new(ClientOptions {
        credentials: Credentials::anonymous().with_password(&gate, "ann", "sesame"),
        chunk_bytes: BTreeMap::from([(gate.clone(), 64 << 10)]),
        ..support_options()
    });
    let repository: Repository = format!("{gate}/m").parse().unwrap();
    let options = PushOptions {
        uploads_in_parallel: 1,
        ..PushOptions::default()
    };
    block_on(client.push(&place.store, &index, &repository, Some("1"), &options)).unwrap();
    is_whole(&place, &registry.repository("m"), &index.digest);
    assert!(log.lock().unwrap().len() > 5);
}
