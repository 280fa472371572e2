//! The plugins that distributions ship (Debian: containernetworking-plugins), in the house's own namespace.

use super::*;
use std::io::ErrorKind;

const PLUGINS: &str = "/usr/lib/cni";

/// Whether they are here; says so where not.
fn missing(name: &str) -> bool {
    let gone = ["bridge", "host-local", "portmap", "bandwidth", "firewall", "tuning", "ptp"]
        .iter()
        .any(|plugin| !Path::new(PLUGINS).join(plugin).exists());
    let iptables = ["/usr/sbin/iptables", "/sbin/iptables"].iter().any(|path| Path::new(path).exists());
    if gone || !iptables {
        eprintln!("SKIPPED {name}: needs containernetworking-plugins and iptables");
    }
    gone || !iptables
}

/// A network by CNI with this list of plugins; addresses are kept below the house.
async fn open(house: &House, version: &str, plugins: &str) -> Network {
    let mut config = house.config("10.99.0.0/24");
    let dir = config.settings.conf_dir.clone();
    std::fs::create_dir_all(&dir).unwrap();
    let plugins = plugins.replace("$DATA", house.root.join("ipam").to_str().unwrap());
    let text = format!(r#"{{"cniVersion":"{version}","name":"test","plugins":[{plugins}]}}"#);
    std::fs::write(dir.join("10-test.conflist"), text).unwrap();
    config.settings = Settings { mode: Mode::Auto, bin_dirs: vec![PLUGINS.into()], ..config.settings };
    Network::open(config).await.unwrap()
}

const BRIDGE: &str = r#"{"type":"bridge","bridge":"gantry-cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"$DATA","routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}],
    "ranges":[[{"subnet":"10.98.0.0/24"}],[{"subnet":"fd98::/64"}]]}}"#;
const REST: &str = r#"{"type":"portmap","capabilities":{"portMappings":true}},{"type":"firewall"},
    {"type":"bandwidth","capabilities":{"bandwidth":true}},{"type":"tuning","sysctl":{"net.core.somaxconn":"77"}}"#;

/// Files of host-local, one an address that it has given.
fn given(house: &House) -> Vec<String> {
    let all = std::fs::read_dir(house.root.join("ipam/test")).into_iter().flatten().flatten();
    let mut names: Vec<_> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.parse::<IpAddr>().is_ok() || name.starts_with("fd98"));
    names.sort();
    names
}

