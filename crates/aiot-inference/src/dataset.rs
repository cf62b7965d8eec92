//! Data sets: a folder of input files and `labels.csv` (header `file,label`).
//!
//! A label is a class's text (classification), `0` or `1` (anomaly detection), or numbers separated by `;`
//! (regression). The lines' order does not matter: samples are sorted by file name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::file::{FileError, inside, read_bounded};
use crate::limits::{MAX_INPUT_BYTES, MAX_LIST_BYTES};

/// The list's name in its folder.
pub const LABELS_FILE: &str = "labels.csv";

/// A data set that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file cannot be read, or a listed name leaves the folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line of the list is wrong.
    #[error("line {line} of `{path}`: {message}", path = path.display())]
    Line {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what is wanted.
        message: String,
    },
    /// The list has no samples.
    #[error("`{path}` lists no files", path = path.display())]
    Empty {
        /// The list.
        path: PathBuf,
    },
}

/// One input file and what is true of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Path relative to the data set's folder.
    pub file: String,
    /// As written in the list.
    pub label: String,
}

/// A folder of inputs with labels; all listed files exist.
#[derive(Clone, Debug)]
pub struct Dataset {
    dir: PathBuf,
    samples: Vec<Sample>,
}

impl Dataset {
    /// Reads the list in `dir` and looks for its files.
    ///
    /// # Errors
    /// [`DatasetError`] names the line that is malformed, names a file twice, a missing one, or one outside of `dir`.
    pub fn open(dir: &Path) -> Result<Dataset, DatasetError> {
        let path = dir.join(LABELS_FILE);
        let bytes = read_bounded(&path, MAX_LIST_BYTES)?;
        let fail = |line: usize, message: String| DatasetError::Line {
            path: path.clone(),
            line,
            message,
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| fail(1, "it is not UTF-8".to_owned()))?;
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, "file,label")) => {}
            _ => return Err(fail(1, "the header `file,label` is wanted".to_owned())),
        }
        let mut samples = BTreeMap::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let fail = |message| fail(index + 1, message);
            if line.contains('"') {
                return Err(fail("quotes are not understood".to_owned()));
            }
            let (file, label) = line
                .split_once(',')
                .ok_or_else(|| fail("a file and a label are wanted".to_owned()))?;
            if !inside(dir, file)?.is_file() {
                return Err(fail(format!("there is no file `{file}`")));
            }
            if samples.insert(file.to_owned(), label.to_owned()).is_some() {
                return Err(fail(format!("`{file}` is listed twice")));
            }
        }
        if samples.is_empty() {
            return Err(DatasetError::Empty { path });
        }
        let samples = samples
            .into_iter()
            .map(|(file, label)| Sample { file, label })
            .collect();
        Ok(Dataset {
            dir: dir.to_owned(),
            samples,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The samples, sorted by file name; there is at least one.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The bytes of one of its samples.
    ///
    /// # Errors
    /// [`FileError`] when the file cannot be read.
    pub fn read(&self, sample: &Sample) -> Result<Vec<u8>, FileError> {
        read_bounded(&inside(&self.dir, &sample.file)?, MAX_INPUT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(list: &str) -> Result<Vec<(String, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a.png", "b.png"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        std::fs::write(dir.path().join(LABELS_FILE), list).unwrap();
        let dataset = Dataset::open(dir.path()).map_err(|error| error.to_string())?;
        Ok(dataset
            .samples
            .into_iter()
            .map(|sample| (sample.file, sample.label))
            .collect())
    }

    #[test]
    fn sorts_by_file() {
        let pair = |file: &str, label: &str| (file.to_owned(), label.to_owned());
        let expected = vec![pair("a.png", "cat, small"), pair("b.png", "dog")];
        assert_eq!(
            open("file,label\nb.png,dog\r\na.png,cat, small\n\n"),
            Ok(expected)
        );
    }

    #[test]
    fn names_the_bad_line() {
        for (list, expected) in [
            ("", "line 1"),
            ("label,file\na.png,x\n", "header `file,label`"),
            ("file,label\na.png\n", "line 2"),
            ("file,label\na.png,x\na.png,y\n", "`a.png` is listed twice"),
            ("file,label\nc.png,x\n", "no file `c.png`"),
            ("file,label\n../a.png,x\n", "leaves the folder"),
            ("file,label\n/a.png,x\n", "leaves the folder"),
            ("file,label\n\"a.png\",x\n", "quotes"),
            ("file,label\n", "lists no files"),
        ] {
            let error = open(list).unwrap_err();
            assert!(error.contains(expected), "{list:?}: {error}");
        }
    }
}
