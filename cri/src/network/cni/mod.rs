//! CNI: networks that other people's programs make (<https://github.com/containernetworking/cni>, SPEC.md 1.1.0).
//!
//! ```text
//! attach   record -> ADD of every plugin, in order, each told the result of the one before -> cache, record: results
//! detach   DEL of every plugin, in reverse order, as the record says -> cache and record removed
//! start    DEL of what belongs to no living pod -> GC of every network with the attachments that are left
//! ```
//! A pod is recorded before the first plugin runs, with the configuration as it is then; so DEL says the same words
//! whenever and by whomever it is called. It is the only rollback.

mod directory;
mod list;
mod records;
mod request;
mod result;
mod run;
mod status;
#[cfg(test)]
mod tests;
mod version;

use super::{Attachment, Settings, Wish};
use crate::error::{Context as _, Error, Result};
use directory::Source;
use futures_util::StreamExt as _;
use list::{List, Plugin};
use nix::sys::memfd::{MFdFlags, memfd_create};
use records::{Joined, Record, Records};
use request::{Target, Valid, Verb};
use result::Outcome;
use run::Call;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use version::Version;

/// How long plugins that a daemon left behind when it was killed are waited for.
const ORPHANS: Duration = Duration::from_secs(10);
/// How many pods are detached at once at start.
const AT_ONCE: usize = 8;

/// The CNI side of one node.
#[derive(Debug)]
pub(super) struct Cni {
    config: Settings,
    fault: Option<String>,
    records: Arc<Records>,
    /// One a pod that is worked for: an attach and a detach of the same pod wait for each other.
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Versions that programs speak, by path, size and time of change.
    spoken: Mutex<status::Spoken>,
}

impl Cni {
    /// `dir` is for records that outlive a reboot.
    pub(super) fn open(config: Settings, dir: &Path, fault: Option<String>) -> Result<Self> {
        let records = Arc::new(Records::open(dir, &config.cache_dir)?);
        Ok(Self { config, fault, records, gates: Mutex::default(), spoken: Mutex::default() })
    }

    /// The configurations that the next pod is attached by; at least one.
    ///
    /// # Errors
    /// `Unavailable`: none is valid, and why.
    fn configured(&self) -> Result<Vec<Source>> {
        directory::load(&self.config.conf_dir, self.config.networks)
    }

    /// Whether there is one.
    pub(super) fn is_configured(&self) -> bool {
        directory::load(&self.config.conf_dir, 1).is_ok()
    }

