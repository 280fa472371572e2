//! URLs that work once, and for one minute: the token is the only proof that the client was let in.
//!
//! Whoever asked the API server for an exec was authenticated there and by the kubelet; both only pass bytes on. So the
//! token is as long as a key (32 random bytes), is taken out of the table when used, and is never logged.

use super::{PortForward, Streams, Work};
use crate::error::{Context as _, Error, Kind, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a URL waits for its client (as the kubelet's own server has it).
const LIFETIME: Duration = Duration::from_secs(60);
/// URLs that wait at a time; more are refused.
const WAITING_MAX: usize = 1000;

/// What a URL is for.
pub(super) enum Task {
    Exec(Streams, Work),
    Attach(Streams, Work),
    PortForward(PortForward),
}

impl Task {
    /// The first part of the URL's path.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Exec(..) => "exec",
            Self::Attach(..) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// The URLs that wait for their clients.
#[derive(Default)]
pub(super) struct Tokens {
    waiting: Mutex<HashMap<String, (Instant, Task)>>,
}

impl Tokens {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, (Instant, Task)>> {
        self.waiting.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Keeps the task; gives the token to it. `now` is the time of the call.
    ///
    /// # Errors
    /// `Exhausted` when a thousand others wait.
    pub(super) fn put(&self, task: Task, now: Instant) -> Result<String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other).context(|| "make a token")?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        self.expire(now);
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING_MAX {
            let why = format!("{WAITING_MAX} streaming URLs wait for their clients");
            return Err(Error::new(Kind::Exhausted, why));
        }
        waiting.insert(token.clone(), (now + LIFETIME, task));
        Ok(token)
    }

    /// Takes the task of a token, if there is one of that name and it is not too old.
    pub(super) fn take(&self, name: &str, token: &str, now: Instant) -> Option<Task> {
        self.expire(now);
        let mut waiting = self.waiting();
        match waiting.get(token) {
            Some((_, task)) if task.name() == name => waiting.remove(token).map(|(_, task)| task),
            _ => None,
        }
    }

    /// Drops what waits for too long, and what its work holds with it.
    pub(super) fn expire(&self, now: Instant) {
        self.waiting().retain(|_, (until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Task::PortForward(PortForward { netns: None, ports: vec![] })
    }

    #[test]
    fn a_token_works_once_for_its_task_and_for_a_minute() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.put(task(), now).unwrap();
        assert_eq!(token.len(), 43);
        assert!(tokens.take("exec", &token, now).is_none());
        assert!(tokens.take("portforward", "guess", now).is_none());
        assert!(tokens.take("portforward", &token, now + Duration::from_secs(59)).is_some());
        assert!(tokens.take("portforward", &token, now).is_none());
        let late = tokens.put(task(), now).unwrap();
        assert!(tokens.take("portforward", &late, now + LIFETIME).is_none());
        assert_eq!(tokens.waiting().len(), 0);
    }

    #[test]
    fn too_many_are_refused_until_some_expire() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..WAITING_MAX {
            tokens.put(task(), now).unwrap();
        }
        assert_eq!(tokens.put(task(), now).unwrap_err().kind(), Kind::Exhausted);
        tokens.put(task(), now + LIFETIME).unwrap();
    }
}
