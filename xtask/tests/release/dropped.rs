//! A Debian package that no mirror has any more: the base comes from an image that an earlier release has pushed.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use aiot_testkit::registry::Registry;
use aiot_testkit::released::{Copy, Released};
use aiot_testkit::tools::{Ended, have, run};

use crate::common::XTASK;
use crate::crashes::forget;

/// A mirror that has nothing.
fn empty_mirror() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/debian", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap_or(0) > 2 {
                line.clear();
            }
            let _ = stream
                .get_mut()
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    url
}

/// `release` with a mirror that has dropped everything.
fn release(copy: &Copy, mirror: &str, more: &[&str]) -> Ended {
    let mut arguments = vec!["release", "--locked"];
    arguments.extend(more);
    let mut command = copy.command(XTASK, &arguments);
    command
        .env("AIOT_DEBIAN_MIRROR", mirror)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    run(&mut command)
}

/// Takes bases and packages out of the store.
fn forget_bases(copy: &Copy) {
    forget(copy, |id| id.starts_with("assemble base"));
    let lock: toml::Table = copy.read("aiot.lock").parse().unwrap();
    for closure in lock["debian"].as_array().unwrap() {
        for package in closure["package"].as_array().unwrap() {
            let digest = package["digest"].as_str().unwrap();
            let _ = std::fs::remove_file(copy.blob(digest));
        }
    }
}

#[test]
fn a_dropped_package_comes_with_an_image_of_an_earlier_release() {
    if !have(&["docker-registry"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let registry = Registry::start(copy.beside());
    let mirror = empty_mirror();
    let environment = copy.read("deployments/dev.toml");
    copy.write(
        "deployments/dev.toml",
        format!("registry = \"{}\"\n{environment}", registry.address),
    );
    let prefix = format!("{}/aiot", registry.address);
    release(&copy, &mirror, &["--environment", "dev", "--push", &prefix]).expect(0);
    let before = copy.index();

    // Everything is gone but the registry: the same images come of it.
    forget_bases(&copy);
    let ended = release(&copy, &mirror, &["--environment", "dev"]).expect(0);
    assert!(
        ended.stderr.contains("which an earlier release has pushed"),
        "{}",
        ended.stderr
    );
    assert_eq!(copy.index(), before);
    assert_eq!(
        aiot_oci::validate_layout(&copy.root.join("dist/images")).unwrap(),
        []
    );

    // Another lock: its packages are not in the images, and what to do is told.
    let lock = copy.read("aiot.lock");
    let at = lock.find("name = \"libc6\"").unwrap();
    let version = lock[at..].split_once("version = \"").unwrap().1;
    let version = version.split_once('"').unwrap().0;
    copy.write(
        "aiot.lock",
        lock.replace(&format!("version = \"{version}\""), "version = \"9.99-1\""),
    );
    forget_bases(&copy);
    let refused = release(&copy, &mirror, &["--environment", "dev"]).expect(1);
    for words in ["cargo xtask update base", "it holds libc6", "9.99-1"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }

    // Nothing was pushed to where the manifests say.
    copy.write("aiot.lock", lock);
    copy.write(
        "deployments/dev.toml",
        copy.read("deployments/dev.toml")
            .replace("repository-prefix = \"aiot\"", "repository-prefix = \"other\""),
    );
    let refused = release(&copy, &mirror, &["--environment", "dev"]).expect(1);
    assert!(
        refused.stderr.contains("Nor does an earlier release help"),
        "{}",
        refused.stderr
    );
}
