//! What a push costs in requests, and several pushes at the same time.

use std::collections::BTreeSet;

use aiot_oci::{PushOptions, PushReceipt};

use crate::support::{Registry, Workplace, block_on, client, have};

/// How many requests there are of a method whose path contains a text.
fn count(requests: &[String], method: &str, part: &str) -> usize {
    requests
        .iter()
        .filter(|line| line.starts_with(method) && line.contains(part))
        .count()
}

#[test]
fn what_is_known_is_not_asked() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, arm, amd64) = place.index();
    let client = client();
    let (first, second) = (registry.repository("one"), registry.repository("two"));
    assert_eq!(block_on(client.tags(&first)).unwrap(), Some(BTreeSet::new()));
    let options = PushOptions {
        tag_is_free: true,
        read_back: false,
        ..PushOptions::default()
    };
    let push = |repository, image, tag| {
        block_on(client.push(&place.store, image, repository, Some(tag), &options)).unwrap()
    };
    push(&first, &arm, "1-arm");
    push(&first, &amd64, "1-amd64");
    // Both are known to be there: only the index itself is asked for.
    let before = registry.requests().len();
    assert_eq!(push(&first, &index, "1").manifests_uploaded, 1);
    let head = format!("HEAD /v2/one/manifests/{}", index.digest);
    assert_eq!(
        registry.requests()[before..],
        [head, "PUT /v2/one/manifests/1".to_owned()]
    );
    let tags = BTreeSet::from(["1", "1-amd64", "1-arm"].map(str::to_owned));
    assert_eq!(block_on(client.tags(&first)).unwrap(), Some(tags));

    // Elsewhere: layers are mounted, the config is sent, and nothing is asked.
    let before = registry.requests().len();
    let receipt = push(&second, &arm, "1-arm");
    let requests = &registry.requests()[before..];
    assert_eq!(
        (receipt.blobs_mounted, receipt.blobs_uploaded),
        (3, 0),
        "{requests:?}"
    );
    assert_eq!(count(requests, "HEAD", ""), 0, "{requests:?}");
    assert_eq!(requests.len(), 3 + 1, "{requests:?}");
}

#[test]
fn repositories_at_the_same_time_send_a_shared_blob_once() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let client = client();
    let total = block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (client, store, index) = (client.clone(), place.store.clone(), index.clone());
            let to = registry.repository(&format!("m{number}"));
            running.spawn(async move {
                let options = PushOptions::default();
                client
                    .push(&store, &index, &to, Some("1"), &options)
                    .await
                    .unwrap()
            });
        }
        let mut total = PushReceipt::default();
        while let Some(receipt) = running.join_next().await {
            total += &receipt.unwrap();
        }
        total
    });
    // Two layers, which the images share, and two configs.
    assert_eq!((total.blobs_uploaded, total.blobs_mounted), (4, 7 * 4));
    let requests = registry.requests();
    assert_eq!(count(&requests, "PUT", "/blobs/uploads/"), 4);
}
