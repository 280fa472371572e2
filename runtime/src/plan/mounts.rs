//! DECIDE: the mounts of a container, in the order in which they are made.

use std::path::Path;

use oci_spec::runtime::{Linux, Mount as OciMount, Spec};

use super::options::{self, Options};
use super::step::{Mount, Step, Target, What};
use super::{CgroupMount, Host, Opens, c_string, path_text};
use crate::error::{Context, Error, Kind, Result};
use crate::root::Place;
use crate::sys::mount::{Depth, MountAttr, attr};

/// Files in procfs that may be covered by a bind mount (lxcfs does; the list is runc's).
const COVERABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// File systems whose super block is shared or internal: `ro` concerns the mount alone.
const INTERNAL: &[&str] = &["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "tmpfs", "devtmpfs", "debugfs"];

/// One step for each mount (several for a v1 cgroup tree).
pub(super) fn decide(spec: &Spec, bundle: &Path, host: &Host, opens: &mut Opens) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let label = super::labels::mount(spec.linux().as_ref(), host)?;
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        let from = steps.len();
        one(mount, bundle, host, opens, &mut steps).context(|| format!("mounts[{at}]"))?;
        if let Some(label) = &label {
            super::labels::file_systems(&mut steps, from, label);
        }
    }
    Ok(steps)
}

fn one(mount: &OciMount, bundle: &Path, host: &Host, opens: &mut Opens, steps: &mut Vec<Step>) -> Result<()> {
    let options = options::decide(mount.options().as_deref().unwrap_or_default())?;
    let to = Place::new(path_text(mount.destination())?)?;
    let kind = mount.typ().as_deref().unwrap_or("none");
    if to.is_root() {
        return Err(Error::new(Kind::Invalid, "destination: must not be the root"));
    }
    let mapped = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
    if options.idmap.is_some() || mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        return Err(Error::new(Kind::Unsupported, "id-mapped mounts are not supported yet"));
    }
    if options.copy_up {
        return Err(Error::new(Kind::Unsupported, "tmpcopyup is not supported yet"));
    }
    let bind = options.bind.or((kind == "bind").then_some(Depth::One));
    match (kind, bind) {
        ("cgroup" | "cgroup2", None) => cgroups(&to, &options, host, steps),
        (_, Some(depth)) => {
            let source = mount.source().as_deref().ok_or_else(|| Error::new(Kind::Invalid, "source: is missing"))?;
            let source = c_string(path_text(&bundle.join(source))?)?;
            let target = target_of_bind(&to)?;
            let shared = options.propagation.iter().any(|(flag, _)| *flag == libc::MS_SHARED);
            let slot = opens.by_parent.then(|| opens.tree(source.clone(), depth, shared));
            let what = What::Bind { source, slot, depth };
            steps.push(Step::Mount(Box::new(finish(what, to, target, options))));
            Ok(())
        }
        (kind, None) => {
            let source = mount.source().as_deref().map_or(Ok(kind), path_text)?;
            steps.push(new(kind, source, to, options)?);
            Ok(())
        }
    }
}

/// Where a bind mount may go as far as its path tells; the child checks what is really there.
fn target_of_bind(to: &Place) -> Result<Target> {
    let path = to.to_string();
    match path.strip_prefix("/proc") {
        Some("") => Ok(Target::Proc),
        Some(_) if COVERABLE.contains(&path.as_str()) => Ok(Target::InProc),
        Some(below) if below.starts_with('/') => {
            Err(Error::new(Kind::Invalid, format!("destination: {path} must not be covered")))
        }
        _ => Ok(Target::Any),
    }
}

