//! The bridge against the real kernel, each test on a thread in a network namespace of its own.
//!
//! The machine's own network is never touched: the bridge, its pairs and its firewall end with the thread's namespace.

mod attach;
mod cni_fakes;
mod cni_plugins;
mod firewall;
mod ipv6;
mod namespaces;

use super::netns::{self, NetnsSpec};
use super::*;
use gantry_runtime::netlink::Socket;
use nix::sched::{CloneFlags, unshare};
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A host of its own: a network namespace for the test's thread, and directories that go away with it.
struct House {
    root: PathBuf,
}

impl Drop for House {
    /// Takes away what a failed test left, and fails one that succeeded and left something.
    fn drop(&mut self) {
        let swept = netns::sweep_now(&self.pods(), &HashSet::new()).and_then(|()| netns::unmount(&self.pods()));
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left = table.lines().any(|line| line.contains(self.root.to_str().unwrap()));
        let _ = std::fs::remove_dir_all(&self.root);
        if !std::thread::panicking() {
            swept.unwrap();
            assert!(!left, "a mount was left behind");
        }
    }
}

impl House {
    fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// A bridge, whatever the machine has in `/etc/cni`.
    fn config(&self, ranges: &str) -> NetworkConfig {
        let settings = Settings {
            mode: Mode::Bridge,
            conf_dir: self.root.join("net.d"),
            cache_dir: self.root.join("cache"),
            ..Settings::default()
        };
        NetworkConfig {
            settings,
            bridge_name: "gantry-test0".into(),
            ..NetworkConfig::new(self.root.join("records"), self.root.join("network"), ranges.parse().unwrap())
        }
    }

    async fn open(&self) -> Network {
        Network::open(self.config("10.99.0.0/24")).await.unwrap()
    }

    async fn pod(&self, id: &str) -> PathBuf {
        let spec = NetnsSpec { net: true, ..NetnsSpec::default() };
        netns::create(&self.pods().join(id), &spec).await.unwrap().net.unwrap()
    }
}

/// Runs `test` on a thread with a network namespace and a runtime of its own; takes all pods' namespaces away after it.
fn house<F: Future<Output = ()>>(name: &'static str, test: impl FnOnce(Arc<House>) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {name}: network namespaces need root");
        return;
    }
    let root = std::env::temp_dir().join(format!("gantry-net-{name}-{}", std::process::id()));
    std::thread::scope(|scope| {
        let body = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Socket::route().unwrap().request(vec![link::up(1)]).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let house = Arc::new(House { root });
                netns::prepare(&house.pods()).await.unwrap();
                let limit = Duration::from_secs(60);
                tokio::time::timeout(limit, test(house.clone())).await.expect("in time");
            });
        };
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn_scoped(scope, body).unwrap().join().unwrap();
    });
}

fn links() -> Vec<String> {
    let found = link::list(&mut Socket::route().unwrap()).unwrap();
    let ours = found.into_iter().filter(|link| link.name.starts_with("gv"));
    ours.map(|link| link.name).collect()
}

/// A server that greets one client, in the namespace; gives its address back once it listens.
fn greet(netns: &Path, at: SocketAddr) {
    let listener = inside::within(inside::open(netns).unwrap(), || Ok(TcpListener::bind(at).unwrap()));
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        // Before the client hears its end: then the address is free for the next.
        drop(listener);
        let peer = client.peer_addr().unwrap();
        client.write_all(peer.ip().to_string().as_bytes()).unwrap();
    });
}

/// Connects from within the namespace (`None`: from the daemon's) and reads what is said.
fn call(netns: Option<&Path>, to: SocketAddr) -> std::io::Result<String> {
    let call = || {
        let mut server = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        server.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut said = String::new();
        server.read_to_string(&mut said)?;
        Ok(said)
    };
    match netns {
        Some(path) => inside::within(inside::open(path).unwrap(), || Ok(call())).unwrap(),
        None => call(),
    }
}

fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn port(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, container_port, host_port, host_ip: None }
}

fn wish(pod: &str, netns: &Path, ports: &[PortMapping]) -> Wish {
    Wish {
        pod: pod.into(),
        netns: netns.into(),
        ports: ports.into(),
        namespace: "default".into(),
        name: format!("name-of-{pod}"),
        uid: "u-1".into(),
        ..Wish::default()
    }
}

/// What a hostile pod does to send packets to 127.0.0.1 over its `eth0` (CVE-2020-8558): its `lo` loses the address.
fn lose_loopback(pod: &Path) {
    let lost = inside::within(inside::open(pod).unwrap(), || {
        std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        let lo = [libc::AF_INET as u8, 8, 0, 0, 1, 0, 0, 0];
        let gone = gantry_runtime::netlink::Message::new(libc::RTM_DELADDR, 0, &lo);
        Socket::route().unwrap().request(vec![gone.attr(libc::IFA_LOCAL, &[127, 0, 0, 1])]).unwrap();
        Ok(())
    });
    lost.unwrap();
}
