//! Order of Debian package versions, `[epoch:]upstream[-revision]`.
//!
//! Source: Debian Policy 5.6.12. Total over all strings, so that hostile input cannot fail here: what does not look
//! like an epoch is part of the upstream version.

use std::cmp::Ordering;

/// Compares two package versions as dpkg does: epoch, then upstream version, then revision.
///
/// Within a part, runs of non-digits and of digits alternate. Letters sort before other characters, `~` before
/// everything and even before the end; digits compare as numbers of any length.
pub fn compare_versions(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    compare_digits(left_epoch.as_bytes(), right_epoch.as_bytes())
        .then_with(|| compare_part(left_upstream.as_bytes(), right_upstream.as_bytes()))
        .then_with(|| compare_part(left_revision.as_bytes(), right_revision.as_bytes()))
}

/// Epoch (absent = ``, which compares as 0), upstream version and revision (absent = ``, which compares as `0`).
fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit()) => {
            (epoch, rest)
        }
        _ => ("", version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

fn compare_part(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_run(left, |byte| !byte.is_ascii_digit());
        let (right_text, right_rest) = split_run(right, |byte| !byte.is_ascii_digit());
        let (left_digits, left_rest) = split_run(left_rest, |byte| byte.is_ascii_digit());
        let (right_digits, right_rest) = split_run(right_rest, |byte| byte.is_ascii_digit());
        let ordering =
            compare_text(left_text, right_text).then_with(|| compare_digits(left_digits, right_digits));
        if ordering != Ordering::Equal {
            return ordering;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn split_run(bytes: &[u8], in_run: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|byte| !in_run(byte)).unwrap_or(bytes.len()))
}

fn compare_text(left: &[u8], right: &[u8]) -> Ordering {
    let weights = |bytes: &[u8], at: usize| bytes.get(at).map_or(0, |byte| weight(*byte));
    (0..left.len().max(right.len()))
        .map(|at| weights(left, at).cmp(&weights(right, at)))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// `~` before the end (0), the end before letters, letters before the rest.
fn weight(byte: u8) -> i32 {
    match byte {
        b'~' => -1,
        b'a'..=b'z' | b'A'..=b'Z' => i32::from(byte),
        _ => i32::from(byte) + 256,
    }
}

fn compare_digits(left: &[u8], right: &[u8]) -> Ordering {
    let left = split_run(left, |byte| *byte == b'0').1;
    let right = split_run(right, |byte| *byte == b'0').1;
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(left: &str, expected: Ordering, right: &str) {
        assert_eq!(compare_versions(left, right), expected, "{left} against {right}");
        assert_eq!(
            compare_versions(right, left),
            expected.reverse(),
            "{right} against {left}"
        );
    }

    /// dpkg's own cases (its test of version comparison), and those that its test of relations adds.
    #[test]
    fn orders_versions_as_dpkg_does() {
        use Ordering::{Equal, Greater, Less};
        for (left, expected, right) in [
            ("0", Equal, "0"),
            ("0:0", Equal, "0"),
            ("0:0-0", Equal, "0-0"),
            ("0:0-0", Equal, "0"),
            ("1:0", Greater, "0"),
            ("0:0-0", Less, "1:0-0"),
            ("0:0-00", Equal, "0:00-0"),
            ("0:1-0", Less, "1:1-0"),
            ("0:a-0", Greater, "0:0-0"),
            ("0:a-0", Less, "0:b-0"),
            ("0:0-a", Less, "0:0-b"),
            ("0:0~-0", Less, "0:0-0"),
            ("0:0-0~", Less, "0:0-0"),
            ("0:00001-1", Equal, "0:1-1"),
            ("0.0.0", Less, "0.0.1"),
            ("1.2", Greater, "1.1"),
            ("1.10", Greater, "1.9"),
            ("1.0", Less, "1.0.1"),
            ("1.0", Less, "1.0a"),
            ("1.0a", Less, "1.0+"),
            ("1.0~rc1", Less, "1.0"),
            ("1.0~~", Less, "1.0~"),
            ("1.0~~a", Less, "1.0~"),
            ("1.0~", Less, "1.0"),
            ("1.0", Less, "1.0a"),
            ("1.0-1", Less, "1.0-1.1"),
            ("1.0-1~bpo1", Less, "1.0-1"),
            ("1-1-1", Greater, "1-1"),
            ("1.0", Equal, "1.0-0"),
            ("1.0", Greater, "1.0-~1"),
            ("2.41-12+deb13u4", Greater, "2.41-12"),
            ("2.41-12+deb13u10", Greater, "2.41-12+deb13u4"),
            ("0.0~git20240830.fa1c679", Less, "0.0~git20241108.4ea82e5"),
            ("14.2.0-19", Greater, "14"),
            (
                "99999999999999999999999999",
                Greater,
                "99999999999999999999999998",
            ),
            ("a:1", Greater, "1"),
            ("", Less, "1"),
            ("", Equal, "0"),
        ] {
            check(left, expected, right);
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a-b.+~:-]{0,6}", b in "[0-9a-b.+~:-]{0,6}", c in "[0-9a-b.+~:-]{0,6}") {
            prop_assert_eq!(compare_versions(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
            if compare_versions(&a, &b).is_le() && compare_versions(&b, &c).is_le() {
                prop_assert!(compare_versions(&a, &c).is_le());
            }
        }

        #[test]
        fn any_text_is_compared(a in "\\PC*", b in "\\PC*") {
            compare_versions(&a, &b);
        }
    }
}
