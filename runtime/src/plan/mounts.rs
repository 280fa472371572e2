//! DECIDE: the mounts of a container, in the order in which they are made.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount as OciMount, Spec};

use super::options::{self, Options};
use super::step::{Mount, Slot, Step, Target, What};
use super::{CgroupMount, Host, Opens, Tree, c_string, idmap, path_text};
use crate::error::{Error, Kind, Result};
use crate::root::Place;
use crate::spec::{host_id, lists};
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

/// Where mounts are decided on.
struct Site<'a> {
    linux: &'a Linux,
    bundle: &'a Path,
    /// On the host.
    rootfs: &'a Path,
    host: &'a Host,
    opens: &'a mut Opens,
    warnings: &'a mut Vec<String>,
    steps: Vec<Step>,
    last: Vec<Step>,
}

/// The steps of all mounts, and those that make some of them read-only once everything in them is made.
pub(super) struct Decided {
    pub(super) mounts: Vec<Step>,
    pub(super) last: Vec<Step>,
}

/// One step for each mount (several for a v1 cgroup tree).
pub(super) fn decide(
    spec: &Spec,
    linux: &Linux,
    (bundle, rootfs): (&Path, &Path),
    host: &Host,
    opens: &mut Opens,
    warnings: &mut Vec<String>,
) -> Result<Decided> {
    let label = super::labels::mount(spec.linux().as_ref(), host)?;
    let (steps, last) = (Vec::new(), Vec::new());
    let mut site = Site { linux, bundle, rootfs, host, opens, warnings, steps, last };
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        let from = site.steps.len();
        site.one(mount, at).map_err(|why| why.below(&format!("mounts[{at}]")))?;
        if let Some(label) = &label {
            super::labels::file_systems(&mut site.steps, from, label);
        }
    }
    Ok(Decided { mounts: site.steps, last: site.last })
}

