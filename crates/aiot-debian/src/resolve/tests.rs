use super::*;
use aiot_plan::architecture::Architecture;
use proptest::prelude::*;

/// One package a line: `name version [field: value; …]`.
fn index(lines: &str) -> Index {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (package, fields) = line
            .split_once('[')
            .map_or((line, ""), |(left, right)| (left.trim(), right));
        let (name, version) = package.split_once(' ').unwrap();
        text.push_str(&format!(
            "Package: {name}\nVersion: {version}\nArchitecture: armhf\n"
        ));
        for field in fields
            .trim_end_matches(']')
            .split(';')
            .filter(|field| !field.is_empty())
        {
            text.push_str(&format!("{}\n", field.trim()));
        }
        let sha256 = "0".repeat(64);
        text.push_str(&format!(
            "Filename: pool/{name}_{version}.deb\nSize: 1\nSHA256: {sha256}\n\n"
        ));
    }
    Index::new(text, Architecture::Armhf)
}

/// The closure as `name version, …`, or the error; a root `-x` is an exclusion.
#[track_caller]
fn check(lines: &str, roots: &str, expected: &str) {
    let (exclude, roots): (Vec<_>, Vec<_>) = roots.split(' ').partition(|root| root.starts_with('-'));
    let roots: Vec<_> = roots.into_iter().map(str::to_string).collect();
    let exclude = exclude.into_iter().map(|name| name[1..].to_string()).collect();
    let shown = match resolve(&index(lines), &roots, &exclude) {
        Err(error) => error.to_string(),
        Ok(closure) => {
            let shown: Vec<_> = closure
                .iter()
                .map(|package| format!("{} {}", package.name, package.version))
                .collect();
            shown.join(", ")
        }
    };
    assert_eq!(shown, expected);
}

#[test]
fn follows_dependencies() {
    check("a 1", "a", "a 1");
    check(
        "a 1 [Depends: b]\n b 2 [Pre-Depends: c]\n c 3\n d 4",
        "a",
        "a 1, b 2, c 3",
    );
    check(
        "a 1 [Depends: b, c (>= 2)]\n b 1 [Depends: c]\n c 2",
        "a",
        "a 1, b 1, c 2",
    );
    check("a 1\n b 1", "b a b", "a 1, b 1");
    check("a 1 [Recommends: b; Suggests: b]\n b 1", "a", "a 1");
}

#[test]
fn cycles_end() {
    check("a 1 [Depends: b]\n b 1 [Depends: a]", "a", "a 1, b 1");
    check("a 1 [Depends: a]", "a", "a 1");
}

#[test]
fn takes_the_first_alternative_that_will_do() {
    check("a 1 [Depends: b | c]\n b 1\n c 1", "a", "a 1, b 1");
    check("a 1 [Depends: x | c]\n c 1", "a", "a 1, c 1");
    check("a 1 [Depends: b (>= 2) | c]\n b 1\n c 1", "a", "a 1, c 1");
    // What is there already is preferred to the first.
    check("a 1 [Depends: b | c]\n b 1\n c 1", "a c", "a 1, c 1");
    check(
        "a 1 [Depends: b:any, c:armhf, d:arm64 | e]\n b 1\n c 1\n d 1\n e 1",
        "a",
        "a 1, b 1, c 1, e 1",
    );
}

#[test]
fn takes_the_latest_version_that_will_do() {
    check(
        "a 1 [Depends: b]\n b 1.9\n b 1.10\n b 1.10~rc1",
        "a",
        "a 1, b 1.10",
    );
    check("a 1 [Depends: b (<< 1.10)]\n b 1.9\n b 1.10", "a", "a 1, b 1.9");
}

#[test]
fn virtual_packages_are_provided() {
    check(
        "a 1 [Depends: v]\n c 1 [Provides: v]\n b 1 [Provides: w, v]",
        "a",
        "a 1, b 1",
    );
    check(
        "a 1 [Depends: v]\n b 1 [Provides: v]\n c 1 [Provides: v]",
        "a c",
        "a 1, c 1",
    );
    check(
        "a 1 [Depends: v (>= 2)]\n b 1 [Provides: v]\n c 1 [Provides: v (= 2)]",
        "a",
        "a 1, c 1",
    );
    check("a 1 [Depends: v]\n b 1 [Provides: v]\n v 1", "a", "a 1, v 1");
}

#[test]
fn excluded_packages_count_as_installed() {
    check(
        "a 1 [Depends: b, c]\n b 1 [Depends: d]\n c 1\n d 1",
        "a -b",
        "a 1, c 1",
    );
    check("a 1 [Depends: b | c]\n b 1\n c 1", "a -c", "a 1");
    check("a 1 [Depends: v]\n b 1 [Provides: v]", "a -b", "a 1");
    check("a 1", "a -absent", "a 1");
    check(
        "a 1",
        "a -a",
        "package `a` is asked for and excluded: remove it from one of the two lists",
    );
}

#[test]
fn what_is_missing_is_named_with_its_chain() {
    check(
        "libort1.21 1\n libort-dev 1",
        "libort1.20",
        "there is no package `libort1.20` for armhf in the index; it has libort-dev, libort1.21",
    );
    check("a 1", "zz", "there is no package `zz` for armhf in the index");
    check(
        "a 1 [Depends: b]\n b 1 [Depends: c (>= 2) | d]\n c 1",
        "a",
        "a → b needs `c (>= 2) | d`, which the index cannot satisfy: it has c 1; it has no package `d`",
    );
    check(
        "a 1 [Depends: b (= 1), c]\n b 1\n b 2\n c 1 [Depends: b (>= 2)]",
        "a",
        "a → c needs `b (>= 2)`, which the index cannot satisfy: b is taken in version 1",
    );
    check(
        "a 1 [Depends: v (>= 2)]\n b 1 [Provides: v (= 1)]",
        "a",
        "a needs `v (>= 2)`, which the index cannot satisfy: `v (>= 2)` is provided by b in another version",
    );
    check(
        "a 1 [Depends: b c]",
        "a",
        "the index's stanza of package a: `b c` is not a package relation: \
           not a package name",
    );
}

proptest! {
    /// Every dependency of a closure holds in it, whatever the order of the roots.
    #[test]
    fn closures_are_closed(edges in proptest::collection::vec((0usize..12, 0usize..12), 0..30), root in 0usize..12) {
        let mut lines = String::new();
        for from in 0..12 {
            let names: Vec<_> =
                edges.iter().filter(|edge| edge.0 == from).map(|edge| format!("p{}", edge.1)).collect();
            lines.push_str(&format!("p{from} 1 [Depends: {}]\n", names.join(", ")));
        }
        let other = (root + 5) % 12;
        let [one, two] = [[root, other], [other, root]].map(|roots| {
            resolve(&index(&lines), &roots.map(|root| format!("p{root}")), &BTreeSet::new()).unwrap()
        });
        prop_assert_eq!(&one, &two);
        let names: BTreeSet<_> = one.iter().map(|package| package.name.clone()).collect();
        for (from, to) in edges {
            let has = |number: usize| names.contains(&format!("p{number}"));
            prop_assert!(!has(from) || has(to));
        }
    }
}
