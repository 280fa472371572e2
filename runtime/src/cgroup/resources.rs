//! DECIDE: OCI `linux.resources` -> the files to write.
//!
//! Pure, so that every conversion is tested as text. Each controller is decided for the version in which the host
//! offers it, since a hybrid host may have both. OCI runtime-spec, config-linux.md, "Control groups".

use std::borrow::Cow;
use std::fmt;

use oci_spec::runtime::LinuxResources;

use super::controller::{Controller, Version};
use super::{v1, v2};
use crate::error::{Error, Kind, Result};

/// One value for one interface file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The tree that the file is in.
    pub controller: Controller,
    /// File name inside the cgroup's directory.
    pub file: Cow<'static, str>,
    /// What to write; one system call.
    pub value: String,
    /// What a kernel without this file means.
    pub absent: Absent,
}

/// What to do where the kernel has no such file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The limit was asked for and cannot be given: an error.
    Fail,
    /// The value is what such a kernel does anyway, or an addition to another limit.
    Skip,
    /// Another file has the same meaning.
    Else(Box<Write>),
}

impl Write {
    /// A value that the kernel has to take.
    pub fn must(controller: Controller, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), absent: Absent::Fail }
    }

    /// A value that is passed over where the kernel has no such file.
    pub fn may(controller: Controller, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self { absent: Absent::Skip, ..Self::must(controller, file, value) }
    }

    /// The same, with another file where this one is missing.
    pub fn or_else(self, other: Self) -> Self {
        Self { absent: Absent::Else(Box::new(other)), ..self }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} = {}", self.controller, self.file, self.value)?;
        match &self.absent {
            Absent::Fail => Ok(()),
            Absent::Skip => out.write_str(" (if there)"),
            Absent::Else(other) => write!(out, " | {other}"),
        }
    }
}

/// The writes that give `resources`, in order. `version` says where the host has a controller.
///
/// Devices are not among them: see [`super::devices`].
///
/// # Errors
/// `Invalid` for values that contradict each other, `Unsupported` for a limit whose controller this host lacks or
/// which its version of cgroups cannot express; both name the field.
pub fn decide(resources: &LinuxResources, version: impl Fn(Controller) -> Option<Version>) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    let on_v2 = |controller| version(controller) == Some(Version::V2);
    if let Some(memory) = resources.memory() {
        match on_v2(Controller::Memory) {
            true => v2::memory(memory, &mut writes)?,
            false => v1::memory(memory, &mut writes)?,
        }
    }
    if let Some(cpu) = resources.cpu() {
        match on_v2(Controller::Cpu) {
            true => v2::cpu(cpu, &mut writes)?,
            false => v1::cpu(cpu, &mut writes)?,
        }
        cpuset(cpu, &mut writes);
    }
    if let Some(pids) = resources.pids() {
        writes.push(Write::must(Controller::Pids, "pids.max", pids_limit(pids.limit())));
    }
    if let Some(io) = resources.block_io() {
        match on_v2(Controller::Io) {
            true => v2::io(io, &mut writes)?,
            false => v1::io(io, &mut writes),
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        huge(limit.page_size(), limit.limit(), on_v2(Controller::Hugetlb), &mut writes)?;
    }
    rdma(resources, &mut writes)?;
    if let Some(network) = resources.network() {
        v1::network(network, &mut writes);
    }
    for write in &writes {
        if version(write.controller).is_none() && write.absent == Absent::Fail {
            let what = format!(
                "cannot set {} to {}: there is no {} cgroup controller here, or none that may be used",
                write.file, write.value, write.controller
            );
            return Err(Error::new(Kind::Unsupported, what));
        }
    }
    writes.retain(|write| version(write.controller).is_some());
    Ok(writes)
}

/// The files of `linux.resources.unified`, sorted by name: cgroup v2's own names and values, written as they are.
///
/// # Errors
/// `Invalid` for a name that is no plain file name of an interface (`memory.high`).
pub fn unified(resources: &LinuxResources) -> Result<Vec<(String, String)>> {
    let mut files: Vec<(String, String)> = Vec::new();
    for (name, value) in resources.unified().iter().flatten() {
        let plain = !name.contains('/')
            && name.split_once('.').is_some_and(|(head, tail)| !head.is_empty() && !tail.is_empty());
        if !plain {
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.resources.unified: {name:?} is not the name of a cgroup file"),
            ));
        }
        files.push((name.clone(), value.clone()));
    }
    files.sort();
    Ok(files)
}

fn cpuset(cpu: &oci_spec::runtime::LinuxCpu, writes: &mut Vec<Write>) {
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            writes.push(Write::must(Controller::Cpuset, file, list));
        }
    }
}

/// `-1` is no limit; `0` becomes 1, which admits no second task either and which systemd takes too (as runc does).
fn pids_limit(limit: i64) -> String {
    match limit {
        limit if limit < 0 => "max".to_owned(),
        0 => "1".to_owned(),
        limit => limit.to_string(),
    }
}

fn huge(size: &str, limit: i64, on_v2: bool, writes: &mut Vec<Write>) -> Result<()> {
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::new(
            Kind::Invalid,
            format!("linux.resources.hugepageLimits: {size:?} is not a page size such as 2MB"),
        ));
    }
    let (suffix, limit) = match on_v2 {
        true => ("max", if limit < 0 { "max".to_owned() } else { limit.to_string() }),
        false => ("limit_in_bytes", limit.to_string()),
    };
    writes.push(Write::must(Controller::Hugetlb, format!("hugetlb.{size}.{suffix}"), &limit));
    writes.push(Write::may(Controller::Hugetlb, format!("hugetlb.{size}.rsvd.{suffix}"), &limit));
    Ok(())
}

/// What is left out stays as it is: no limit in a new cgroup.
fn rdma(resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, limit) in devices {
        let limits = [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())];
        let given: String =
            limits.iter().filter_map(|(key, limit)| limit.map(|limit| format!(" {key}={limit}"))).collect();
        if given.is_empty() {
            let what = format!("linux.resources.rdma[{name:?}]: needs hcaHandles or hcaObjects");
            return Err(Error::new(Kind::Invalid, what));
        }
        writes.push(Write::must(Controller::Rdma, "rdma.max", format!("{name}{given}")));
    }
    Ok(())
}

/// What was asked for and is passed over, one sentence each.
pub fn ignored(resources: &LinuxResources) -> Vec<String> {
    let kernel = resources.memory().is_some_and(|memory| memory.kernel().is_some() || memory.kernel_tcp().is_some());
    let said = "linux.resources.memory: kernel and kernelTCP are ignored: no newer kernel has these limits";
    kernel.then(|| said.to_owned()).into_iter().collect()
}

/// Whether any limit is asked for; device rules are none.
pub fn asks(resources: &LinuxResources) -> bool {
    let limits = decide(resources, |_| Some(Version::V1));
    let unified = resources.unified().as_ref().is_some_and(|files| !files.is_empty());
    unified || limits.map_or(true, |writes| !writes.is_empty())
}
