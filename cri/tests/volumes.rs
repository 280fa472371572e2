//! Images as volumes: read-only, whole or a part, told in the status, gone with the container.
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