fn new(kind: &str, source: &str, to: Place, mut options: Options) -> Result<Step> {
    if options.remount {
        return Ok(Step::Mount(Box::new(finish(What::Again, to, Target::Any, options))));
    }
    let target = if matches!(kind, "proc" | "sysfs") { Target::Plain } else { Target::Any };
    if options.attributes.set & attr::RDONLY != 0 && !INTERNAL.contains(&kind) {
        options.data.push((c_string("ro")?, None));
    }
    let what =
        What::New { kind: c_string(kind)?, source: c_string(source)?, options: std::mem::take(&mut options.data) };
    Ok(Step::Mount(Box::new(finish(what, to, target, options))))
}

fn finish(what: What, to: Place, target: Target, options: Options) -> Mount {
    Mount {
        what,
        to,
        target,
        attributes: options.attributes,
        recursive: options.recursive,
        propagation: options.propagation,
    }
}

/// The container's view of its cgroups: its own directory of every tree, nothing above.
///
/// On v1 each directory is bound rather than mounted anew: the same view, with or without a cgroup namespace, for two
/// system calls a tree in place of five.
fn cgroups(to: &Place, options: &Options, host: &Host, steps: &mut Vec<Step>) -> Result<()> {
    let attributes = MountAttr { set: options.attributes.set & !attr::ATIME, ..MountAttr::default() };
    // What the host mounts below its trees is none of the container's business.
    let own = MountAttr { propagation: libc::MS_PRIVATE, ..attributes };
    let bind = |tree: &CgroupMount, to: Place| -> Result<Step> {
        let source = c_string(path_text(&tree.own)?)?;
        let what = What::Bind { source, slot: None, depth: Depth::One };
        let mount = finish(what, to, Target::Any, Options { attributes: own, ..Options::default() });
        Ok(Step::Mount(Box::new(mount)))
    };
    if let [only] = host.cgroups.as_slice()
        && only.v2
    {
        steps.push(bind(only, to.clone())?);
        return Ok(());
    }
    let base = MountAttr { set: attributes.set & !attr::RDONLY, ..MountAttr::default() };
    let data = vec![(c_string("mode")?, Some(c_string("755")?))];
    let what = What::New { kind: c_string("tmpfs")?, source: c_string("cgroup")?, options: data };
    let tmpfs = finish(what, to.clone(), Target::Any, Options { attributes: base, ..Options::default() });
    steps.push(Step::Mount(Box::new(tmpfs)));
    for tree in &host.cgroups {
        let name = tree.mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let place = Place::new(&format!("{to}/{name}"))?;
        steps.push(Step::Directory(place.clone()));
        steps.push(bind(tree, place)?);
        for part in name.split(',').filter(|part| *part != name) {
            steps.push(Step::Link(Place::new(&format!("{to}/{part}"))?, c_string(&name)?));
        }
    }
    if attributes.set & attr::RDONLY != 0 {
        let only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        let mount = finish(What::Again, to.clone(), Target::Any, Options { attributes: only, ..Options::default() });
        steps.push(Step::Mount(Box::new(mount)));
    }
    Ok(())
}

/// Propagation of the whole namespace before anything is mounted: what the specification says, or slave.
pub(super) fn propagation(linux: &Linux) -> Result<(u64, Option<(u64, Depth)>)> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok((libc::MS_SLAVE, None)),
        Some(word) => match options::propagation(word) {
            Some((flag, depth)) if flag == libc::MS_UNBINDABLE => Ok((libc::MS_PRIVATE, Some((flag, depth)))),
            Some((flag, depth)) => Ok((flag, Some((flag, depth)))),
            None => Err(Error::new(Kind::Invalid, format!("linux.rootfsPropagation: {word:?} is not a propagation"))),
        },
    }
}

/// Whether `/dev` comes from the host, so that nothing is to be made in it.
pub(super) fn binds_dev(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let words = mount.options().as_deref().unwrap_or_default();
        let bound =
            mount.typ().as_deref() == Some("bind") || words.iter().any(|word| word == "bind" || word == "rbind");
        bound && Place::new(&mount.destination().to_string_lossy()).is_ok_and(|to| to.to_string() == "/dev")
    })
}
