//! Id-mapped mounts, with and without a user namespace.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::house::house;
use crate::mounts::{bound, run_after, with_user_namespace};

#[test]
fn ids_are_mapped_with_and_without_a_user_namespace() {
    let mut house = house!("idmap");
    let source = house.dir.join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(3), Some(4)).unwrap();
    let map = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 65_536 }]);
    house.push("/mounts", bound(&source, &["bind"]));
    let last = house.config["mounts"].as_array().unwrap().len() - 1;
    house.config["mounts"][last]["uidMappings"] = map(1000);
    house.config["mounts"][last]["gidMappings"] = map(2000);
    house.script("stat -c '%u:%g' /mnt /mnt/file; echo > /mnt/made; stat -c '%u:%g' /mnt/made");
    let said = house.run();
    assert_eq!(said.out.lines().take(2).collect::<Vec<_>>(), ["1000:2000", "1003:2004"], "{said:?}");
    // Root has no id in this mount: it can make nothing there.
    assert!(said.err.contains("/mnt/made"), "{said:?}");
    with_user_namespace(&mut house);
    for words in [&["bind", "idmap"][..], &["rbind", "ridmap"], &["bind", "idmap=uids=@0-0-65536;gids=@0-0-65536"]] {
        let mount = &mut house.config["mounts"][last];
        mount["options"] = json!(words);
        mount.as_object_mut().unwrap().remove("uidMappings");
        mount.as_object_mut().unwrap().remove("gidMappings");
        let said = house.run();
        assert_eq!(said.out, "0:0\n3:4\n0:0\n", "{words:?}: {said:?}");
        assert_eq!(fs::metadata(source.join("made")).unwrap().uid(), 0, "on disk it is the host's root");
        fs::remove_file(source.join("made")).unwrap();
    }
}

#[test]
fn what_only_the_container_has_mounted_is_not_mapped_for_a_user_namespace() {
    let mut house = house!("idmap-inside");
    with_user_namespace(&mut house);
    let inside = house.rootfs().join("tmp");
    house.push("/mounts", bound(&inside, &["bind", "idmap"]));
    let said = house.run();
    assert!(
        said.code == 1 && said.err.contains("map the ids of the mount") && said.err.contains("not ours to map"),
        "{said:?}"
    );
}

#[test]
fn idmap_is_for_the_one_mount_and_ridmap_for_all_below() {
    let mut house = house!("ridmap");
    let source = house.dir.join("source");
    fs::create_dir_all(&source).unwrap();
    let setup = format!(
        "mount -t tmpfs -o mode=755 top {0} && mkdir {0}/below && mount -t tmpfs -o mode=755 sub {0}/below",
        source.display()
    );
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    house.push("/mounts", bound(&source, &[]));
    let last = house.config["mounts"].as_array().unwrap().len() - 1;
    house.config["mounts"][last]["uidMappings"] = map.clone();
    house.config["mounts"][last]["gidMappings"] = map;
    house.script("stat -c '%u' /mnt /mnt/below");
    for (words, expected) in
        [(["rbind", "idmap"], "1000\n0\n"), (["rbind", "ridmap"], "1000\n1000\n"), (["rbind", "ro"], "1000\n0\n")]
    {
        house.set(&format!("/mounts/{last}/options"), json!(words));
        let said = run_after(&house, &setup);
        if said.err.contains("tmpfs does not support id-mapped mounts") {
            eprintln!(
                "SKIPPED idmap_is_for_the_one_mount_and_ridmap_for_all_below: tmpfs has no id maps before Linux 6.3"
            );
            return;
        }
        assert_eq!(said.out, expected, "{words:?}: {said:?}");
    }
}

#[test]
fn a_file_system_without_id_maps_is_named() {
    let mut house = house!("no-idmap");
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    house.push(
        "/mounts",
        json!({ "destination": "/mnt", "source": "/sys/kernel", "options": ["bind"], "uidMappings": map, "gidMappings": map }),
    );
    let said = house.run();
    assert!(said.code == 1 && said.err.contains("sysfs does not support id-mapped mounts"), "{said:?}");
}

#[test]
fn an_overlay_with_id_mapped_mounts() {
    let mut house = house!("idmap-overlay");
    for dir in ["lower", "upper", "work", "merged"] {
        fs::create_dir(house.dir.join(dir)).unwrap();
    }
    fs::write(house.dir.join("lower/file"), "").unwrap();
    let dir = house.dir.display();
    let setup =
        format!("mount -t overlay -o lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work o {dir}/merged");
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let mut mount = bound(&house.dir.join("merged"), &["bind"]);
    mount["uidMappings"] = map.clone();
    mount["gidMappings"] = map;
    house.push("/mounts", mount);
    house.script("stat -c %u /mnt/file");
    // Kernels differ in whether an overlay can be mapped; it works, or the sentence says what does not.
    let said = run_after(&house, &setup);
    let refused = said.err.contains("overlay does not support id-mapped mounts");
    assert!(said.out == "1000\n" || said.code == 1 && refused, "{said:?}");
}
