//! IPv6 and both families at once, against the real kernel.

use super::*;
use std::io::ErrorKind;

const BOTH: &str = "10.99.0.0/24,fd99::/64";

async fn dual(house: &House) -> Network {
    Network::open(house.config(BOTH)).await.unwrap()
}

#[test]
fn a_pod_has_both_addresses_and_is_reached_at_both_at_once() {
    house("dual", |house| async move {
        let network = dual(&house).await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let first = network.attach(wish("a", &a, &[])).await.unwrap();
        let second = network.attach(wish("b", &b, &[])).await.unwrap();
        assert_eq!(first.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.99.0.2", "fd99::2"]);
        assert_eq!(network.attachment("b").unwrap(), second);
        for (at, (from_pod, from_host)) in [("10.99.0.2", "10.99.0.1"), ("fd99::2", "fd99::1")].iter().enumerate() {
            // No wait before it: nobody asks whether the address is somebody else's.
            greet(&b, address(second.ips[at], 80));
            assert_eq!(call(Some(&a), address(second.ips[at], 80)).unwrap(), *from_pod);
            greet(&b, address(second.ips[at], 81));
            assert_eq!(call(None, address(second.ips[at], 81)).unwrap(), *from_host);
        }
        let gateway = address("fd99::1".parse().unwrap(), 82);
        assert_eq!(call(Some(&a), gateway).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
        assert_eq!(read("/proc/sys/net/ipv6/conf/all/forwarding"), "1");
        // CVE-2020-10749: nobody on the bridge becomes the router of another.
        assert_eq!(read("/proc/sys/net/ipv6/conf/gantry-test0/accept_ra"), "0");
        let inside = inside::within(inside::open(&a).unwrap(), || Ok(read("/proc/sys/net/ipv6/conf/eth0/accept_ra")));
        assert_eq!(inside.unwrap(), "0");
        network.detach("a").await.unwrap();
        network.detach("b").await.unwrap();
        assert_eq!((links(), network.status().await.used), (Vec::new(), 0));
    });
}

#[test]
fn host_ports_of_ipv6_lead_into_the_pod_and_go_with_it() {
    house("ports6", |house| async move {
        let network = dual(&house).await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let web = network.attach(wish("a", &a, &[port(8080, 80)])).await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        for host in ["10.99.0.1:8080", "[fd99::1]:8080"] {
            let host: SocketAddr = host.parse().unwrap();
            let ip = web.ips[usize::from(host.is_ipv6())];
            for from in [None, Some(&b), Some(&a)] {
                greet(&a, address(ip, 80));
                assert_eq!(call(from.map(|path| &**path), host).unwrap(), host.ip().to_string());
            }
        }
        // Only on the address that it names, and only of that family.
        let one = PortMapping { host_ip: Some("fd99::1".parse().unwrap()), ..port(9090, 90) };
        network.detach("b").await.unwrap();
        let other = network.attach(wish("b", &b, &[one])).await.unwrap();
        greet(&b, address(other.ips[1], 90));
        assert_eq!(call(None, "[fd99::1]:9090".parse().unwrap()).unwrap(), "fd99::1");
        let refused = call(None, "10.99.0.1:9090".parse().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        network.detach("a").await.unwrap();
        let refused = call(None, "[fd99::1]:8080".parse().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_node_of_ipv6_alone() {
    house("only6", |house| async move {
        let network = Network::open(house.config("fd99::/120")).await.unwrap();
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let first = network.attach(wish("a", &a, &[port(8080, 80)])).await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        assert_eq!(first.ips, ["fd99::2".parse::<IpAddr>().unwrap()]);
        assert_eq!((first.mac.as_str(), first.gateway), ("0a:58:00:00:00:02", "fd99::1".parse().unwrap()));
        greet(&a, address(first.ips[0], 80));
        assert_eq!(call(Some(&b), address(first.ips[0], 80)).unwrap(), "fd99::3");
        assert_eq!(network.status().await.size, 253);
        network.dismantle().await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn traffic_of_ipv6_that_leaves_the_range_is_masqueraded() {
    house("masq6", |house| async move {
        let network = dual(&house).await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        // A second bridge with a range of its own stands for the world outside.
        let outside = NetworkConfig {
            bridge_name: "gantry-test1".into(),
            state_dir: house.root.join("outside"),
            masquerade: false,
            host_ports: false,
            ..house.config("fd98::/64")
        };
        let outside = Network::open(outside).await.unwrap();
        let b = house.pod("b").await;
        let server = outside.attach(wish("b", &b, &[])).await.unwrap();
        greet(&b, address(server.ips[0], 80));
        assert_eq!(call(Some(&a), address(server.ips[0], 80)).unwrap(), "fd98::1");
        outside.dismantle().await.unwrap();
    });
}

#[test]
fn a_device_that_listens_to_routers_goes_on_doing_so() {
    house("router", |house| async move {
        let uplink = link::new_bridge("uplink", [2, 0, 0, 0, 0, 1], 1500);
        Socket::route().unwrap().request(vec![uplink]).unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/uplink/accept_ra", "1").unwrap();
        dual(&house).await;
        let now = std::fs::read_to_string("/proc/sys/net/ipv6/conf/uplink/accept_ra").unwrap();
        assert_eq!(now.trim(), "2");
    });
}