impl Site<'_> {
    fn one(&mut self, mount: &OciMount, at: usize) -> Result<()> {
        let mut options = options::decide(mount.options().as_deref().unwrap_or_default())?;
        let path = path_text(mount.destination())?;
        if !path.starts_with('/') {
            self.warnings.push(format!(
                "mounts[{at}].destination: {path:?} is not absolute; it is taken from the root (deprecated)"
            ));
        }
        let to = Place::new(path)?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        if to.is_root() {
            return Err(Error::new(Kind::Invalid, "destination: must not be the root"));
        }
        if options.copy_up && kind != "tmpfs" {
            self.warnings.push(format!("mounts[{at}].options: tmpcopyup is for tmpfs; left out"));
        }
        let bind = options.bind.or((kind == "bind").then_some(Depth::One));
        let idmap = idmap::decide(mount, &options, self.linux, !self.host.rootless, self.opens)?;
        match (kind, bind) {
            _ if options.remount => self.again(to, options, bind.is_some()),
            ("cgroup" | "cgroup2", None) => {
                // Whose cgroups they are could let the container out of its limits (CVE-2023-25809).
                if self.host.lesser && !lists(self.linux, LinuxNamespaceType::Cgroup) {
                    options.add_read_only();
                }
                cgroups(&to, &options, self.host, &mut self.steps)
            }
            (_, Some(depth)) => {
                if let Some(word) = options.lost_on_bind() {
                    self.warnings.push(format!(
                        "mounts[{at}].options: {word:?} is a file system's own; a bind mount goes without it"
                    ));
                }
                self.bind(mount, to, &mut options, depth, idmap)
            }
            (kind, None) => {
                let source = mount.source().as_deref().map_or(Ok(kind), path_text)?;
                self.file_system(kind, source, to, options)
            }
        }
    }

    fn bind(
        &mut self,
        mount: &OciMount,
        to: Place,
        options: &mut Options,
        depth: Depth,
        idmap: Option<(Slot, Depth)>,
    ) -> Result<()> {
        let source = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty());
        let source = source.ok_or_else(|| Error::new(Kind::Invalid, "source: is missing"))?;
        let source = self.bundle.join(source);
        let target = target_of_bind(&to)?;
        let shared = options.propagation.iter().any(|(flag, _)| *flag == libc::MS_SHARED);
        // What lies in the rootfs may have been mounted there by a step before this one.
        let inside = source.strip_prefix(self.rootfs).ok();
        let inside = inside.map(|below| Place::new(path_text(below)?)).transpose()?;
        if self.host.lesser && options.attributes().set & attr::RDONLY != 0 && source.starts_with("/sys") {
            // The cgroups below, too.
            options.recursive.set |= attr::RDONLY;
        }
        let path = c_string(path_text(&source)?)?;
        let follow = !options.source_nofollow;
        let slot = (self.opens.by_parent && inside.is_none())
            .then(|| self.opens.tree(Tree { path: path.clone(), depth, follow, slave: !shared, idmap }));
        let what = What::Bind { source: path, inside, slot, depth, follow, idmap };
        self.push(what, to, target, options);
        Ok(())
    }

    fn file_system(&mut self, kind: &str, source: &str, to: Place, mut options: Options) -> Result<()> {
        let target = match (kind, target_of_bind(&to)?) {
            ("proc", Target::Proc | Target::Any) => Target::Plain,
            ("sysfs", Target::Any) => Target::Plain,
            (_, Target::Any) => Target::Any,
            _ => return Err(Error::new(Kind::Invalid, format!("destination: {to} must not be covered"))),
        };
        // Devices are made in /dev, directories for mounts in any tmpfs, before they become read-only.
        let late = (kind == "tmpfs" || to.to_string() == "/dev") && options.take_read_only();
        let attributes = options.attributes();
        let mut data: Vec<_> = std::mem::take(&mut options.super_block).into_iter().map(|flag| (flag, None)).collect();
        data.append(&mut options.data);
        self.check_owner(&data)?;
        if attributes.set & attr::RDONLY != 0 && !INTERNAL.contains(&kind) {
            data.push((c_string("ro")?, None));
        }
        let inherit = kind == "tmpfs" && !data.iter().any(|(key, _)| key.as_c_str() == c"mode");
        let copy_up = kind == "tmpfs" && options.copy_up;
        let what = What::New { kind: c_string(kind)?, source: c_string(source)?, options: data, inherit, copy_up };
        if late {
            let mut read_only = plain(What::Again { options: Vec::new() }, to.clone());
            read_only.attributes.set = attr::RDONLY;
            self.last.push(Step::Mount(Box::new(read_only)));
        }
        self.push(what, to, target, &mut options);
        Ok(())
    }

    /// Refuses an owner that the container's new user namespace does not know: the kernel would say EINVAL.
    fn check_owner(&self, data: &[(CString, Option<CString>)]) -> Result<()> {
        for (key, value) in data {
            let maps = match key.to_bytes() {
                b"uid" => self.linux.uid_mappings(),
                b"gid" => self.linux.gid_mappings(),
                _ => continue,
            };
            let maps = maps.as_deref().unwrap_or_default();
            let id = value.as_ref().and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
            if let Some(id) = id.filter(|id| !maps.is_empty() && host_id(*id, maps).is_none()) {
                let what = format!("options: {}={id} is not mapped into the user namespace", key.to_string_lossy());
                return Err(Error::new(Kind::Invalid, what));
            }
        }
        Ok(())
    }

    /// `remount`: the mount that is there gets other attributes; without `bind` its super block other options.
    fn again(&mut self, to: Place, mut options: Options, bind: bool) -> Result<()> {
        let mut data: Vec<_> = Vec::new();
        if !bind {
            data.extend(std::mem::take(&mut options.super_block).into_iter().map(|flag| (flag, None)));
            data.append(&mut options.data);
        }
        self.push(What::Again { options: data }, to, Target::Any, &mut options);
        Ok(())
    }

    fn push(&mut self, what: What, to: Place, target: Target, options: &mut Options) {
        let bound = matches!(what, What::Bind { .. } | What::Again { .. });
        let locked = self.opens.as_slaves && matches!(what, What::Bind { slot: Some(_), .. });
        let target = if options.target_nofollow && target == Target::Any { Target::NoFollow } else { target };
        self.steps.push(Step::Mount(Box::new(Mount {
            target,
            attributes: options.attributes(),
            replaced: if bound { options.replaced() } else { 0 },
            locked,
            recursive: options.recursive,
            propagation: std::mem::take(&mut options.propagation),
            ..plain(what, to)
        })));
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

/// A mount without any wish.
fn plain(what: What, to: Place) -> Mount {
    let (attributes, recursive) = (MountAttr::default(), MountAttr::default());
    Mount { what, to, target: Target::Any, attributes, replaced: 0, locked: false, recursive, propagation: Vec::new() }
}

/// The container's view of its cgroups: its own directory of every tree, nothing above.
///
/// On v1 each directory is bound rather than mounted anew: the same view, with or without a cgroup namespace, for two
/// system calls a tree in place of five.
fn cgroups(to: &Place, options: &Options, host: &Host, steps: &mut Vec<Step>) -> Result<()> {
    let asked = options.attributes().set & !attr::ATIME;
    // What the host mounts below its trees is none of the container's business.
    let own = MountAttr { set: asked, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    let bind = |tree: &CgroupMount, to: Place| -> Result<Step> {
        let source = c_string(path_text(&tree.own)?)?;
        let what = What::Bind { source, inside: None, slot: None, depth: Depth::One, follow: true, idmap: None };
        Ok(Step::Mount(Box::new(Mount { attributes: own, ..plain(what, to) })))
    };
    if let [only] = host.cgroups.as_slice()
        && only.v2
    {
        steps.push(bind(only, to.clone())?);
        return Ok(());
    }
    let data = vec![(c_string("mode")?, Some(c_string("755")?))];
    let (kind, source) = (c_string("tmpfs")?, c_string("cgroup")?);
    let mut tmpfs = plain(What::New { kind, source, options: data, inherit: false, copy_up: false }, to.clone());
    tmpfs.attributes.set = asked & !attr::RDONLY;
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
    if asked & attr::RDONLY != 0 {
        let mut read_only = plain(What::Again { options: Vec::new() }, to.clone());
        read_only.attributes.set = attr::RDONLY;
        steps.push(Step::Mount(Box::new(read_only)));
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
