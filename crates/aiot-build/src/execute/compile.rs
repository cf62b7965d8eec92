//! Compiling a module: sources staged, builder chosen, program checked.

use std::collections::BTreeMap;

use aiot_plan::ModuleName;
use aiot_plan::action::Output;
use aiot_plan::declare::BuilderKind;
use aiot_plan::tools;
use aiot_toolchain::builder::{Linker, container_builder, system_linker};
use aiot_toolchain::compile::{CompileRequest, compile};
use aiot_toolchain::stage::stage;
use aiot_toolchain::triple::triple_facts;
use aiot_toolchain::versions::rustc_version;
use aiot_toolchain::wheels;

use super::Task;
use crate::error::BuildError;
use crate::events::Event;

impl Task<'_> {
    pub(super) fn compile(
        &self,
        module: &ModuleName,
        triple: &str,
        glibc: &str,
        builder: BuilderKind,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let linker = self.linker(triple, builder, module)?;
        // cargo takes all cores and one target folder: two at once would only wait for each other.
        let _alone = self
            .context
            .compiling
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let sources = &self.context.observation.modules[module];
        let modules = self.context.paths.modules();
        let stage_dir = modules.join(module.as_str());
        stage(&stage_dir, sources).map_err(|error| self.fail(error))?;
        let request = CompileRequest {
            stage_dir: &stage_dir,
            module: module.as_str(),
            triple: triple_facts(triple).map_err(|error| self.fail(error))?,
            glibc_floor: glibc.parse().map_err(|error| self.fail(error))?,
            linker: &linker,
            target_dir: &modules.join("target"),
            cargo_home: None,
            toolchain_channel: sources.toolchain_channel.as_deref(),
            is_offline: self.context.network.is_none(),
        };
        // cargo's own lines are long; the tail of them stands in the error, if there is one.
        let compiled = compile(&request, &mut |line| {
            if line.starts_with("info: downloading") || line.contains("installing component") {
                (self.context.events)(Event::Note(line.trim().to_owned()));
            }
        })
        .map_err(|error| self.fail(error))?;
        let blob = self
            .context
            .store
            .put_file(&compiled.path)
            .map_err(|error| self.fail(error))?;
        let output = Output {
            digest: blob.digest,
            size_bytes: blob.size,
            diff_id: None,
            media_type: None,
        };
        Ok(self.one("binary", output))
    }

    fn linker(&self, triple: &str, builder: BuilderKind, module: &ModuleName) -> Result<Linker, BuildError> {
        match builder {
            BuilderKind::Zigbuild => {
                let mut paths = Vec::new();
                for request in tools::zig_wheels(std::env::consts::ARCH) {
                    let wheel = self.context.lock.requested_wheel(&request);
                    let wheel =
                        wheel.ok_or_else(|| self.fail(format!("aiot.lock has no {}", request.package)))?;
                    paths.push(self.fetch_wheel(wheel)?);
                }
                let tools = wheels::zig_tools(&paths[0], &paths[1], &self.context.paths.downloads())
                    .map_err(|error| self.fail(error))?;
                Ok(Linker::Zig(tools))
            }
            BuilderKind::Cargo => {
                let facts = triple_facts(triple).map_err(|error| self.fail(error))?;
                let channel = self.context.observation.modules[module]
                    .toolchain_channel
                    .as_deref();
                let host = rustc_version(&self.context.paths.root, channel)
                    .map_err(|error| self.fail(error))?
                    .host;
                Ok(Linker::System(
                    system_linker(facts, &host).map_err(|error| self.fail(error))?,
                ))
            }
            BuilderKind::Cross => Ok(Linker::Container(
                container_builder().map_err(|error| self.fail(error))?,
            )),
        }
    }
}
