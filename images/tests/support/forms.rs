//! Every form in which a store keeps unpacked layers and makes root filesystems of them: what an archive means must not
//! depend on it.

use gantry_images::{Config, LayerForm, RootfsDriver, Store};

use super::{House, may_mount};

/// The forms that this machine has, by name, each with a store of its own in `house`.
pub fn forms(house: &House) -> Vec<(&'static str, Config)> {
    let all = [
        ("directories", LayerForm::Directories, RootfsDriver::Overlay),
        ("erofs", LayerForm::Erofs, RootfsDriver::Overlay),
        ("copies", LayerForm::Directories, RootfsDriver::Copy),
    ];
    let config = |(name, layers, rootfs): (&'static str, LayerForm, RootfsDriver)| {
        let config = Config { layers, rootfs, ..Config::at(house.path(&format!("store-{name}"))) };
        match Store::open(config.clone()) {
            Ok(_) => Some((name, config)),
            Err(why) => {
                eprintln!("SKIPPED the form {name}: {why}");
                None
            }
        }
    };
    all.into_iter().filter_map(config).collect()
}

/// True if this kernel mounts images from files; else says so where it is seen.
pub fn may_mount_images(test: &str) -> bool {
    if !may_mount(test) {
        return false;
    }
    let house = House::new("erofs-probe");
    match Store::open(Config { layers: LayerForm::Erofs, ..house.config() }) {
        Ok(_) => true,
        Err(why) => {
            eprintln!("SKIPPED {test}: {why}");
            false
        }
    }
}
