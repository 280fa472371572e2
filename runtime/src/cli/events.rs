//! events: a line of JSON each time.

use std::io::Write as _;
use std::time::Duration;

use super::parse::Call;
use crate::error::{Context, Error, Kind, Result};
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
    let mut line = serde_json::to_vec(event).map_err(|why| Error::new(Kind::System, format!("write JSON: {why}")))?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    match out.write_all(&line).and_then(|()| out.flush()) {
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context(|| "write to standard output"),
    }
}
