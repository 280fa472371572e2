//! Every form in which a store keeps unpacked layers: what an archive means must not depend on it.

use gantry_images::Config;

use super::House;

/// The forms that this machine has, by name, each with a store of its own in `house`.
pub fn forms(house: &House) -> Vec<(&'static str, Config)> {
    vec![("directories", Config::at(house.path("store-directories")))]
}
