//! Time as an argument: the system's clock, or one that a test moves. Back-off and deadlines read only
//! this; waits for other processes (probe timeouts, grace periods) are real time.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// Where "now" comes from.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    /// The system's wall clock.
    System,
    /// A clock that a test moves by sending.
    #[cfg_attr(not(test), allow(dead_code, reason = "only tests move time"))]
    Manual(watch::Receiver<Timestamp>),
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        match self {
            Self::System => wall(),
            Self::Manual(now) => *now.borrow(),
        }
    }

    /// Returns at or after `at`; never, if a manual clock's owner is gone.
    pub(crate) async fn sleep_until(&self, at: Timestamp) {
        match self {
            Self::System => tokio::time::sleep(until(wall(), at)).await,
            Self::Manual(now) => {
                let mut now = now.clone();
                if now.wait_for(|now| *now >= at).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// The time from `now` to `at`, zero when it passed.
pub(crate) fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// `at` plus `seconds`, held at the ends of the calendar.
pub(crate) fn plus(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(at)
}

/// CRI's nanoseconds since the epoch; 0 is "not yet".
pub(crate) fn from_nanos(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

/// The system's time. jiff's own `now` needs a feature that k8s-openapi leaves out.
pub(crate) fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let nanos = i128::try_from(since.as_nanos()).unwrap_or(0);
    Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}
