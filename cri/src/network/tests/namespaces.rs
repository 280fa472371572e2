//! Namespaces that no process holds.

use super::*;
use std::collections::BTreeMap;

#[test]
fn namespaces_live_without_a_process_and_carry_their_settings() {
    house("namespaces", |house| async move {
        let dir = house.pods().join("a");
        let spec = NetnsSpec {
            net: true,
            ipc: true,
            uts: true,
            hostname: "web-1".into(),
            sysctls: BTreeMap::from([
                ("kernel.shm_rmid_forced".into(), "1".into()),
                ("kernel.sem".into(), "32000 1024000000 500 32001".into()),
                ("fs.mqueue.msg_max".into(), "20".into()),
                ("net.ipv4.ip_unprivileged_port_start".into(), "0".into()),
            ]),
        };
        let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
        let paths = netns::create(&dir, &spec).await.unwrap();
        let read = |file: &str| std::fs::read_to_string(file).unwrap().trim().replace('\t', " ");
        let seen = inside::alone("reader", || {
            for path in [&paths.net, &paths.ipc, &paths.uts].into_iter().flatten() {
                let file = inside::open(path).unwrap();
                nix::sched::setns(file, CloneFlags::empty()).unwrap();
            }
            let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
            let sysctls = ["kernel/shm_rmid_forced", "kernel/sem", "fs/mqueue/msg_max"];
            let mut seen = vec![name];
            seen.extend(sysctls.map(|file| read(&format!("/proc/sys/{file}"))));
            seen.push(read("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
            let lo = link::find(&mut Socket::route().unwrap(), "lo").unwrap().unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap();
            assert_eq!(lo.index, 1);
            Ok(seen)
        });
        assert_eq!(seen.unwrap(), ["web-1", "1", "32000 1024000000 500 32001", "20", "0"]);
        // The host's are as they were.
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), before);
        assert_ne!(nix::unistd::gethostname().unwrap(), "web-1");
        netns::remove(&dir).await.unwrap();
        netns::remove(&dir).await.unwrap();
        assert!(!dir.exists());
    });
}

#[test]
fn case_19_a_value_is_one_value_and_a_failure_leaves_nothing() {
    house("case-19", |house| async move {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let dir = house.pods().join("a");
        for (name, value) in [
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/evil"),
            ("kernel.core_pattern", "|/bin/evil"),
            ("net.ipv4.no_such_thing", "1"),
        ] {
            let spec = NetnsSpec {
                net: true,
                ipc: true,
                sysctls: BTreeMap::from([(name.into(), value.into())]),
                ..NetnsSpec::default()
            };
            netns::create(&dir, &spec).await.unwrap_err();
            assert!(!dir.exists());
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    });
}

#[test]
fn a_half_made_directory_is_removed_whole() {
    house("half", |house| async move {
        let dir = house.pods().join("a");
        let spec = NetnsSpec { net: true, uts: true, ..NetnsSpec::default() };
        netns::create(&dir, &spec).await.unwrap();
        // As if the thread had ended after the second file, before its mount; and one that came twice.
        std::fs::write(dir.join("ipc"), "").unwrap();
        netns::prepare(&house.pods()).await.unwrap();
        netns::create(&dir, &spec).await.unwrap();
        netns::sweep(&house.pods(), &HashSet::from(["b".to_string()])).await.unwrap();
        assert!(!dir.exists());
        netns::unprepare(&house.pods()).await.unwrap();
        netns::unprepare(&house.pods()).await.unwrap();
        assert!(!house.pods().exists());
    });
}

#[test]
fn the_namespace_that_the_daemon_lives_in_is_not_swept() {
    house("own", |house| async move {
        let (ours, theirs) = (house.pod("ours").await, house.pod("theirs").await);
        inside::within(inside::open(&ours).unwrap(), || netns::sweep_now(&house.pods(), &HashSet::new())).unwrap();
        assert!(ours.exists() && !theirs.exists());
    });
}

#[test]
fn connections_reach_the_pods_loopback() {
    house("connect", |house| async move {
        let a = house.pod("a").await;
        let refused = connect(Some(&a), 80).await.unwrap_err();
        assert!(refused.to_string().contains("connect to port 80 on 127.0.0.1 or ::1"), "{refused}");
        for at in ["127.0.0.1:80", "[::1]:81"] {
            let at: SocketAddr = at.parse().unwrap();
            greet(&a, at);
            let mut said = String::new();
            let mut stream = connect(Some(&a), at.port()).await.unwrap();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut said).await.unwrap();
            assert_eq!(said, at.ip().to_string());
        }
    });
}
