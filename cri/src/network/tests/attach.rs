//! Attach, detach, crashes in between, and a range that runs full.

use super::super::bridge::STEPS;
use super::*;
use crate::error::Kind;
use std::io::ErrorKind;

#[test]
fn two_pods_reach_each_other_and_the_gateway() {
    house("two-pods", |house| async move {
        let network = house.open().await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        let first = network.attach(wish("a", &a, &[])).await.unwrap();
        let second = network.attach(wish("b", &b, &[])).await.unwrap();
        assert_eq!(first.ips, ["10.99.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(second.ips, ["10.99.0.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(first.mac, "0a:58:0a:63:00:02");
        assert_eq!(network.attachment("a").unwrap(), first);

        greet(&b, address(second.ips[0], 80));
        assert_eq!(call(Some(&a), address(second.ips[0], 80)).unwrap(), "10.99.0.2");
        // The bridge answers at the gateway's address: nothing listens, so it refuses at once.
        let refused = call(Some(&a), address(first.gateway, 81)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        // And the daemon reaches the pod, as probes do.
        greet(&a, address(first.ips[0], 82));
        assert_eq!(call(None, address(first.ips[0], 82)).unwrap(), "10.99.0.1");
        assert!(network.status().await.ready);
        assert_eq!(network.status().await.used, 2);
    });
}

#[test]
fn detach_twice_and_without_a_namespace() {
    house("detach", |house| async move {
        let network = house.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        assert_eq!(links().len(), 1);
        netns::remove(&house.pods().join("a")).await.unwrap();
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        network.detach("never-was").await.unwrap();
        assert_eq!(links(), [""; 0]);
        assert_eq!(network.status().await.used, 0);
        assert_eq!(network.attachment("a"), None);
    });
}

#[test]
fn a_crash_after_any_step_leaks_nothing() {
    house("crash", |house| async move {
        for steps in 0..=STEPS.len() {
            let network = house.open().await;
            let (living, dead) = (house.pod("living").await, house.pod("dead").await);
            let kept = network.attach(wish("living", &living, &[])).await.unwrap();
            let ports = [port(8080, 80)];
            network.made().unwrap().attach_until("dead", &dead, &ports, &STEPS[..steps]).unwrap();
            drop(network);

            let network = house.open().await;
            let living_pods = HashSet::from(["living".to_string()]);
            network.reconcile(&living_pods).await.unwrap();
            netns::sweep(&house.pods(), &living_pods).await.unwrap();
            assert_eq!(network.status().await.used, 1, "after {steps} steps");
            assert_eq!(links().len(), 1, "after {steps} steps");
            assert!(!house.pods().join("dead").exists());
            assert_eq!(network.attachment("living").unwrap(), kept);
            greet(&living, address(kept.ips[0], 80));
            assert_eq!(call(None, address(kept.ips[0], 80)).unwrap(), "10.99.0.1");
            network.detach("living").await.unwrap();
            netns::sweep(&house.pods(), &HashSet::new()).await.unwrap();
        }
    });
}

#[test]
fn an_attach_that_was_cut_short_is_completed_with_the_same_address() {
    house("again", |house| async move {
        let network = house.open().await;
        let a = house.pod("a").await;
        let cut = network.made().unwrap().attach_until("a", &a, &[], &STEPS[..1]).unwrap();
        let whole = network.attach(wish("a", &a, &[])).await.unwrap();
        assert_eq!(cut, whole);
        assert_eq!(network.attach(wish("a", &a, &[])).await.unwrap(), whole);
        assert_eq!(links().len(), 1);
        greet(&a, address(whole.ips[0], 80));
        assert!(call(None, address(whole.ips[0], 80)).is_ok());
    });
}

#[test]
fn lost_records_cost_no_link() {
    house("lost", |house| async move {
        let network = house.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        drop(network);
        std::fs::remove_dir_all(house.root.join("network")).unwrap();
        let network = house.open().await;
        network.reconcile(&HashSet::new()).await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn pods_fill_the_range_and_the_next_is_told() {
    house("full", |house| async move {
        let network = house.open().await;
        for number in 0..253 {
            let pod = format!("pod-{number}");
            let netns = house.pod(&pod).await;
            network.attach(wish(&pod, &netns, &[])).await.unwrap();
        }
        assert_eq!(links().len(), 253);
        let netns = house.pod("one-more").await;
        let full = network.attach(wish("one-more", &netns, &[])).await.unwrap_err();
        assert_eq!(full.kind(), Kind::Exhausted);
        assert!(full.to_string().contains("no address left in 10.99.0.0/24"), "{full}");
        assert_eq!(network.status().await.used, 253);
        assert_eq!(links().len(), 253);
        network.detach("pod-7").await.unwrap();
        let given = network.attach(wish("one-more", &netns, &[])).await.unwrap();
        assert_eq!(given.ips, ["10.99.0.9".parse::<IpAddr>().unwrap()]);
    });
}

#[test]
fn forty_attaches_at_once() {
    house("at-once", |house| async move {
        let network = house.open().await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40 {
            let (network, house) = (network.clone(), house.clone());
            tasks.spawn(async move {
                let pod = format!("pod-{number}");
                let netns = house.pod(&pod).await;
                network.attach(wish(&pod, &netns, &[])).await.unwrap().ips[0]
            });
        }
        let ips: HashSet<IpAddr> = tasks.join_all().await.into_iter().collect();
        assert_eq!(ips.len(), 40);
        assert_eq!(links().len(), 40);
        // Half of them leave at once, as on a drain; the neighbours stay.
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let network = network.clone();
            tasks.spawn(async move { network.detach(&format!("pod-{number}")).await.unwrap() });
        }
        tasks.join_all().await;
        assert_eq!(links().len(), 20);
        assert_eq!(network.status().await.used, 20);
        network.reconcile(&HashSet::new()).await.unwrap();
        assert_eq!(links(), [""; 0]);
        assert_eq!(network.status().await.used, 0);
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    house("failed", |house| async move {
        let network = house.open().await;
        let absent = network.attach(wish("a", &house.root.join("absent"), &[])).await.unwrap_err();
        assert!(absent.to_string().contains("No such file"), "{absent}");
        let file = house.root.join("file");
        std::fs::write(&file, "").unwrap();
        let wrong = network.attach(wish("a", &file, &[])).await.unwrap_err();
        assert!(wrong.to_string().contains("is not a namespace"), "{wrong}");
        assert_eq!(network.status().await.used, 0);
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn the_bridge_comes_back_when_somebody_removed_it() {
    house("removed", |house| async move {
        let network = house.open().await;
        let a = house.pod("a").await;
        link::delete_all(&mut Socket::route().unwrap(), &["gantry-test0".into()]).unwrap();
        assert!(!network.status().await.ready);
        let given = network.attach(wish("a", &a, &[])).await.unwrap();
        greet(&a, address(given.ips[0], 80));
        assert!(call(None, address(given.ips[0], 80)).is_ok());
    });
}