    fn fault(&self, here: &str) {
        crate::fault::point(self.fault.as_deref(), here);
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.config.timeout_seconds)
    }

    async fn gate(&self, pod: &str) -> Gate<'_> {
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).entry(pod.to_owned()).or_default().clone();
        Gate { cni: self, pod: pod.to_owned(), held: Some(gate.lock_owned().await) }
    }

    /// Attaches the pod to every network that is configured; one that an earlier attach left is detached first.
    pub(super) async fn attach(&self, wish: &Wish) -> Result<Attachment> {
        let sources = self.configured()?;
        let (args, capabilities) = (request::arguments(wish)?, request::capabilities(wish, &self.config.ip_ranges)?);
        let join = |(at, source): (usize, &Source)| Joined {
            list: source.list.to_value(),
            target: Target {
                pod: wish.pod.clone(),
                device: format!("eth{at}"),
                netns: wish.netns.clone(),
                args: args.clone(),
                capabilities: capabilities.clone(),
            },
            result: None,
        };
        super::inside::open(&wish.netns)?;
        let _gate = self.gate(&wish.pod).await;
        self.withdraw(&wish.pod).await?;
        let mut record = Record::new(sources.iter().enumerate().map(join).collect());
        match self.add_all(&wish.pod, &mut record).await {
            Ok(()) => describe(&record),
            Err(why) => match self.withdraw(&wish.pod).await {
                Ok(_) => Err(why),
                // The record stays, and the next detach repeats it.
                Err(more) => Err(Error::new(why.kind(), format!("{why}; and to undo it: {more}"))),
            },
        }
    }

    async fn add_all(&self, pod: &str, record: &mut Record) -> Result<()> {
        let lock = self.records.lock(pod, ORPHANS).await?;
        self.write(pod, record).await?;
        self.fault("cni-after-record");
        for at in 0..record.joined.len() {
            let joined = &mut record.joined[at];
            let list = joined.list()?;
            let outcome = self.add(&list, &joined.target, &lock).await?;
            let addresses = outcome.addresses(&joined.target.device);
            joined.result = Some(outcome.in_version(list.version.max(Version::V0_3)));
            if at == 0 && addresses.is_empty() {
                let why = format!("network {} gave {} no address", list.name, joined.target.device);
                return Err(Error::internal(why));
            }
            self.fault("cni-after-add");
            self.records.write_cache(joined)?;
            self.fault("cni-after-cache");
            self.write(pod, record).await?;
        }
        Ok(())
    }

    async fn write(&self, pod: &str, record: &Record) -> Result<()> {
        let (records, pod, record) = (Arc::clone(&self.records), pod.to_owned(), record.clone());
        super::blocking(move || records.write(&pod, &record)).await
    }

    /// ADD of the whole chain; gives the last result.
    async fn add(&self, list: &List, target: &Target, input: &File) -> Result<Outcome> {
        let mut previous = None;
        for plugin in &list.plugins {
            let told = request::input(list, plugin, previous.as_ref(), target);
            let said = self.call(Verb::Add, list, plugin, Some(target), (input, &told)).await?;
            let wrong = |why: Error| {
                let said = run::excerpt(&said);
                why.within(format!("plugin type={:?} name={:?} failed (add)", plugin.kind, list.name))
                    .within(format!("answer {said:?}"))
            };
            let value = serde_json::from_slice(&said).context(|| "its result is no JSON").map_err(wrong)?;
            previous = Some(Outcome::parse(value, list.version).map_err(wrong)?);
            self.fault("cni-after-plugin");
        }
        previous.ok_or_else(|| Error::internal(format!("network {}: no plugins", list.name)))
    }

    async fn call(
        &self,
        verb: Verb,
        list: &List,
        plugin: &Plugin,
        target: Option<&Target>,
        (file, told): (&File, &Value),
    ) -> Result<Vec<u8>> {
        let dirs = &self.config.bin_dirs;
        let program = directory::program(&plugin.kind, dirs).map_err(|why| {
            let (kind, name, word) = (&plugin.kind, &list.name, verb.word());
            why.within(format!("plugin type={kind:?} name={name:?} failed ({word})"))
        })?;
        // After a reboot, or when somebody removed the namespace: DEL is told that there is none (SPEC.md, DEL).
        let netns_gone = target.is_some_and(|target| super::inside::open(&target.netns).is_err());
        let environment = request::environment(verb, target, dirs, netns_gone);
        let call = Call { verb, kind: &plugin.kind, network: &list.name, program, environment, limit: self.limit() };
        run::run(&call, file, told.to_string().as_bytes()).await
    }

    /// Detaches the pod from whatever it was attached to; false when it was not.
    pub(super) async fn detach(&self, pod: &str) -> Result<bool> {
        let _gate = self.gate(pod).await;
        self.withdraw(pod).await
    }

    async fn withdraw(&self, pod: &str) -> Result<bool> {
        if self.records.read(pod)?.is_none() {
            return Ok(false);
        }
        let lock = self.records.lock(pod, ORPHANS).await?;
        let Some(record) = self.records.read(pod)? else { return Ok(false) };
        let mut outcome = Ok(());
        for joined in record.joined.iter().rev() {
            // Every one is tried; the first error says why.
            outcome = outcome.and(self.del(joined, &lock).await);
        }
        outcome?;
        self.fault("cni-after-del");
        self.records.remove(pod)?;
        Ok(true)
    }

    async fn del(&self, joined: &Joined, input: &File) -> Result<()> {
        let list = joined.list()?;
        let previous = previous(&list, joined)?;
        let mut outcome = Ok(());
        for plugin in list.plugins.iter().rev() {
            let told = request::input(&list, plugin, previous.as_ref(), &joined.target);
            let called = self.call(Verb::Del, &list, plugin, Some(&joined.target), (input, &told)).await;
            outcome = outcome.and(called.map(drop));
            self.fault("cni-after-plugin-del");
        }
        outcome.and_then(|()| self.records.remove_cache(joined))
    }

    /// CHECK of every attachment of the pod; a pod without any is no error.
    pub(super) async fn check(&self, pod: &str) -> Result<()> {
        let _gate = self.gate(pod).await;
        let Some(record) = self.records.read(pod)? else { return Ok(()) };
        let lock = self.records.lock(pod, ORPHANS).await?;
        for joined in &record.joined {
            let list = joined.list()?;
            if list.disable_check || list.version < Version::V0_4 {
                continue;
            }
            let previous = previous(&list, joined)?;
            for plugin in &list.plugins {
                let told = request::input(&list, plugin, previous.as_ref(), &joined.target);
                self.call(Verb::Check, &list, plugin, Some(&joined.target), (&lock, &told)).await?;
            }
        }
        Ok(())
    }

    /// What the pod was given; none unless every ADD came to its end.
    pub(super) fn attachment(&self, pod: &str) -> Option<Attachment> {
        let record = self.records.read(pod).ok()??;
        record.joined.iter().all(|joined| joined.result.is_some()).then(|| describe(&record).ok())?
    }

    /// How many pods have a record.
    pub(super) fn used(&self) -> usize {
        self.records.pods().map_or(0, |pods| pods.len())
    }

    /// Detaches what belongs to no living pod; then, where wanted, asks every network to collect what it holds beyond
    /// the rest.
    pub(super) async fn reconcile(&self, living: &HashSet<String>, collect: bool) -> Result<()> {
        let dead = self.records.pods()?.into_iter().filter(|pod| !living.contains(pod));
        let gone = futures_util::stream::iter(dead)
            .map(|pod| async move { self.detach(&pod).await.context(|| format!("detach pod {pod}")) })
            .buffer_unordered(AT_ONCE);
        let outcomes: Vec<Result<bool>> = gone.collect().await;
        // Every one was tried; the first error says why.
        let outcome = outcomes.into_iter().collect::<Result<Vec<bool>>>().map(drop);
        if collect { outcome.and(self.collect_garbage().await) } else { outcome }
    }

    async fn collect_garbage(&self) -> Result<()> {
        let mut outcome = Ok(());
        for Source { list, .. } in self.configured().unwrap_or_default() {
            if list.version < Version::NEWEST || list.disable_gc {
                continue;
            }
            // A record that cannot be read might be an attachment that lives: nothing is collected without it.
            let valid = self.valid(&list.name)?;
            for plugin in &list.plugins {
                let told = request::input_of_network(&list, plugin, Some(&valid));
                let called = self.call(Verb::Gc, &list, plugin, None, (&scratch()?, &told)).await;
                outcome = outcome.and(called.map(drop));
            }
        }
        outcome
    }

    /// Every attachment to the network that is on record.
    fn valid(&self, network: &str) -> Result<Vec<Valid>> {
        let mut valid = Vec::new();
        for pod in self.records.pods()? {
            for joined in self.records.read(&pod)?.into_iter().flat_map(|record| record.joined) {
                if joined.list["name"] == network {
                    valid.push(Valid { pod: joined.target.pod, device: joined.target.device });
                }
            }
        }
        Ok(valid)
    }
}

