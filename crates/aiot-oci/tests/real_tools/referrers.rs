//! Statements about images: in front of a registry that lists referrers itself, and under a tag that two machines write
//! at the same time.
//!
//! No package that we can install holds a registry with the referrers API of OCI 1.1. The proxy adds it to a real one, as
//! the specification says: `OCI-Subject` in the answer to a manifest that has a subject, and lists of the manifests that
//! it saw, filtered and in pages.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use aiot_oci::{Artifact, Descriptor, Digest, PushOptions, RegistryError, Repository};
use serde_json::{Value, json};

use crate::faults::{Fault, Head, Rule, answer, proxy};
use crate::support::{Registry, Workplace, block_on, client, have};

type Log = Arc<Mutex<Vec<String>>>;

/// Adds the referrers API; `page` entries at a time, filtered only where `filters`.
fn referrers_api(page: usize, filters: bool, log: Log) -> Rule {
    let mut lists: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    Box::new(move |head| {
        log.lock().unwrap().push(format!("{} {}", head.method, head.path));
        if head.method == "PUT" && head.path.contains("/manifests/") {
            let manifest: Value = serde_json::from_slice(&head.body).unwrap();
            let Some(subject) = manifest["subject"]["digest"].as_str() else {
                return Fault::Pass;
            };
            let digest = Digest::of(&head.body).to_string();
            let entry = json!({
                "mediaType": manifest["mediaType"], "digest": digest, "size": head.body.len(),
                "artifactType": manifest["artifactType"],
            });
            let list = lists.entry(subject.to_owned()).or_default();
            list.insert(digest, entry);
            return Fault::PassWith(format!("OCI-Subject: {subject}\r\n"));
        }
        let Some((_, rest)) = head.path.split_once("/referrers/") else {
            return Fault::Pass;
        };
        let (subject, query) = rest.split_once('?').unwrap_or((rest, ""));
        let parameter = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name));
            pair.map(|value| value.replace("%2F", "/").replace("%2B", "+"))
        };
        let wanted = parameter("artifactType=").filter(|_| filters);
        let after = parameter("last=").unwrap_or_default();
        let none = BTreeMap::new();
        let entries: Vec<&Value> = lists
            .get(subject)
            .unwrap_or(&none)
            .iter()
            .filter(|(digest, entry)| {
                **digest > after
                    && wanted
                        .as_ref()
                        .is_none_or(|wanted| entry["artifactType"] == **wanted)
            })
            .map(|(_, entry)| entry)
            .collect();
        let shown = &entries[..page.min(entries.len())];
        let mut headers = "Content-Type: application/vnd.oci.image.index.v1+json\r\n".to_owned();
        if let Some(last) = shown.last().filter(|_| entries.len() > page) {
            let last = last["digest"].as_str().unwrap();
            let path = head.path.split('?').next().unwrap();
            headers += &format!("Link: <{path}?last={last}>; rel=\"next\"\r\n");
        }
        if wanted.is_some() {
            headers += "OCI-Filters-Applied: artifactType\r\n";
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": shown,
        });
        answer("200 OK", &headers, &index.to_string())
    })
}

fn artifact(kind: &str) -> Artifact {
    Artifact {
        artifact_type: format!("application/{kind}+json"),
        title: format!("{kind}.json"),
        bytes: format!("\"{kind}\"").into_bytes(),
    }
}

