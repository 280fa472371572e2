//! Leases over restarts, without a kernel: a directory of files.

use super::*;
use crate::network::Protocol;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("gantry-leases-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn open(&self) -> Leases {
        Leases::open(&self.0, "10.1.0.0/29".parse().unwrap()).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn take(leases: &mut Leases, pod: &str) -> u8 {
    match leases.take(pod, &[]).unwrap().0 {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

#[test]
fn a_range_runs_full_and_says_so() {
    let dir = Dir::new("full");
    let mut leases = dir.open();
    for (pod, last) in [("a", 2), ("b", 3), ("c", 4), ("d", 5), ("e", 6)] {
        assert_eq!(take(&mut leases, pod), last);
    }
    let full = leases.take("f", &[]).unwrap_err();
    assert_eq!(full.kind(), Kind::Exhausted);
    assert!(full.to_string().contains("no address left in 10.1.0.0/29: all 5 are in use"));
    leases.release("c").unwrap();
    assert_eq!(take(&mut leases, "f"), 4);
}

#[test]
fn the_address_that_is_free_longest_goes_first_also_after_a_restart() {
    let dir = Dir::new("order");
    let mut leases = dir.open();
    for pod in ["a", "b", "c"] {
        take(&mut leases, pod);
    }
    for pod in ["b", "a"] {
        leases.release(pod).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(15));
    }
    drop(leases);
    let mut leases = dir.open();
    let order: Vec<u8> = ["d", "e", "f", "g"].map(|pod| take(&mut leases, pod)).into();
    assert_eq!(order, [5, 6, 3, 2]);
}

#[test]
fn a_pod_keeps_its_address_and_device() {
    let dir = Dir::new("keeps");
    let (ip, lease) = dir.open().take("a", &[]).unwrap();
    let mut leases = dir.open();
    assert_eq!(leases.take("a", &[]).unwrap(), (ip, lease));
    assert_eq!(leases.len(), 1);
}

#[test]
fn releasing_twice_is_no_error() {
    let dir = Dir::new("twice");
    let mut leases = dir.open();
    take(&mut leases, "a");
    leases.release("a").unwrap();
    leases.release("a").unwrap();
    assert_eq!(leases.len(), 0);
    assert_eq!(leases.released.len(), 1);
}

#[test]
fn a_write_that_was_cut_short_leaves_no_lease() {
    let dir = Dir::new("part");
    drop(dir.open());
    let part = dir.0.join("leases/10.1.0.2.part");
    fs::write(&part, "{\"version\":1,\"po").unwrap();
    // Taken, and the release not yet forgotten.
    fs::write(dir.0.join("released/10.1.0.3"), "").unwrap();
    fs::write(dir.0.join("leases/10.1.0.3"), r#"{"version":1,"pod":"b","device":"gv1","ports":[]}"#).unwrap();
    let mut leases = dir.open();
    assert!(!part.exists());
    assert_eq!(leases.len(), 1);
    assert_eq!([take(&mut leases, "b"), take(&mut leases, "a")], [3, 2]);
}

#[test]
fn a_file_that_is_no_lease_is_dropped() {
    let dir = Dir::new("foreign");
    drop(dir.open());
    fs::write(dir.0.join("leases/10.1.0.2"), "garbage").unwrap();
    assert_eq!(dir.open().len(), 0);
    assert!(!dir.0.join("leases/10.1.0.2").exists());
}

#[test]
fn a_second_daemon_is_kept_out() {
    let dir = Dir::new("lock");
    let first = dir.open();
    let second = Leases::open(&dir.0, "10.1.0.0/29".parse().unwrap()).unwrap_err();
    assert_eq!(second.kind(), Kind::Exists);
    drop(first);
    drop(dir.open());
}

#[test]
fn a_host_port_belongs_to_one_pod() {
    let dir = Dir::new("ports");
    let mut leases = dir.open();
    let port = |protocol, host_port, host_ip: Option<&str>| PortMapping {
        protocol,
        container_port: 80,
        host_port,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    leases.take("a", &[port(Protocol::Tcp, 80, None)]).unwrap();
    let clash = leases.take("b", &[port(Protocol::Tcp, 80, Some("192.0.2.1"))]);
    assert_eq!(clash.unwrap_err().kind(), Kind::Exists);
    assert_eq!(leases.len(), 1);
    leases.take("b", &[port(Protocol::Udp, 80, None)]).unwrap();
    leases.take("c", &[port(Protocol::Tcp, 0, None)]).unwrap();
    leases.take("d", &[port(Protocol::Tcp, 0, None)]).unwrap();
    // The same pod again is no clash with itself.
    leases.take("a", &[port(Protocol::Tcp, 80, None)]).unwrap();
}

#[test]
fn a_name_that_another_pod_has_is_not_given_again() {
    let first = device_name("a", |_| false);
    assert_eq!(first.len(), 15);
    assert_eq!(first, device_name("a", |_| false));
    assert_ne!(first, device_name("b", |_| false));
    let second = device_name("a", |name| name == first);
    assert_eq!(second.len(), 15);
    assert_ne!(first, second);
}

#[test]
fn both_families_are_one_lease_and_stay_when_the_ranges_change() {
    let dir = Dir::new("dual");
    let open = |ranges: &str| Leases::open(&dir.0, ranges.parse().unwrap()).unwrap();
    let (ip, lease) = open("10.1.0.0/29,fd00:1::/64").take("a", &[]).unwrap();
    assert_eq!((ip, &*lease.more), ("10.1.0.2".parse().unwrap(), &["fd00:1::2".parse::<IpAddr>().unwrap()][..]));
    // A pod that lives keeps what it has; the next one has what is configured.
    let mut leases = open("10.1.0.0/29");
    assert_eq!(leases.take("a", &[]).unwrap(), (ip, lease));
    assert_eq!(leases.take("b", &[]).unwrap().1.more, [""; 0].map(|_| ip));
    drop(leases);
    let mut leases = open("fd00:2::/64");
    assert_eq!(leases.len(), 2);
    assert_eq!(leases.take("c", &[]).unwrap().0, "fd00:2::2".parse::<IpAddr>().unwrap());
    leases.release("a").unwrap();
    leases.release("c").unwrap();
    drop(leases);
    let mut leases = open("fd00:2::/64");
    assert_eq!(leases.len(), 1);
    assert_eq!(take(&mut leases, "d"), 3);
}
