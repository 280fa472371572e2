//! Who owns a container's cgroup: the user that it runs as, where it is to manage cgroups of its own.
//!
//! Only on pure v2 (handing v1's over is not safe), only for a new cgroup namespace in which the tree is mounted to be
//! written, and only the files that the kernel names: another one would let the container lift its own limits. OCI
//! runtime-spec, config-linux.md, "Cgroup ownership".

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::tree::{Cgroup, missing};
use crate::error::{Context, Result};
use crate::spec::{host_id, is_joined};

/// The kernel's list of files that may change hands.
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";

/// That list where the kernel (before 4.15) has none.
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// The user of the host that the cgroup of such a container goes to; `None` leaves it as it is.
pub fn owner(spec: &Spec) -> Option<u32> {
    let linux = spec.linux().as_ref()?;
    let spaces = linux.namespaces().as_deref().unwrap_or_default();
    spaces.iter().find(|space| space.typ() == LinuxNamespaceType::Cgroup && !is_joined(space))?;
    let mount = spec.mounts().iter().flatten().find(|mount| {
        let source = mount.source().as_deref() == Some(Path::new("cgroup"));
        source && mount.destination() == Path::new("/sys/fs/cgroup")
    })?;
    if mount.options().iter().flatten().any(|word| word == "ro" || word == "rro") {
        return None;
    }
    let uid = spec.process().as_ref()?.user().uid();
    let maps = linux.uid_mappings().as_deref().unwrap_or_default();
    if maps.is_empty() {
        // A user namespace that was joined has its mappings elsewhere: nobody knows who that is.
        let joined = spaces.iter().any(|space| space.typ() == LinuxNamespaceType::User);
        return Some(uid).filter(|uid| *uid != 0 && !joined);
    }
    host_id(uid, maps).filter(|uid| *uid != 0)
}

impl Cgroup {
    /// Hands the directory and the files in it that the kernel names over to a user of the host.
    ///
    /// # Errors
    /// `System` with the file.
    pub fn hand_over(&self, uid: u32) -> Result<()> {
        let Some(dir) = self.unified_dir().filter(|_| self.layout().is_pure_v2()) else { return Ok(()) };
        let list = fs::read_to_string(DELEGATE).unwrap_or_else(|_| FILES.to_owned());
        give(&dir, &list, uid).context(|| format!("hand {} over to user {uid}", dir.display()))
    }
}

/// Not each of the files is in every cgroup.
fn give(dir: &Path, list: &str, uid: u32) -> io::Result<()> {
    chown(dir, Some(uid), None)?;
    for file in list.lines().filter(|file| !file.contains('/')) {
        match chown(dir.join(file), Some(uid), None) {
            Err(why) if missing(&why) => {}
            given => given?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::host::{Scratch, put};
    use super::*;
    use crate::spec::parse;

    fn owner_of(
        spaces: serde_json::Value,
        maps: serde_json::Value,
        options: serde_json::Value,
        uid: u32,
    ) -> Option<u32> {
        let config = json!({
            "ociVersion": "1.3.0",
            "process": {"user": {"uid": uid, "gid": 0}, "cwd": "/", "args": ["x"]},
            "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}],
            "linux": {"namespaces": spaces, "uidMappings": maps}
        });
        owner(&parse(&config.to_string()).unwrap())
    }

    #[test]
    fn it_goes_to_whom_the_container_runs_as() {
        let own = json!([{"type": "cgroup"}, {"type": "user"}]);
        let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let rw = json!(["nosuid", "rw"]);
        assert_eq!(owner_of(own.clone(), maps.clone(), rw.clone(), 0), Some(100_000));
        assert_eq!(owner_of(own.clone(), maps.clone(), rw.clone(), 7), Some(100_007));
        assert_eq!(owner_of(json!([{"type": "cgroup"}]), json!([]), rw.clone(), 7), Some(7));
    }

    #[test]
    fn it_stays_where_it_is_not_to_be_written_or_nobody_knows() {
        let own = json!([{"type": "cgroup"}, {"type": "user"}]);
        let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let rw = json!(["rw"]);
        assert_eq!(owner_of(own.clone(), maps.clone(), json!(["ro"]), 0), None);
        assert_eq!(owner_of(json!([{"type": "user"}]), maps.clone(), rw.clone(), 0), None);
        assert_eq!(owner_of(json!([{"type": "cgroup", "path": "/x"}]), maps.clone(), rw.clone(), 0), None);
        assert_eq!(owner_of(own.clone(), maps, rw.clone(), 1000), None, "not mapped");
        assert_eq!(
            owner_of(json!([{"type": "cgroup"}, {"type": "user", "path": "/x"}]), json!([]), rw.clone(), 7),
            None
        );
        assert_eq!(owner_of(json!([{"type": "cgroup"}]), json!([]), rw, 0), None, "root owns it already");
    }

    #[test]
    fn only_what_the_kernel_names_changes_hands() {
        use std::os::unix::fs::MetadataExt as _;
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED only_what_the_kernel_names_changes_hands: needs root");
            return;
        }
        let scratch = Scratch::new("owner");
        for file in ["cgroup.procs", "memory.max"] {
            put(&scratch.0.join(file), "");
        }
        give(&scratch.0, "cgroup.procs\ncgroup.threads\n../x\n", 4242).unwrap();
        let uid = |file: &str| fs::metadata(scratch.0.join(file)).unwrap().uid();
        assert_eq!((uid(""), uid("cgroup.procs"), uid("memory.max")), (4242, 4242, 0));
    }
}
