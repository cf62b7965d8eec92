//! Stanzas of `Field: value` lines: `Packages`, `control`, `Release`, `.sources`.
//!
//! Lazy on purpose: an index has 70,000 stanzas of which a closure reads twenty, so a field is looked for when it is
//! asked for and nothing is copied. Source: deb822(5).

/// One stanza, borrowed from the text that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stanza<'a> {
    text: &'a str,
}

impl<'a> Stanza<'a> {
    /// Takes `text` as one stanza; blank lines in it are skipped.
    pub fn new(text: &'a str) -> Self {
        Stanza { text }
    }

    /// The text, without the blank lines around it.
    pub fn text(self) -> &'a str {
        self.text
    }

    /// The value of the first field of that name (case does not matter), trimmed, with its continuation lines.
    pub fn field(self, name: &str) -> Option<&'a str> {
        let mut offset = 0;
        while offset < self.text.len() {
            let line_end = line_end(self.text, offset);
            let line = &self.text[offset..line_end];
            if let Some((field, _)) = line.split_once(':')
                && field.trim_end().eq_ignore_ascii_case(name)
            {
                let value_start = offset + field.len() + 1;
                let mut value_end = line_end;
                while self.text[value_end..].starts_with(['\n']) && continues(&self.text[value_end + 1..]) {
                    value_end = self::line_end(self.text, value_end + 1);
                }
                return Some(self.text[value_start..value_end].trim());
            }
            offset = line_end + 1;
        }
        None
    }
}

/// The stanzas of `text`, in its order; they are separated by empty lines.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    text.split("\n\n")
        .map(|text| text.trim_matches('\n'))
        .filter(|text| !text.is_empty())
        .map(Stanza::new)
}

fn line_end(text: &str, from: usize) -> usize {
    text[from..].find('\n').map_or(text.len(), |length| from + length)
}

fn continues(rest: &str) -> bool {
    rest.starts_with([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, field: &str, expected: Option<&str>) {
        assert_eq!(Stanza::new(text).field(field), expected, "{field} of {text:?}");
    }

    #[test]
    fn finds_fields() {
        check("Package: a\nVersion: 1\n", "Version", Some("1"));
        check("Package: a\nVersion: 1", "package", Some("a"));
        check("Package:a", "Package", Some("a"));
        check("Package: a", "Pack", None);
        check("", "Package", None);
        check("no colon\nPackage: a", "Package", Some("a"));
        check("A: 1\nA: 2", "A", Some("1"));
        check("URL: http://x:1/", "URL", Some("http://x:1/"));
        check(
            "Description: x\n Package: inside\nPackage: a",
            "Package",
            Some("a"),
        );
        check("SHA256:\n 1 2 a\n 3 4 b\nX: y", "SHA256", Some("1 2 a\n 3 4 b"));
        check("A: x\n\tmore\n", "A", Some("x\n\tmore"));
        check("A: \nB: 1", "A", Some(""));
    }

    #[test]
    fn splits_at_empty_lines() {
        let found: Vec<_> = stanzas("\n\nA: 1\nB: 2\n\n\n\nA: 3\n")
            .map(|stanza| stanza.text())
            .collect();
        assert_eq!(found, ["A: 1\nB: 2", "A: 3"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|\n|:| |é)*", name in "[A-Za-z]*") {
            for stanza in stanzas(&text) {
                stanza.field(&name);
            }
            Stanza::new(&text).field(&name);
        }
    }
}