/// Held while something is done for a pod.
struct Gate<'a> {
    cni: &'a Cni,
    pod: String,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        let mut gates = self.cni.gates.lock().unwrap_or_else(PoisonError::into_inner);
        self.held = None;
        // The table's own is the last: nobody waits.
        if gates.get(&self.pod).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.pod);
        }
    }
}

/// A file for the input of a plugin that works for no pod.
fn scratch() -> Result<File> {
    let memory = memfd_create("cni", MFdFlags::MFD_CLOEXEC).context(|| "make a file in memory")?;
    Ok(memory.into())
}

/// The result that CHECK and DEL are told, since 0.4.0.
fn previous(list: &List, joined: &Joined) -> Result<Option<Outcome>> {
    match &joined.result {
        Some(result) if list.version >= Version::V0_4 => Outcome::parse(result.clone(), list.version).map(Some),
        _ => Ok(None),
    }
}

/// The pod's addresses are those on its first device.
fn describe(record: &Record) -> Result<Attachment> {
    let first = record.joined.first().ok_or_else(|| Error::internal("a record without a network"))?;
    let outcome = Outcome::parse(first.result.clone().unwrap_or_default(), Version::NEWEST)?;
    Ok(Attachment {
        ips: outcome.addresses(&first.target.device),
        gateway: outcome.gateway().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        mac: outcome.mac(&first.target.device),
    })
}
