use super::*;

/// The URL that is chosen from apt files alone, or `none`.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &str) {
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| AptSource {
            name: name.to_string(),
            text: text.to_string(),
        })
        .collect();
    let url = choose_mirror(None, None, &files).map_or("none".to_string(), |mirror| mirror.url);
    assert_eq!(url, expected);
}

#[test]
fn reads_one_line_sources() {
    for (line, expected) in [
        (
            "deb http://m.example/debian trixie main",
            "http://m.example/debian",
        ),
        (
            "deb\thttps://m.example/debian/ trixie main contrib",
            "https://m.example/debian",
        ),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie main",
            "http://m.example/debian",
        ),
        (
            "deb http://m.example/proxy bookworm-updates main",
            "http://m.example/proxy",
        ),
        ("# deb http://m.example/debian trixie main", "none"),
        ("deb-src http://m.example/debian trixie main", "none"),
        (
            "deb http://m.example/debian-security trixie-security main",
            "none",
        ),
        ("deb http://m.example/debian trixie-security main", "none"),
        ("deb http://m.example/linux/debian trixie stable", "none"),
        ("deb http://m.example/ubuntu noble main", "none"),
        ("deb cdrom:[Debian]/ trixie main", "none"),
        ("deb file:/srv/debian trixie main", "none"),
        ("deb http:///debian trixie main", "none"),
        ("deb", "none"),
        ("deb [", "none"),
        ("", "none"),
    ] {
        check(&[("sources.list", line)], expected);
    }
}

#[test]
fn reads_deb822_sources() {
    let stanza = "Types: deb deb-src\nURIs: http://m.example/debian\nSuites: trixie trixie-updates\n\
                  Components: main\n";
    check(&[("debian.sources", stanza)], "http://m.example/debian");
    check(
        &[("debian.sources", &format!("# why\n{stanza}"))],
        "http://m.example/debian",
    );
    check(&[("debian.sources", &format!("Enabled: no\n{stanza}"))], "none");
    check(
        &[("debian.sources", &stanza.replace("Types: deb ", "Types: "))],
        "none",
    );
    check(
        &[("debian.sources", &stanza.replace("/debian", "/debian-security"))],
        "none",
    );
    check(
        &[(
            "debian.sources",
            "Types: deb\nURIs: http://a.example/x\n \nSuites: trixie\n",
        )],
        "none",
    );
    let two = format!("{}\n  \n{stanza}", stanza.replace("/debian", "/debian-security"));
    check(&[("debian.sources", &two)], "http://m.example/debian");
}

#[test]
fn prefers_the_archive_that_debian_signs() {
    let third_party = ("a.list", "deb https://tools.example trixie main");
    let other_debian = ("b.list", "deb https://board.example/debian trixie main");
    let signed = (
        "c.sources",
        "Types: deb\nURIs: http://m.example/mirror\nSuites: trixie\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
    );
    check(&[third_party, other_debian, signed], "http://m.example/mirror");
    check(&[third_party, other_debian], "https://board.example/debian");
    check(&[third_party], "https://tools.example");
}

#[test]
fn what_is_said_goes_before_what_is_found() {
    let apt = [AptSource {
        name: "sources.list".into(),
        text: "deb http://apt.example/debian trixie main".into(),
    }];
    let chosen = |declared, environment| choose_mirror(declared, environment, &apt).unwrap();
    assert_eq!(
        chosen(Some("http://a.example/d/"), Some("http://b.example/d")).url,
        "http://a.example/d"
    );
    assert_eq!(
        chosen(None, Some("http://b.example/d")).origin,
        MirrorOrigin::Environment
    );
    assert_eq!(
        chosen(Some(" "), Some("")).origin,
        MirrorOrigin::Apt("sources.list".into())
    );
}

#[test]
fn errors_say_what_to_set() {
    let unknown = choose_mirror(None, None, &[]).unwrap_err().to_string();
    assert!(unknown.contains("set AIOT_DEBIAN_MIRROR"), "{unknown}");
    let wrong = choose_mirror(None, Some("ftp://user:secret@m.example/debian"), &[])
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("AIOT_DEBIAN_MIRROR names") && !wrong.contains("secret"),
        "{wrong}"
    );
}

#[test]
fn reads_the_files_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read_apt_sources(&folder.path().join("absent")).unwrap(), []);
    fs::create_dir(folder.path().join("sources.list.d")).unwrap();
    for name in [
        "sources.list",
        "sources.list.d/b.list",
        "sources.list.d/a.sources",
        "sources.list.d/c.disabled",
    ] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let names: Vec<_> = read_apt_sources(folder.path())
        .unwrap()
        .into_iter()
        .map(|source| source.name)
        .collect();
    assert_eq!(names, ["sources.list", "a.sources", "b.list"]);
}
