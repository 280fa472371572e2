//! Who is asked, in which order, and how often.
//!
//! ```text
//! round 1: mirror a ─404─> mirror b ─503─> registry ─timeout─┐  404, 401 and lies: not asked again
//!    pause (growing, jittered, or what Retry-After says)     │  429, 5xx, timeouts: once more
//! round 2: mirror b ──────────────────────> registry ─200─> done
//! ```
//! Whoever did not answer lately is asked last. The registry's own failure is what is told; the mirrors' are appended.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::source::registry::failure::{self, Failure};
use crate::source::registry::http::Endpoint;

const ROUNDS: u32 = 5;

/// Tries the endpoints `order` until one succeeds; the result and who gave it. `what` is what is asked for, in the
/// words of an error: the registry, the repository, the document.
pub(super) async fn ask<'a, T, F: Future<Output = Result<T, Failure>> + Send>(
    endpoints: &'a [Endpoint],
    order: Vec<usize>,
    budget: Duration,
    what: &str,
    attempt: impl Fn(usize, &'a Endpoint) -> F + Send + Sync,
) -> Result<(usize, T)> {
    let began = Instant::now();
    let mut told: Vec<(usize, Error)> = Vec::new();
    let mut waiting: Vec<(usize, Instant)> = silent_last(order, |at| endpoints[at].is_silent());
    for round in 1.. {
        let mut again = Vec::new();
        for (at, due) in waiting {
            if Instant::now() < due {
                again.push((at, due));
                continue;
            }
            let failed = match attempt(at, &endpoints[at]).await {
                Ok(got) => return Ok((at, got)),
                Err(failed) => failed,
            };
            tracing::debug!(host = endpoints[at].name(), why = %failed.why, "a request failed");
            if failed.passes {
                again.push((at, Instant::now() + failed.wait.unwrap_or_else(|| failure::pause(round))));
            }
            told.retain(|(other, _)| *other != at);
            told.push((at, asked_to_wait(failed)));
        }
        let next = again.iter().map(|(_, due)| *due).min().filter(|due| *due - began < budget);
        let Some(next) = next.filter(|_| round < ROUNDS) else { break };
        tokio::time::sleep_until(next.into()).await;
        waiting = again;
    }
    Err(tell(what, told.into_iter().map(|(at, why)| (endpoints[at].name(), endpoints[at].is_registry, why)).collect()))
}

fn asked_to_wait(failed: Failure) -> Error {
    match failed.wait.filter(|wait| !wait.is_zero()) {
        Some(wait) => Error::new(failed.why.kind(), format!("{}; it asks for a pause of {wait:?}", failed.why)),
        None => failed.why,
    }
}

fn silent_last(mut order: Vec<usize>, is_silent: impl Fn(usize) -> bool) -> Vec<(usize, Instant)> {
    order.sort_by_key(|at| is_silent(*at));
    let now = Instant::now();
    order.into_iter().map(|at| (at, now)).collect()
}

/// One error out of many: (host, whether it is the registry itself, why).
fn tell(what: &str, mut told: Vec<(String, bool, Error)>) -> Error {
    let Some(main) = told.iter().position(|(_, is_registry, _)| *is_registry).or(told.len().checked_sub(1)) else {
        let why = "hosts.toml lets no host be asked for this (capabilities)";
        return Error::new(Kind::InvalidArgument, format!("{what}: {why}"));
    };
    let (host, _, why) = told.remove(main);
    let kind = why.kind();
    let others: String = told.iter().map(|(host, _, why)| format!("; before that {host}: {why}")).collect();
    Error::new(kind, format!("{what}: {host}: {why}{others}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_failure_is_told() {
        let one = |name: &str, own, kind, why: &str| (name.to_owned(), own, Error::new(kind, why));
        let why = tell(
            "registry r, repository p, manifest 1",
            vec![one("r", true, Kind::NotFound, "404"), one("m", false, Kind::Unavailable, "503")],
        );
        assert_eq!(why.kind(), Kind::NotFound);
        assert_eq!(why.to_string(), "registry r, repository p, manifest 1: r: 404; before that m: 503");
        let why = tell("x", vec![one("m", false, Kind::Unavailable, "a"), one("n", false, Kind::Invalid, "b")]);
        assert_eq!(why.to_string(), "x: n: b; before that m: a");
        assert!(tell("x", Vec::new()).to_string().contains("capabilities"));
    }

    #[test]
    fn who_is_silent_is_last() {
        let order: Vec<usize> = silent_last(vec![0, 1, 2], |at| at == 0).into_iter().map(|(at, _)| at).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
