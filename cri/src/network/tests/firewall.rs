//! Host ports, masquerade, and what is closed to pods.

use super::super::firewall::Family;
use super::*;
use crate::error::Kind;
use std::io::ErrorKind;

#[test]
fn host_ports_lead_into_the_pod_and_go_with_it() {
    house("host-ports", |house| async move {
        let network = house.open().await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let web = network.attach(wish("a", &a, &[port(8080, 80)])).await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        let host = address(web.gateway, 8080);
        for (from, seen) in [
            (None, "10.99.0.1"),
            // From a neighbour and from the pod itself, over the bridge and back: the bridge stands in as the source.
            (Some(&b), "10.99.0.1"),
            (Some(&a), "10.99.0.1"),
        ] {
            greet(&a, address(web.ips[0], 80));
            assert_eq!(call(from.map(|path| &**path), host).unwrap(), seen);
        }
        greet(&a, address(web.ips[0], 80));
        assert_eq!(call(None, "127.0.0.1:8080".parse().unwrap()).unwrap(), "10.99.0.1");
        let taken = network.attach(wish("b", &b, &[port(8080, 81)])).await.unwrap_err();
        assert_eq!(taken.kind(), Kind::Exists);
        network.detach("a").await.unwrap();
        assert_eq!(call(None, host).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn traffic_that_leaves_the_range_is_masqueraded() {
    house("masquerade", |house| async move {
        let network = house.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        // A neighbour network: another bridge, whose one pod knows no way back to 10.99.0.0/24 but the default.
        let mut other = house.config("192.0.2.0/29");
        other.bridge_name = "gantry-test1".into();
        other.state_dir = house.root.join("other");
        other.masquerade = false;
        let outside = Network::open(other).await.unwrap();
        let b = house.pod("b").await;
        let server = outside.attach(wish("b", &b, &[])).await.unwrap();
        greet(&b, address(server.ips[0], 80));
        let seen = call(Some(&a), address(server.ips[0], 80)).unwrap();
        assert_eq!(seen, "192.0.2.1");
        outside.dismantle().await.unwrap();
        network.dismantle().await.unwrap();
        assert!(!network.status().await.ready);
    });
}

#[test]
fn case_25_the_hosts_loopback_is_closed_to_pods() {
    house("localnet", |house| async move {
        let network = house.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        let here = Path::new("/proc/thread-self/ns/net");
        let server: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        let everywhere = "/proc/sys/net/ipv4/conf/all/route_localnet";
        assert_eq!(std::fs::read_to_string(everywhere).unwrap(), "0\n");
        // As kube-proxy sets it on the host; and in the pod, so that the packet gets out.
        std::fs::write(everywhere, "1").unwrap();
        lose_loopback(&a);
        greet(here, server);
        assert_eq!(call(Some(&a), server).unwrap_err().kind(), ErrorKind::TimedOut);
        // Without the guard it gets through: so it was the guard.
        nft::remove(&mut Socket::netfilter().unwrap(), "gantry-gantry-test0", Family::V4).unwrap();
        assert_eq!(call(Some(&a), server).unwrap(), "10.99.0.2");
    });
}
