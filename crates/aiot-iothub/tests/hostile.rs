//! Any text anywhere in a release is answered with files or errors, never with a panic, and always the same.

mod common;

use std::collections::BTreeMap;

use aiot_iothub::{Release, Ring, RouteSpec, render};
use proptest::prelude::*;
use serde_json::json;

/// Texts that are nearly right, and texts that are not.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        "[a-z$./@:#-]{0,12}",
        Just("tags.a = 'x'".to_owned()),
        Just("*".to_owned()),
        Just("FROM /messages/modules/a/* INTO $upstream".to_owned()),
        Just("${A}".to_owned()),
        Just("é".repeat(600)),
    ]
}

fn releases() -> impl Strategy<Value = Release> {
    (proptest::collection::vec(texts(), 12), 0..4usize, any::<u8>()).prop_map(|(texts, modules, chosen)| {
        // Each bit lets one text in, so that right and wrong parts mix.
        let pick = |bit: u8, text: usize, right: &str| {
            if chosen & (1 << bit) == 0 {
                right.to_owned()
            } else {
                texts[text].clone()
            }
        };
        let names = ["a", "b", "c"];
        let mut target = common::target(
            "pi",
            names[..modules.min(3)]
                .iter()
                .map(|name| common::module(name, '1'))
                .collect(),
        );
        target.name = pick(0, 0, "pi");
        target.condition = pick(1, 1, "tags.a = 1");
        target.create_options =
            common::object(json!({"Labels": {texts[2].clone(): texts[3]}, "Env": [texts[4]]}));
        for (index, module) in target.modules.iter_mut().enumerate() {
            module.name = pick(2, 5 + index, names[index]);
            module.condition = (chosen & 8 != 0).then(|| texts[8 + index].clone());
            module.env = BTreeMap::from([(pick(4, 9, "A"), common::text(&texts[10]))]);
            module.routes = BTreeMap::from([(
                pick(5, 10, module.name.as_str()),
                RouteSpec::from(pick(6, 11, "FROM /* INTO $upstream").as_str()),
            )]);
            module.desired = common::object(json!({pick(7, 6, "k"): texts[7]}));
        }
        let mut release = common::release(vec![target]);
        release.rings = vec![Ring::new(&pick(7, 9, "r"), Some(&pick(0, 10, "tags.r = 1")))];
        release
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_release_is_answered(release in releases()) {
        let first = render(&release);
        prop_assert_eq!(&first, &render(&release));
        match first {
            Ok(rendered) => {
                for (path, bytes) in &rendered.files {
                    prop_assert!(!path.contains("..") && !path.starts_with('/'), "{path}");
                    prop_assert!(bytes.ends_with(b"\n") && std::str::from_utf8(bytes).is_ok(), "{path}");
                }
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(error.to_string().len() < 8000, "{error}");
                }
            }
        }
    }
}
