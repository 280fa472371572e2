//! Service account tokens for projected volumes, asked for by TokenRequest, bound to the pod, and kept
//! until 80 % of their life (at most a day) is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::content::{self, TokenWish};
use crate::clock::plus;
use crate::error::{Error, Result};
use crate::pod;
use crate::shared::Shared;

/// A token and when to get the next.
#[derive(Clone)]
pub(crate) struct Token {
    pub token: String,
    pub renew_at: Timestamp,
}

/// The tokens that are still fresh, by pod uid.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, BTreeMap<TokenWish, Token>>>);

impl Tokens {
    fn fresh(&self, uid: &str, wish: &TokenWish, now: Timestamp) -> Option<Token> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(uid)?.get(wish).filter(|t| t.renew_at > now).cloned()
    }

    fn keep(&self, uid: &str, wish: TokenWish, token: Token) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(uid.to_string()).or_default().insert(wish, token);
    }

    /// Forgets the tokens of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The tokens that `volumes` want.
pub(crate) async fn fetch(shared: &Shared, of: &Pod, volumes: &[Volume]) -> Result<BTreeMap<TokenWish, Token>> {
    let mut wishes: Vec<_> = volumes.iter().flat_map(content::wishes).collect();
    wishes.sort();
    wishes.dedup();
    let all = wishes.into_iter().map(|wish| async move {
        let now = shared.clock.now();
        if let Some(token) = shared.tokens.fresh(pod::uid(of), &wish, now) {
            return Ok::<_, Error>((wish, token));
        }
        let token = request(shared, of, &wish, now).await?;
        shared.tokens.keep(pod::uid(of), wish.clone(), token.clone());
        Ok((wish, token))
    });
    Ok(try_join_all(all).await?.into_iter().collect())
}

async fn request(shared: &Shared, of: &Pod, wish: &TokenWish, now: Timestamp) -> Result<Token> {
    let api = shared.api.as_ref().ok_or_else(|| Error::pod("there is no API server to ask for a token"))?;
    let account = pod::spec(of).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod::namespace(of));
    let audiences: Vec<&str> = Some(wish.audience.as_str()).filter(|a| !a.is_empty()).into_iter().collect();
    let body = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "spec": {
            "audiences": audiences, "expirationSeconds": wish.seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod::name(of), "uid": pod::uid(of)},
        },
    });
    let answer: Value = api.post(&path, &body).await?;
    let token = answer["status"]["token"].as_str().filter(|t| !t.is_empty());
    let token = token.ok_or_else(|| Error::pod(format!("the API server gave no token for {account}")))?.to_string();
    let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let life = expires.map_or(wish.seconds, |at| at.duration_since(now).as_secs());
    Ok(Token { token, renew_at: plus(now, (life * 8 / 10).clamp(1, 24 * 3600)) })
}