fn kinds(found: &[Descriptor]) -> Vec<&str> {
    let mut kinds: Vec<&str> = found
        .iter()
        .map(|entry| entry.artifact_type.as_deref().unwrap())
        .collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn a_registry_that_lists_referrers_gets_no_tag_for_them() {
    if !have(&["docker-registry"]) {
        return;
    }
    for (page, filters) in [(99, true), (2, true), (1, false)] {
        let place = Workplace::new();
        let registry = Registry::start(place.path(), "");
        let (_, image, _) = place.index();
        let log = Log::default();
        let gate = proxy(&registry.address, referrers_api(page, filters, Arc::clone(&log)));
        let to: Repository = format!("{gate}/m").parse().unwrap();
        let (client, options) = (client(), PushOptions::default());
        block_on(client.push(&place.store, &image, &to, Some("1"), &options)).unwrap();
        let all = ["a", "b", "c", "d", "e"].map(artifact);
        for artifact in &all {
            block_on(client.attach(&place.store, &to, &image, artifact, &options)).unwrap();
        }
        let found = block_on(client.referrers(&to, &image.digest)).unwrap();
        let expected = all.each_ref().map(|artifact| artifact.artifact_type.as_str());
        assert_eq!(kinds(&found), expected);
        let only = |kind: &str| {
            let found = client.referrers_of_type(&to, &image.digest, Some(kind));
            kinds(&block_on(found).unwrap()).len()
        };
        assert_eq!((only("application/c+json"), only("application/x+json")), (1, 0));
        let other = Digest::of(b"other");
        assert_eq!(block_on(client.referrers(&to, &other)).unwrap(), []);
        let log = log.lock().unwrap();
        let of_tag = log.iter().filter(|line| line.contains("/manifests/sha256-"));
        assert_eq!(of_tag.count(), 0, "{log:?}");
        let asked = log.iter().filter(|line| line.contains("/referrers/"));
        // Once whether the registry can; then lists, of which the pages of two follow.
        assert!(asked.count() >= 5);
        let tags = block_on(client.tags(&registry.repository("m"))).unwrap().unwrap();
        assert_eq!(tags.into_iter().collect::<Vec<_>>(), ["1"]);
    }
}

#[test]
fn a_list_without_end_is_an_error() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let endless: Rule = Box::new(|head| {
        let path = head.path.split('?').next().unwrap();
        let index = "{\"schemaVersion\":2,\"manifests\":[]}";
        answer("200 OK", &format!("Link: <{path}?more>; rel=\"next\"\r\n"), index)
    });
    let to: Repository = format!("{}/m", proxy(&registry.address, endless))
        .parse()
        .unwrap();
    let error = block_on(client().referrers(&to, &Digest::of(b"x"))).unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
}

/// One request to a registry, beside the client; the body of its answer.
fn ask(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/vnd.oci.image.index.v1+json\r\n\
         Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 20"), "{reply}");
    reply.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn machines_that_list_referrers_at_the_same_time_keep_each_others() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (_, image, _) = place.index();
    let direct = registry.repository("m");
    let options = PushOptions::default();
    block_on(client().push(&place.store, &image, &direct, Some("1"), &options)).unwrap();
    for kind in ["a", "b"] {
        let (client, artifact) = (client(), artifact(kind));
        block_on(client.attach(&place.store, &direct, &image, &artifact, &options)).unwrap();
    }
    let path = format!("/v2/m/manifests/sha256-{}", image.digest.hex());
    let both: Value = serde_json::from_str(&ask(&registry.address, "GET", &path, "")).unwrap();
    assert_eq!(both["manifests"].as_array().unwrap().len(), 2);
    // What another machine writes that has looked before one of them was there.
    let stale = |kept: usize| {
        let mut list = both.clone();
        list["manifests"] = json!([both["manifests"][kept]]);
        list.to_string()
    };
    // It writes after each of our writes, `times` times.
    let attach = |kind: &str, kept: usize, mut times: u32| {
        let (upstream, path, stale) = (registry.address.clone(), path.clone(), stale(kept));
        let mut written = false;
        let rule: Rule = Box::new(move |head: &Head| {
            if head.path == path && head.method == "PUT" {
                written = true;
            } else if head.path == path && head.method == "GET" && written && times > 0 {
                written = false;
                times -= 1;
                ask(&upstream, "PUT", &path, &stale);
            }
            Fault::Pass
        });
        let to: Repository = format!("{}/m", proxy(&registry.address, rule)).parse().unwrap();
        block_on(client().attach(&place.store, &to, &image, &artifact(kind), &options))
    };
    let listed = || block_on(client().referrers(&direct, &image.digest)).unwrap();
    attach("c", 0, 1).unwrap();
    assert_eq!(
        kinds(&listed()),
        ["a", "b", "c"].map(|kind| format!("application/{kind}+json"))
    );
    attach("d", 1, 3).unwrap();
    let all = ["a", "b", "c", "d"].map(|kind| format!("application/{kind}+json"));
    assert_eq!(kinds(&listed()), all);
    // Somebody who never stops.
    let error = attach("e", 0, u32::MAX).unwrap_err();
    assert!(
        matches!(error, RegistryError::Protocol { .. }) && error.to_string().contains("does not keep"),
        "{error}"
    );
}
