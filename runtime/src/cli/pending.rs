//! Commands whose flags stand in the table, while what they do is still to come: each says so.

use super::parse::Call;
use crate::error::{Error, Kind, Result};

fn not_yet(call: &Call) -> Result<i32> {
    Err(Error::new(Kind::Unsupported, format!("{}: not supported yet", call.command.name)))
}

pub(super) fn checkpoint(call: &Call) -> Result<i32> {
    not_yet(call)
}

pub(super) fn restore(call: &Call) -> Result<i32> {
    not_yet(call)
}
