//! A network namespace that outlives the processes in it, and their connection: saved and restored by criu.
//!
//! Not tested is whether bytes flow again: behind criu 3.17 and nftables they do not (README, what is not there yet).

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::checkpoint::criu_works;
use crate::house::{house, wait_until};

/// Of a line of `/proc/<pid>/net/tcp6`: port 7000, no other end, listening.
const LISTENS: &str = ":1B58 00000000000000000000000000000000:0000 0A";

/// The other end of the connection, in a network namespace of its own.
struct Peer(Child);

impl Peer {
    /// Listens on port 7000 and writes what it hears into a file. Its own input stays open, or it would hang up.
    fn listen(heard: &Path) -> Peer {
        let script = "busybox ip link set lo up && exec busybox nc -l -p 7000";
        let mut command = Command::new("busybox");
        command.args(["unshare", "-n", "busybox", "sh", "-c", script]).stdin(Stdio::piped());
        let peer = Peer(command.stdout(fs::File::create(heard).unwrap()).spawn().unwrap());
        let table = format!("/proc/{}/net/tcp6", peer.0.id());
        wait_until("it listens", || {
            peer.namespace() != own() && fs::read_to_string(&table).is_ok_and(|text| text.contains(LISTENS))
        });
        peer
    }

    fn namespace(&self) -> String {
        link(&format!("/proc/{}/ns/net", self.0.id()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own() -> String {
    link("/proc/self/ns/net")
}

fn link(path: &str) -> String {
    fs::read_link(path).unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_network_namespace_by_path_is_joined_again() {
    let mut house = house!("ck-tcp");
    if let Err(why) = criu_works() {
        eprintln!("SKIPPED ck-tcp: {why}");
        return;
    }
    let heard = house.dir.join("heard");
    let peer = Peer::listen(&heard);
    let lines = || fs::read_to_string(&heard).unwrap().lines().count();
    let spaces = house.config["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "network");
    spaces.push(json!({ "type": "network", "path": format!("/proc/{}/ns/net", peer.0.id()) }));
    let count = "n=0; while :; do n=$((n+1)); echo $n; /bin/busybox sleep 0.1; done";
    house.script(&format!("{count} | /bin/busybox nc 127.0.0.1 7000"));
    let images = house.dir.join("images");
    let call = |args: &[&str]| {
        house.write_config();
        let mut command = house.command(args);
        let log = fs::File::create(house.dir.join("err")).unwrap();
        let done = command.arg("c").stdout(Stdio::null()).stderr(log).status().unwrap();
        assert!(done.success(), "{args:?}: {}", fs::read_to_string(house.dir.join("err")).unwrap());
    };
    call(&["run", "--detach"]);
    wait_until("it counts", || lines() > 3);
    let save = ["--tcp-established", "--image-path", images.to_str().unwrap()];
    call(&[&["checkpoint"], &save[..]].concat());
    call(&[&["restore", "--detach"], &save[..]].concat());
    assert_eq!(link(&format!("/proc/{}/ns/net", house.pid())), peer.namespace());
    assert_eq!(house.status(), "running");
    house.ok(&["delete", "--force", "c"]);
}
