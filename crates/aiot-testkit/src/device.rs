//! Running the program of an image on this machine: natively with the image's own loader and libraries, or under
//! `qemu-*-static`, which needs neither root nor a container.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_oci::image::{read_config, read_manifest};
use aiot_oci::layer::visit_layer;
use aiot_oci::{Digest, EntryKind, ImageConfig, LayerError, LayerLimits, Store};

use crate::tools::{self, Ended};

/// Longest run of a program, in seconds: a crash under emulation can also be a hang.
const LIMIT_SECONDS: &str = "300";

/// The ARM64 processor that is emulated: that of a Raspberry Pi 4, which [`ARM_CPUINFO`] shows too. QEMU's default has
/// every extension there is, and with SME ONNX Runtime 1.32 takes kernels that no such device has: `int8-dynamic`
/// models gave other answers (a confidence of 0.31 and not 0.98).
const ARM64_CPU: &str = "cortex-a72";

/// An ARM processor as `/proc/cpuinfo` shows it. ONNX Runtime looks there, and crashes on ARM64 when it finds the
/// emulating machine's processor.
pub const ARM_CPUINFO: &str = "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n\
    CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n";

/// An image, unpacked.
#[derive(Debug)]
pub struct Device {
    folder: tempfile::TempDir,
    /// The image's configuration.
    pub config: ImageConfig,
}

/// What runs the programs of an architecture here.
struct Machine {
    /// The emulator; none for this machine's own architecture.
    emulator: Option<&'static str>,
    /// The program's interpreter in the image.
    loader: &'static str,
    /// Debian's folder of libraries.
    libraries: &'static str,
}

/// What runs programs of an architecture (OCI's word) here.
///
/// # Errors
/// The program that is missing, or that nothing runs them.
pub fn runs_here(architecture: &str) -> Result<(), String> {
    if !["amd64", "arm64", "arm"].contains(&architecture) {
        return Err(format!("nothing here runs programs for {architecture}"));
    }
    match machine(architecture).emulator {
        Some(emulator) if tools::find(emulator).is_none() => {
            Err(format!("needs {emulator}, of Debian's package qemu-user-static"))
        }
        _ => Ok(()),
    }
}

fn machine(architecture: &str) -> Machine {
    let (host, emulator, loader, libraries) = match architecture {
        "amd64" => (
            "x86_64",
            "qemu-x86_64-static",
            "lib64/ld-linux-x86-64.so.2",
            "usr/lib/x86_64-linux-gnu",
        ),
        "arm64" => (
            "aarch64",
            "qemu-aarch64-static",
            "lib/ld-linux-aarch64.so.1",
            "usr/lib/aarch64-linux-gnu",
        ),
        "arm" => (
            "arm",
            "qemu-arm-static",
            "lib/ld-linux-armhf.so.3",
            "usr/lib/arm-linux-gnueabihf",
        ),
        other => panic!("no machine for {other}"),
    };
    Machine {
        emulator: (host != std::env::consts::ARCH).then_some(emulator),
        loader,
        libraries,
    }
}

/// Whether programs of an architecture (OCI's word) can run here; says `SKIPPED` otherwise.
///
/// # Panics
/// When not and tools are required; on an unknown architecture.
pub fn can_run(architecture: &str) -> bool {
    machine(architecture)
        .emulator
        .is_none_or(|emulator| tools::have(&[emulator]))
}

impl Device {
    /// Unpacks the image `manifest` of a layout.
    ///
    /// # Panics
    /// When the layout is damaged.
    pub fn unpack(layout: &Path, manifest: &Digest) -> Device {
        Device::open(layout, manifest).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Device::unpack`], for programs that are no tests.
    ///
    /// # Errors
    /// What cannot be read or written.
    pub fn open(layout: &Path, manifest: &Digest) -> Result<Device, String> {
        let text = |error: &dyn std::fmt::Display| format!("image {manifest}: {error}");
        let store = Store::open_read_only(layout).map_err(|e| text(&e))?;
        let contents = read_manifest(&store, manifest).map_err(|e| text(&e))?;
        let config = read_config(&store, &contents.config.digest).map_err(|e| text(&e))?;
        let folder = tempfile::tempdir().map_err(|e| text(&e))?;
        for layer in &contents.layers {
            visit_layer(&store, layer, LayerLimits::default(), |entry, content| {
                write_entry(folder.path(), entry, content).map_err(|error| LayerError::Unreadable {
                    digest: layer.digest,
                    reason: error.to_string(),
                })
            })
            .map_err(|e| text(&e))?;
        }
        let device = Device { folder, config };
        fs::create_dir_all(device.root().join("proc"))
            .and_then(|()| fs::write(device.root().join("proc/cpuinfo"), ARM_CPUINFO))
            .map_err(|e| text(&e))?;
        Ok(device)
    }

    /// The folder that is `/` in the image.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the model package.
    pub fn package(&self) -> PathBuf {
        self.root().join("model")
    }

    /// Runs the image's program with its environment and `arguments`.
    ///
    /// # Panics
    /// When the emulator is missing, or the image has no entry point.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let program = self.command(arguments);
        let mut command = Command::new("timeout");
        command
            .arg(LIMIT_SECONDS)
            .arg(program.get_program())
            .args(program.get_args())
            .env_clear();
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        tools::run(&mut command)
    }

    /// The image's program with its environment and `arguments`, to be started.
    ///
    /// # Panics
    /// When the emulator is missing, or the image has no entry point.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let root = self.root();
        let execution = &self.config.config;
        let program = root.join(execution.entrypoint[0].trim_start_matches('/'));
        let machine = machine(self.config.platform().architecture());
        let mut command = match machine.emulator {
            Some(emulator) => {
                let mut command = Command::new(tools::find(emulator).expect(emulator));
                command.arg("-L").arg(root);
                if self.config.platform().architecture() == "arm64" {
                    command.args(["-cpu", ARM64_CPU]);
                }
                command
            }
            None => {
                let libraries =
                    std::env::join_paths([root.join(machine.libraries), root.join("usr/lib")]).unwrap();
                let mut command = Command::new(root.join(machine.loader));
                command.arg("--library-path").arg(libraries);
                command
            }
        };
        command
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", tools::path());
        for variable in &execution.env {
            match variable.split_once('=') {
                // No folder is mounted as `/`, so paths get the root in front.
                Some(("AIOT_ENGINE_LIBRARY", path)) => {
                    command.env("AIOT_ENGINE_LIBRARY", root.join(path.trim_start_matches('/')));
                }
                Some((name, value)) if name != "PATH" => {
                    command.env(name, value);
                }
                _ => {}
            }
        }
        command
            .env("AIOT_MODEL_DIR", self.package())
            .env("AIOT_SHADOW_DIR", self.root().join("shadow"));
        command
    }
}

fn write_entry(root: &Path, entry: &aiot_oci::LayerEntry, content: &mut dyn io::Read) -> io::Result<()> {
    let path = root.join(&entry.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match &entry.kind {
        EntryKind::Directory if path.is_dir() => Ok(()),
        EntryKind::Directory => fs::create_dir(&path),
        EntryKind::File { .. } => {
            let mut file = fs::File::create(&path)?;
            io::copy(content, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(entry.mode & 0o777))
        }
        EntryKind::Symlink { target } => std::os::unix::fs::symlink(target, &path),
        EntryKind::HardLink { target } => fs::hard_link(root.join(target), &path),
        EntryKind::Special => Err(io::Error::other(format!("{} is a device or pipe", entry.path))),
    }
}
