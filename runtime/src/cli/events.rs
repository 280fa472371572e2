//! events: a line of JSON each time.

use std::time::Duration;

use super::output;
use super::parse::Call;
use crate::error::Result;
use crate::stats::{Event, stats, watch};

/// Time between two statistics, unless another is given.
const INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn events(call: &Call) -> Result<i32> {
    let (root, id) = (call.root(), call.id()?);
    if call.has("stats") {
        let data = Some(Box::new(stats(&root, id)?));
        print(&Event { kind: "stats", id, data })?;
        return Ok(0);
    }
    let interval = call.duration("interval")?.unwrap_or(INTERVAL);
    watch(&root, id, interval, |event| print(&event))?;
    Ok(0)
}

/// Prints a line; `false` once nobody reads them any more.
fn print(event: &Event<'_>) -> Result<bool> {
    output::print_on(&output::json(event)?)
}
