//! Images as volumes: read-only, whole or a part, told in the status, gone with the container. Devices of vendors (CDI).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use gantry_cri_api as api;
use support::{House, IMAGE, Kubelet, shell};
use tonic::Code;

fn volume(sub_path: &str) -> api::Mount {
    api::Mount {
        container_path: "/volume".into(),
        readonly: true,
        image: Some(api::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_image_is_a_volume() {
    need_root!();
    let house = House::new("volume").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("volume");
    let pod = kubelet.run(&config).await;
    let with = |name: &str, mount: api::Mount| api::ContainerConfig { mounts: vec![mount], ..shell(name, "sleep 100") };

    let id = kubelet.launch(&pod, &config, with("whole", volume(""))).await;
    assert_eq!(kubelet.says(&id, "cat /volume/etc/passwd").await, kubelet.says(&id, "cat /etc/passwd").await);
    let refused = kubelet.exec(&id, &["/bin/sh", "-c", "echo x > /volume/etc/new"]).await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only"), "{refused:?}");
    let told = kubelet.status(&id).await;
    assert_eq!(told.mounts[0].image.as_ref().unwrap().image_ref, told.image_id);

    let part = kubelet.launch(&pod, &config, with("part", volume("etc"))).await;
    assert_eq!(kubelet.says(&part, "head -n 1 /volume/passwd").await, "root:x:0:0:root:/root:/bin/sh");

    for (name, code, mount) in [
        ("nothing", Code::InvalidArgument, volume("not/there")),
        ("upwards", Code::InvalidArgument, volume("../../etc")),
        ("writable", Code::InvalidArgument, api::Mount { readonly: false, ..volume("") }),
        ("both", Code::InvalidArgument, api::Mount { host_path: "/etc".into(), ..volume("") }),
        ("unknown", Code::NotFound, {
            let image = Some(api::ImageSpec { image: "nowhere.example/none:1".into(), ..Default::default() });
            api::Mount { image, ..volume("") }
        }),
    ] {
        assert_eq!(kubelet.create(&pod, &config, with(name, mount)).await.unwrap_err().code(), code, "{name}");
    }
    kubelet.remove(&id).await;
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn a_vendors_device_comes_with_all_that_belongs_to_it() {
    need_root!();
    let house = House::new("cdi").await;
    let library = house.dir.join("library");
    std::fs::create_dir_all(house.dir.join("cdi")).unwrap();
    std::fs::write(&library, "from the vendor\n").unwrap();
    // What a container may not open of itself: the device of FUSE.
    let nodes = serde_json::json!([
        {"path": "/dev/gpu0", "hostPath": "/dev/zero"},
        {"path": "/dev/gpuctl", "type": "c", "major": 10, "minor": 229, "permissions": "r", "fileMode": 0o666},
    ]);
    let mount = serde_json::json!({"hostPath": library, "containerPath": "/lib/vendor", "options": ["ro", "bind"]});
    let file = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": "vendor.example/gpu",
        "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"], "deviceNodes": nodes}}],
        "containerEdits": {"mounts": [mount], "additionalGids": [44]},
    });
    std::fs::write(house.dir.join("cdi/vendor.json"), file.to_string()).unwrap();
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("cdi");
    let pod = kubelet.run(&config).await;
    let with = |name: &str, device: &str| api::ContainerConfig {
        cdi_devices: vec![api::CdiDevice { name: device.into() }],
        ..shell(name, "sleep 100")
    };
    let id = kubelet.launch(&pod, &config, with("gpu", "vendor.example/gpu=0")).await;
    assert_eq!(kubelet.says(&id, "echo $GPU; cat /lib/vendor; id -G").await, "0\nfrom the vendor\n0 44");
    assert_eq!(kubelet.says(&id, "head -c 4 /dev/gpu0 | od -An -tx1").await, "00 00 00 00");
    // The device cgroup gives no more than the file says.
    kubelet.says(&id, "true < /dev/gpuctl").await;
    let refused = kubelet.exec(&id, &["/bin/sh", "-c", "true > /dev/gpuctl"]).await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not permitted"), "{refused:?}");
    let why = kubelet.create(&pod, &config, with("none", "vendor.example/gpu=1")).await.unwrap_err();
    assert_eq!(why.code(), Code::InvalidArgument);
    assert!(why.message().contains("vendor.example/gpu=1"), "{why}");
    kubelet.destroy(&pod).await;
}
