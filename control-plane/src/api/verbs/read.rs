//! get, list and the beginning of a watch.

use std::sync::Arc;

use base64::Engine;
use serde_json::{Value, json};

use super::super::selector::Selector;
use super::super::watch::Subscription;
use super::super::{Api, Call, convert, object};
use super::of_store;
use crate::client::{List, ListOptions};
use crate::error::{Error, Kind, Result};
use crate::store::{Item, Range};

/// Reads one object.
pub(crate) async fn get(api: &Api, call: &Call) -> Result<Value> {
    let item = api.store.get(&call.key()).ok_or_else(|| call.kind.not_found(&call.name))?;
    Ok(convert::from_stored(&call.kind, object::of_item(&item)?))
}

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) selector: Selector,
    /// 0: all.
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    /// Empty: not given.
    pub(crate) resource_version: String,
    /// `NotOlderThan`, `Exact` or empty.
    pub(crate) version_match: String,
}

/// A page of a list, not yet parsed.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) revision: u64,
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<u64>,
}

/// Reads a page.
///
/// # Errors
/// `Expired` for a revision that is gone, `Timeout` for one that has not come, `BadRequest` for a bad token.
pub(crate) fn page(api: &Api, call: &Call, query: &ListQuery) -> Result<Page> {
    let (at_revision, after) = start(api, query)?;
    let prefix = query.selector.prefix(&call.kind, &call.namespace);
    let all = query.selector.is_empty();
    let limit = if all { query.limit } else { 0 };
    let range = Range { prefix: &prefix, limit, start_after: after.as_deref(), at_revision };
    let found = api.store.list(range).map_err(|e| of_store(call, "", e))?;
    let mut page =
        Page { items: found.items, revision: found.revision, continue_token: String::new(), remaining: None };
    let mut more = found.remaining;
    if !all {
        page.items.retain(|item| query.selector.matches(&item.value));
        if query.limit > 0 && page.items.len() > query.limit {
            more = (page.items.len() - query.limit) as u64;
            page.items.truncate(query.limit);
        }
    }
    if more > 0
        && let Some(last) = page.items.last()
    {
        page.continue_token = token(page.revision, &last.key);
        page.remaining = all.then_some(more);
    }
    Ok(page)
}

/// The revision and the key to start from.
fn start(api: &Api, query: &ListQuery) -> Result<(Option<u64>, Option<String>)> {
    let bad = |text: &str| Error::new(Kind::BadRequest, text);
    if !query.continue_token.is_empty() {
        if !matches!(query.resource_version.as_str(), "" | "0") {
            return Err(bad("specifying resource version is not allowed when using continue"));
        }
        let (revision, key) = parse_token(&query.continue_token)?;
        return Ok((Some(revision), Some(key)));
    }
    if query.resource_version.is_empty() {
        if !query.version_match.is_empty() {
            return Err(bad("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        return Ok((None, None));
    }
    let revision: u64 = query
        .resource_version
        .parse()
        .map_err(|_| bad(&format!("invalid resource version {:?}: it must be a number", query.resource_version)))?;
    match query.version_match.as_str() {
        "Exact" if revision == 0 => Err(bad("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")),
        "Exact" => Ok((Some(revision), None)),
        "" | "NotOlderThan" => {
            let now = api.store.revision();
            if revision > now {
                let text = format!("Too large resource version: {revision}, current: {now}");
                return Err(Error::new(Kind::Timeout, text).retry_after(1));
            }
            Ok((None, None))
        }
        other => Err(bad(&format!("resourceVersionMatch {other:?} is not one of NotOlderThan, Exact"))),
    }
}

fn token(revision: u64, key: &str) -> String {
    let json = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": key}).to_string();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
}

fn parse_token(token: &str) -> Result<(u64, String)> {
    let bad = || Error::new(Kind::BadRequest, "continue key is not valid");
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
    let value: Value = serde_json::from_slice(&json).map_err(|_| bad())?;
    let revision = value["rv"].as_u64().ok_or_else(bad)?;
    let key = value["start"].as_str().ok_or_else(bad)?;
    Ok((revision, key.to_owned()))
}

/// A whole list, parsed.
pub(crate) async fn list_all(api: &Api, call: &Call, options: &ListOptions) -> Result<List> {
    let selector = Selector::parse(&call.kind, &options.label_selector, &options.field_selector)?;
    parsed(api, call, &ListQuery { selector, ..Default::default() })
}

fn parsed(api: &Api, call: &Call, query: &ListQuery) -> Result<List> {
    let page = page(api, call, query)?;
    let objects = page.items.iter().map(|i| Ok(Arc::new(convert::from_stored(&call.kind, object::of_item(i)?))));
    Ok(List { items: objects.collect::<Result<_>>()?, revision: page.revision })
}

/// A whole list, and the changes after it.
pub(crate) async fn list_and_watch(api: &Api, call: &Call, options: &ListOptions) -> Result<(List, Subscription)> {
    let selector = Selector::parse(&call.kind, &options.label_selector, &options.field_selector)?;
    let list = parsed(api, call, &ListQuery { selector: selector.clone(), ..Default::default() })?;
    let stream = Subscription::start(api, call, selector, list.revision)?;
    Ok((list, stream))
}
