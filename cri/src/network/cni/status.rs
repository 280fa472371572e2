//! Whether a pod could be attached now, and what is configured: for the CRI's Status.

use super::directory::{self, Source};
use super::request::{self, Verb};
use super::run::{self, Call};
use super::{Cni, Version, scratch};
use crate::error::{Context as _, Error, Kind, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

/// A plugin is asked about itself at most this long; kubelet asks every few seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Versions that a program speaks, with its size and time of change when it said so.
pub(super) type Spoken = HashMap<PathBuf, ((u64, i64, i64), Vec<Version>)>;

impl Cni {
    /// Asks every plugin of every network in use: is it there, does it speak the configuration's version, is it ready
    /// (STATUS, since 1.1.0)?
    ///
    /// # Errors
    /// The first no, with its reason.
    pub(in super::super) async fn status(&self) -> Result<()> {
        for Source { file, list } in self.configured()? {
            for plugin in &list.plugins {
                let program = directory::program(&plugin.kind, &self.config.bin_dirs)?;
                let spoken = self.spoken(&plugin.kind, &list.name, &program).await?;
                if !spoken.contains(&list.version) {
                    let all: Vec<_> = spoken.iter().map(ToString::to_string).collect();
                    let (kind, version, all) = (&plugin.kind, list.version, all.join(", "));
                    let why = format!(
                        "plugin {kind:?} does not speak CNI {version}, which {} asks for, but {all}",
                        file.display()
                    );
                    return Err(Error::new(Kind::Unsupported, why));
                }
                if list.version >= Version::NEWEST {
                    let told = request::input_of_network(&list, plugin, None);
                    self.ask(Verb::Status, &plugin.kind, &list.name, &program, &told).await?;
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, verb: Verb, kind: &str, network: &str, program: &Path, told: &Value) -> Result<Vec<u8>> {
        let environment = request::environment(verb, None, &self.config.bin_dirs, false);
        let limit = self.limit().min(PATIENCE);
        let call = Call { verb, kind, network, program: program.to_owned(), environment, limit };
        run::run(&call, &scratch()?, told.to_string().as_bytes()).await
    }

    /// Asked once for each state of the program.
    async fn spoken(&self, kind: &str, network: &str, program: &Path) -> Result<Vec<Version>> {
        let data = fs::metadata(program).context(|| format!("stat {}", program.display()))?;
        let state = (data.size(), data.mtime(), data.mtime_nsec());
        let known = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(program).cloned();
        if let Some((_, versions)) = known.filter(|(then, _)| *then == state) {
            return Ok(versions);
        }
        let told = json!({ "cniVersion": Version::NEWEST.to_string() });
        let said = self.ask(Verb::Version, kind, network, program, &told).await?;
        let versions = read_versions(&said).context(|| format!("plugin {kind:?}: what it says to VERSION"))?;
        let mut all = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(program.to_owned(), (state, versions.clone()));
        Ok(versions)
    }

    /// Entries of the verbose Status, in containerd's form: `cniconfig` and `lastCNILoadStatus`.
    pub(in super::super) fn info(&self) -> Vec<(String, String)> {
        let (sources, status) = match self.configured() {
            Ok(sources) => (sources, "OK".to_owned()),
            Err(why) => (Vec::new(), why.to_string()),
        };
        let network = |(at, source): (usize, &Source)| {
            let list = &source.list;
            let plugins: Vec<Value> = list
                .plugins
                .iter()
                .map(|plugin| json!({ "Network": { "type": plugin.kind }, "Source": Value::from(plugin.body.clone()).to_string() }))
                .collect();
            let config = json!({
                "Name": list.name,
                "CNIVersion": list.version.to_string(),
                "Plugins": plugins,
                "Source": list.to_value().to_string(),
                "File": source.file,
            });
            json!({ "Config": config, "IFName": format!("eth{at}") })
        };
        let config = json!({
            "PluginDirs": self.config.bin_dirs,
            "PluginConfDir": self.config.conf_dir,
            "PluginMaxConfNum": self.config.networks,
            "Prefix": "eth",
            "Networks": sources.iter().enumerate().map(network).collect::<Vec<_>>(),
        });
        vec![("cniconfig".to_owned(), config.to_string()), ("lastCNILoadStatus".to_owned(), status)]
    }
}

/// `supportedVersions`; those that we have never heard of do not matter.
fn read_versions(said: &[u8]) -> Result<Vec<Version>> {
    let value: Value = serde_json::from_slice(said).context(|| "no JSON")?;
    let Some(Value::Array(all)) = value.get("supportedVersions") else {
        return Err(Error::internal("no supportedVersions"));
    };
    let mut versions: Vec<Version> =
        all.iter().filter_map(Value::as_str).filter_map(|text| text.parse().ok()).collect();
    versions.sort();
    Ok(versions)
}