fn cached(house: &House) -> Vec<String> {
    let all = std::fs::read_dir(house.root.join("cache/results")).into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn is_up(path: &Path, device: &str) -> bool {
    inside::within(inside::open(path).unwrap(), || {
        Ok(link::find(&mut Socket::route().unwrap(), device).unwrap().is_some())
    })
    .unwrap()
}

#[test]
fn a_chain_of_debians_plugins_carries_traffic_and_leaves_nothing() {
    if missing("chain") {
        return;
    }
    house("chain", |house| async move {
        let network = open(&house, "1.0.0", &format!("{BRIDGE},{REST}")).await;
        let status = network.status().await;
        assert!(status.ready, "{}", status.message);
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let rates = [("kubernetes.io/egress-bandwidth", "10M"), ("kubernetes.io/ingress-bandwidth", "10M")];
        let limited = Wish {
            annotations: rates.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..wish("a", &a, &[port(8080, 80)])
        };
        let first = network.attach(limited).await.unwrap();
        let second = network.attach(wish("b", &b, &[])).await.unwrap();
        assert_eq!(first.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.98.0.2", "fd98::2"]);
        assert_eq!(first.gateway, "10.98.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((first.mac.len(), network.attachment("a").unwrap()), (17, first.clone()));
        // Pod to pod, both families; pod to host; host to pod; host port to pod.
        for at in [0, 1] {
            greet(&b, address(second.ips[at], 80));
            assert_eq!(call(Some(&a), address(second.ips[at], 80)).unwrap(), first.ips[at].to_string());
        }
        let refused = call(Some(&a), address(first.gateway, 81)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        greet(&a, address(first.ips[0], 82));
        assert_eq!(call(None, address(first.ips[0], 82)).unwrap(), "10.98.0.1");
        greet(&a, address(first.ips[0], 80));
        assert!(call(None, "10.98.0.1:8080".parse().unwrap()).is_ok());
        greet(&a, address(first.ips[0], 80));
        assert!(call(Some(&b), "10.98.0.1:8080".parse().unwrap()).is_ok());
        let tuned = inside::within(inside::open(&a).unwrap(), || {
            Ok(std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap())
        });
        assert_eq!(tuned.unwrap().trim(), "77");
        let qdisc = std::process::Command::new("tc").args(["qdisc", "show"]).output().unwrap();
        assert!(String::from_utf8_lossy(&qdisc.stdout).contains("tbf"), "{qdisc:?}");

        assert_eq!(given(&house), ["10.98.0.2", "10.98.0.3", "fd98::2", "fd98::3"]);
        assert_eq!((cached(&house).len(), network.status().await.used), (2, 2));
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        assert_eq!(call(None, "10.98.0.1:8080".parse().unwrap()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // A reboot took the namespace: DEL is told so, and frees the address all the same.
        netns::remove(&house.pods().join("b")).await.unwrap();
        network.detach("b").await.unwrap();
        assert_eq!((given(&house), cached(&house), network.status().await.used), (Vec::new(), Vec::new(), 0));
        assert!(!is_up(&a, "eth0"));
    });
}

#[test]
fn check_finds_what_somebody_changed() {
    if missing("check") {
        return;
    }
    house("check", |house| async move {
        // Without portmap and bandwidth, whose CHECK of 1.1.1 fails with two families and without a rate.
        let tuning = r#"{"type":"tuning","sysctl":{"net.core.somaxconn":"77"}}"#;
        let network = open(&house, "0.4.0", &format!("{BRIDGE},{{\"type\":\"firewall\"}},{tuning}")).await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        network.check("a").await.unwrap();
        inside::within(inside::open(&a).unwrap(), || {
            link::delete_all(&mut Socket::route().unwrap(), &["eth0".into()]).unwrap();
            Ok(())
        })
        .unwrap();
        let why = network.check("a").await.unwrap_err().to_string();
        assert!(why.contains("plugin type=\"bridge\" name=\"test\" failed (check): "), "{why}");
        network.detach("a").await.unwrap();
    });
}

#[test]
fn a_restart_detaches_who_died_with_the_old_configuration() {
    if missing("restart") {
        return;
    }
    house("restart", |house| async move {
        let network = open(&house, "0.3.1", BRIDGE).await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let kept = network.attach(wish("a", &a, &[])).await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        drop(network);
        // The configuration is gone by now; what was recorded is enough.
        std::fs::remove_dir_all(house.root.join("net.d")).unwrap();
        let config = house.config("10.99.0.0/24");
        let network = Network::open(NetworkConfig {
            settings: Settings { bin_dirs: vec![PLUGINS.into()], ..config.settings.clone() },
            ..config
        });
        let network = network.await.unwrap();
        network.reconcile(&HashSet::from(["a".to_owned()])).await.unwrap();
        assert_eq!(given(&house), ["10.98.0.2", "fd98::2"]);
        assert_eq!(network.attachment("a").unwrap(), kept);
        // The next pod is on the built-in bridge; the old one leaves as it came.
        let next = network.attach(wish("c", &house.pod("c").await, &[])).await.unwrap();
        assert_eq!(next.ips, ["10.99.0.2".parse::<IpAddr>().unwrap()]);
        network.detach("a").await.unwrap();
        network.detach("c").await.unwrap();
        assert_eq!((given(&house), network.status().await.used), (Vec::new(), 0));
    });
}

#[test]
fn point_to_point_and_two_networks_at_once() {
    if missing("ptp") {
        return;
    }
    house("ptp", |house| async move {
        let ptp = r#"{"type":"ptp","ipMasq":true,"ipam":{"type":"host-local","dataDir":"$DATA","subnet":"10.97.0.0/24",
            "routes":[{"dst":"0.0.0.0/0"}]}}"#;
        drop(open(&house, "1.0.0", ptp).await);
        let mut config = house.config("10.99.0.0/24");
        config.settings = Settings { mode: Mode::Cni, networks: 0, bin_dirs: vec![PLUGINS.into()], ..config.settings };
        let second = r#"{"name":"second","cniVersion":"0.2.0","type":"bridge","bridge":"gantry-cni1","isGateway":true,
            "ipam":{"type":"host-local","dataDir":"$DATA","subnet":"10.96.0.0/24"}}"#;
        let second = second.replace("$DATA", house.root.join("ipam").to_str().unwrap());
        std::fs::write(house.root.join("net.d/20-second.conf"), second).unwrap();
        let network = Network::open(config).await.unwrap();
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let first = network.attach(wish("a", &a, &[])).await.unwrap();
        let second = network.attach(wish("b", &b, &[])).await.unwrap();
        assert_eq!(first.ips, ["10.97.0.2".parse::<IpAddr>().unwrap()]);
        greet(&b, address(second.ips[0], 80));
        assert!(call(None, address(second.ips[0], 80)).is_ok());
        // The second network gave eth1, by a version of 2016.
        assert!(is_up(&a, "eth1") && is_up(&a, "lo"));
        greet(&a, "10.96.0.2:80".parse().unwrap());
        assert_eq!(call(Some(&b), "10.96.0.2:80".parse().unwrap()).unwrap(), "10.96.0.3");
        network.reconcile(&HashSet::new()).await.unwrap();
        assert!(!is_up(&a, "eth0") && !is_up(&a, "eth1"));
        assert_eq!(network.status().await.used, 0);
    });
}

#[test]
fn case_25_portmap_opens_the_hosts_loopback_and_the_guard_closes_it() {
    if missing("guard") {
        return;
    }
    house("guard", |house| async move {
        let portmap = r#"{"type":"portmap","capabilities":{"portMappings":true}}"#;
        let network = open(&house, "1.0.0", &format!("{BRIDGE},{portmap}")).await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let web = network.attach(wish("a", &a, &[port(8080, 80)])).await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        // What the plugin does for host ports on 127.0.0.1, which go on to work.
        let opened = std::fs::read_to_string("/proc/sys/net/ipv4/conf/gantry-cni0/route_localnet").unwrap();
        assert_eq!(opened.trim(), "1");
        greet(&a, address(web.ips[0], 80));
        assert!(call(None, "127.0.0.1:8080".parse().unwrap()).is_ok());
        lose_loopback(&b);
        let server: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        greet(Path::new("/proc/thread-self/ns/net"), server);
        assert_eq!(call(Some(&b), server).unwrap_err().kind(), ErrorKind::TimedOut);
        let table = super::super::GUARD;
        nft::remove(&mut Socket::netfilter().unwrap(), table, super::super::firewall::Family::V4).unwrap();
        assert_eq!(call(Some(&b), server).unwrap(), "10.98.0.3");
        network.detach("a").await.unwrap();
        network.detach("b").await.unwrap();
    });
}

#[test]
fn case_11_and_12_no_abstract_socket_and_no_state_that_others_read() {
    if missing("case-11") {
        return;
    }
    house("case-11", |house| async move {
        let network = open(&house, "1.0.0", BRIDGE).await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        // Abstract names belong to a network namespace: a pod on the host's network would see those of this one.
        let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap();
        assert!(!sockets.contains('@'), "{sockets}");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for dir in ["records", "cache/results"] {
            let dir = house.root.join(dir);
            assert_eq!(mode(&dir), 0o700, "{}", dir.display());
            for entry in std::fs::read_dir(&dir).unwrap() {
                let file = entry.unwrap().path();
                assert_eq!(mode(&file), 0o600, "{}", file.display());
            }
        }
        network.detach("a").await.unwrap();
    });
}
