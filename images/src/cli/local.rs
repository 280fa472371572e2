//! `gantry image ls`, `inspect`, `tag` and `rm`: what needs only the index.

use std::sync::Arc;

use serde_json::{Value, json};

use super::request::Request;
use super::show::{self, Style};
use crate::error::{Error, Kind, Result};
use crate::reference::Reference;
use crate::store::{Image, Store, now};

pub(super) fn list(request: &Request, store: &Store) -> Result<String> {
    let filters = request.all("filter")?.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>>>()?;
    let names = request.texts(0, usize::MAX)?;
    let mut images = store.images();
    let named = |image: &Arc<Image>| {
        names.is_empty() || names.iter().any(|name| is_named(image, name) || crate::lookup::is(image, name))
    };
    images.retain(|image| named(image) && filters.iter().all(|filter| filter.fits(image, store)));
    // The newest first, as everywhere.
    images.sort_by(|a, b| b.created.cmp(&a.created).then(a.repo_tags.cmp(&b.repo_tags)));
    if request.json()? {
        let all = images.iter().map(|image| show::summary(image, store.last_used(image)));
        return Ok(show::pretty(&Value::Array(all.collect())));
    }
    if request.is("quiet")? {
        return Ok(images.iter().map(|image| format!("{}\n", image.id)).collect());
    }
    let style = Style { digests: request.is("digests")?, full: request.is("no-trunc")?, now: now() };
    Ok(show::list(&images, style))
}

/// Whether a word without a tag names the image's repository, or one with a tag the image.
fn is_named(image: &Image, name: &str) -> bool {
    let Ok(reference) = name.parse::<Reference>() else { return false };
    let repository = format!("{}:", reference.repository());
    let tagged = name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    image.repo_tags.iter().any(|tag| if tagged { *tag == reference.to_string() } else { tag.starts_with(&repository) })
}

/// One `--filter`.
enum Filter {
    Reference(String),
    Is(&'static str, bool),
}

const KINDS: [&str; 4] = ["dangling", "pinned", "used", "artifact"];

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(Kind::InvalidArgument, format!("--filter {text:?}: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE"))?;
        if key == "reference" {
            return Ok(Self::Reference(value.to_owned()));
        }
        let kind = KINDS.into_iter().find(|kind| *kind == key);
        let kind = kind.ok_or_else(|| wrong("the keys are reference, dangling, pinned, used and artifact"))?;
        match value {
            "true" => Ok(Self::Is(kind, true)),
            "false" => Ok(Self::Is(kind, false)),
            _ => Err(wrong("expected true or false")),
        }
    }

    fn fits(&self, image: &Image, store: &Store) -> bool {
        match self {
            Self::Reference(pattern) => image.repo_tags.iter().any(|tag| {
                let repository = tag.rsplit_once(':').map_or(tag.as_str(), |(repository, _)| repository);
                let short = |name: &str| {
                    let name = name.strip_prefix("docker.io/").unwrap_or(name);
                    name.strip_prefix("library/").unwrap_or(name).to_owned()
                };
                [tag.clone(), short(tag), repository.to_owned(), short(repository)]
                    .iter()
                    .any(|name| crate::lookup::like(name, pattern))
            }),
            Self::Is("dangling", wanted) => image.repo_tags.is_empty() == *wanted,
            Self::Is("pinned", wanted) => image.pinned == *wanted,
            Self::Is("artifact", wanted) => image.artifact.is_some() == *wanted,
            Self::Is(_, wanted) => store.users(&image.id).is_ok_and(|users| !users.is_empty()) == *wanted,
        }
    }
}

pub(super) fn inspect(request: &Request, store: &Store) -> Result<String> {
    let mut all = Vec::new();
    for name in request.texts(1, usize::MAX)? {
        let image = store.require(&name)?;
        let mut value = show::summary(&image, store.last_used(&image));
        value["users"] = json!(store.users(&image.id)?);
        value["layers"] = Value::Array(store.content_of(&image.id)?.iter().map(show::layer).collect());
        value["config"] = serde_json::to_value(&image.config).unwrap_or(Value::Null);
        all.push(value);
    }
    Ok(show::pretty(&Value::Array(all)))
}

pub(super) async fn tag(request: &Request, store: &Store) -> Result<String> {
    let words = request.texts(2, usize::MAX)?;
    let references = words[1..].iter().map(|name| name.parse()).collect::<Result<Vec<Reference>>>()?;
    let id = store.require(&words[0])?.id.clone();
    for reference in &references {
        store.tag(&id, reference).await?;
    }
    match request.json()? {
        true => {
            let names: Vec<String> = references.iter().map(ToString::to_string).collect();
            Ok(show::pretty(&json!({"id": id, "tagged": names})))
        }
        false => Ok(references.iter().map(|reference| format!("{id} {reference}\n")).collect()),
    }
}

/// What became of one name.
struct Removed {
    name: String,
    id: String,
    deleted: bool,
}

pub(super) async fn remove(request: &Request, store: &Store) -> Result<String> {
    let (force, all) = (request.is("force")?, request.is("all")?);
    let names = match all {
        true => {
            request.texts(0, 0)?;
            let idle = |image: &&Arc<Image>| force || store.users(&image.id).is_ok_and(|users| users.is_empty());
            store.images().iter().filter(idle).map(|image| image.id.clone()).collect()
        }
        false => request.texts(1, usize::MAX)?,
    };
    let mut done = Vec::new();
    let mut failed: Option<Error> = None;
    for name in names {
        match remove_one(store, &name, force, all).await {
            Ok(removed) => done.extend(removed),
            // The others are removed all the same.
            Err(why) if failed.is_none() => failed = Some(why),
            Err(why) => eprintln!("{why}"),
        }
    }
    let text = match request.json()? {
        true => {
            let one = |r: &Removed| json!({"name": r.name, "id": r.id, "deleted": r.deleted});
            show::pretty(&Value::Array(done.iter().map(one).collect()))
        }
        false => {
            let word = |r: &Removed| if r.deleted { "deleted " } else { "untagged" };
            done.iter().map(|r| format!("{} {}\n", word(r), if r.deleted { &r.id } else { &r.name })).collect()
        }
    };
    match failed {
        None => Ok(text),
        Some(why) => {
            super::print(&text)?;
            Err(why)
        }
    }
}

async fn remove_one(store: &Store, name: &str, force: bool, all: bool) -> Result<Option<Removed>> {
    let image = match store.require(name) {
        Err(why) if why.kind() == Kind::NotFound && force => return Ok(None),
        other => other?,
    };
    let (id, tags) = (image.id.clone(), image.repo_tags.len());
    let reference = name.parse::<Reference>().ok().filter(|r| image.repo_tags.contains(&r.to_string()));
    if let Some(reference) = reference.as_ref().filter(|_| tags > 1) {
        store.untag(reference).await?;
        return Ok(Some(Removed { name: reference.to_string(), id, deleted: false }));
    }
    if tags > 1 && !force && !all {
        let why = format!("{name} has {tags} tags ({}): remove these, or use --force", image.repo_tags.join(", "));
        return Err(Error::new(Kind::Conflict, why));
    }
    let users = store.users(&id)?;
    if !users.is_empty() && !force {
        let why = format!(
            "{name} is in use by {}: remove these first, or use --force (they keep what they have mounted)",
            users.join(", ")
        );
        return Err(Error::new(Kind::Conflict, why));
    }
    store.remove(&id).await?;
    Ok(Some(Removed { name: name.to_owned(), id, deleted: true }))
}
