//! The Debian architectures that a device may have, with the paths that follow from each.

use std::fmt;
use std::str::FromStr;

/// A Debian architecture that images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
    /// 32-bit ARM, ARMv7 with hardware floating point.
    Armhf,
}

impl Architecture {
    /// All of them, by name.
    pub const ALL: [Architecture; 3] = [Architecture::Amd64, Architecture::Arm64, Architecture::Armhf];

    /// Debian's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
            Architecture::Armhf => "armhf",
        }
    }

    /// The folder of libraries below `usr/lib`.
    pub fn multiarch(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64-linux-gnu",
            Architecture::Arm64 => "aarch64-linux-gnu",
            Architecture::Armhf => "arm-linux-gnueabihf",
        }
    }

    /// File name of the dynamic loader.
    pub fn loader(self) -> &'static str {
        match self {
            Architecture::Amd64 => "ld-linux-x86-64.so.2",
            Architecture::Arm64 => "ld-linux-aarch64.so.1",
            Architecture::Armhf => "ld-linux-armhf.so.3",
        }
    }

    /// The folder, without a leading slash, in which the ABI looks for the loader.
    pub fn loader_dir(self) -> &'static str {
        match self {
            Architecture::Amd64 => "lib64",
            Architecture::Arm64 | Architecture::Armhf => "lib",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = String;

    /// The error is the sentence to show: which names there are.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Architecture::ALL
            .into_iter()
            .find(|architecture| architecture.as_str() == text)
            .ok_or_else(|| {
                format!("`{text}` is not an architecture that images are made for: amd64, arm64, armhf")
            })
    }
}
