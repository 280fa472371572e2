//! completion and man: what is made out of the table for shells and for man(1).

use super::parse::Call;
use super::{complete, man, output};
use crate::error::{Context, Error, Kind, Result};

pub(super) fn completion(call: &Call) -> Result<i32> {
    let text = match call.id()? {
        "bash" => complete::bash(),
        "zsh" => complete::zsh(),
        "fish" => complete::fish(),
        other => {
            let what = format!("completion: {other:?} is none of {}", super::table::SHELLS.join(", "));
            return Err(Error::new(Kind::Invalid, what));
        }
    };
    output::print(&text).map(|()| 0)
}

pub(super) fn man(call: &Call) -> Result<i32> {
    let dir = call.place();
    std::fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
    for (name, text) in man::pages() {
        let path = dir.join(name);
        std::fs::write(&path, text).context(|| format!("write {}", path.display()))?;
    }
    Ok(0)
}
