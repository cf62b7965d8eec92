//! `cargo xtask verify` on the release: every image says what the others with its model say.

use std::collections::BTreeSet;
use std::process::Command;

use aiot_testkit::device::can_run;
use aiot_testkit::released::Released;
use aiot_testkit::tools;
use serde_json::Value;

use crate::common::{XTASK, images};

#[test]
fn images_with_one_model_agree() {
    if !["arm", "arm64", "amd64"].into_iter().all(can_run) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let workspace = released.root.to_str().unwrap();
    let arguments = [
        "verify",
        "--workspace",
        workspace,
        "--samples",
        "3",
        "--format",
        "json",
    ];
    let ended = tools::run(Command::new(XTASK).args(arguments)).expect(0);
    let rows: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(rows.len(), images(&released).len());
    for row in &rows {
        assert_eq!(row["agreeing"], row["predictions"], "{row}");
        assert!(row["predictions"].as_u64().unwrap() >= 3, "{row}");
        if row["precision"] == "int8" {
            assert_eq!(row["largest_difference"], 0.0, "{row}");
        }
    }
    // Something was compared, across processors.
    let compared = rows.iter().filter(|row| row["compared_with"].is_string());
    let architectures: BTreeSet<&str> = compared
        .map(|row| row["architecture"].as_str().unwrap())
        .collect();
    assert!(architectures.len() >= 2, "{architectures:?}");

    let wrong = ["verify", "--workspace", workspace, "--model", "no-such-model"];
    let ended = tools::run(Command::new(XTASK).args(wrong)).expect(1);
    assert!(ended.stderr.contains("no-such-model"), "{}", ended.stderr);
}
