//! `gantry image mount` and `unmount`: looking into an image without a container.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::request::Request;
use super::show::{self, part};
use crate::error::{Context as _, Error, Kind, Result};
use crate::mounts::{MountRequest, Mounted};
use crate::store::Store;

pub(super) async fn mount(request: &Request, store: &Store) -> Result<String> {
    let words = request.texts(0, 2)?;
    let Some(name) = words.first() else { return list(request, store) };
    let image = store.require(name)?;
    let at = match words.get(1) {
        Some(dir) => std::path::absolute(dir).context(|| format!("path {dir}"))?,
        None => own(store, &image.id)?,
    };
    let sub_path = request.one("sub-path")?.map_or_else(PathBuf::new, PathBuf::from);
    let writable = request.is("writable")?;
    let asked = MountRequest { image_id: image.id.clone(), at, writable, sub_path, shift: None };
    let mounted = store.mount(&asked).await?;
    match request.json()? {
        true => Ok(show::pretty(&facts(&mounted, store))),
        false => Ok(format!("{}\n", mounted.at.display())),
    }
}

/// Where an image goes that was given no place.
fn homes(store: &Store) -> PathBuf {
    store.root().join("mnt")
}

fn own(store: &Store, id: &str) -> Result<PathBuf> {
    crate::disk::private_dir(&homes(store))?;
    Ok(homes(store).join(part(id)))
}

fn names(mounted: &Mounted, store: &Store) -> Vec<String> {
    store.image(&mounted.image_id).map_or_else(Vec::new, |image| image.repo_tags.clone())
}

fn facts(mounted: &Mounted, store: &Store) -> Value {
    json!({"id": mounted.image_id, "names": names(mounted, store), "path": mounted.at.to_string_lossy(),
        "writable": mounted.writable, "mounted": mounted.live})
}

fn list(request: &Request, store: &Store) -> Result<String> {
    let mounts = store.mounts()?;
    if request.json()? {
        return Ok(show::pretty(&mounts.iter().map(|mounted| facts(mounted, store)).collect()));
    }
    let mut rows = vec![["IMAGE ID", "NAME", "MODE", "PATH"].map(str::to_owned).to_vec()];
    for mounted in &mounts {
        let mode = match (mounted.live, mounted.writable) {
            (false, _) => "gone",
            (true, true) => "rw",
            (true, false) => "ro",
        };
        let name = names(mounted, store).into_iter().next().unwrap_or_else(|| "-".into());
        rows.push(vec![part(&mounted.image_id).into(), name, mode.into(), mounted.at.display().to_string()]);
    }
    Ok(show::table(&rows))
}

pub(super) async fn unmount(request: &Request, store: &Store) -> Result<String> {
    let all = store.mounts()?;
    let targets: Vec<PathBuf> = match request.is("all")? {
        true => {
            request.texts(0, 0)?;
            all.into_iter().map(|mounted| mounted.at).collect()
        }
        false => {
            let found = request.texts(1, usize::MAX)?;
            let found = found.iter().map(|word| meant(word, &all, store)).collect::<Result<Vec<_>>>()?;
            found.concat()
        }
    };
    for at in &targets {
        store.unmount(at).await?;
        if at.parent() == Some(&homes(store)) {
            // Made by `mount`; whoever has put something there since keeps it.
            drop(std::fs::remove_dir(at));
        }
    }
    let texts: Vec<String> = targets.iter().map(|at| at.display().to_string()).collect();
    match request.json()? {
        true => Ok(show::pretty(&json!(texts))),
        false => Ok(texts.iter().map(|text| format!("{text}\n")).collect()),
    }
}

/// A mount point, or all mounts of an image.
fn meant(word: &str, all: &[Mounted], store: &Store) -> Result<Vec<PathBuf>> {
    let path = std::path::absolute(word).unwrap_or_else(|_| Path::new(word).to_owned());
    if all.iter().any(|mounted| mounted.at == path) {
        return Ok(vec![path]);
    }
    let id = store.image(word).map(|image| image.id.clone());
    let of: Vec<PathBuf> =
        all.iter().filter(|mounted| Some(&mounted.image_id) == id.as_ref()).map(|mounted| mounted.at.clone()).collect();
    match of.is_empty() {
        false => Ok(of),
        true => {
            let why = format!("nothing is mounted under {word:?}; `gantry image mount` lists what is");
            Err(Error::new(Kind::NotFound, why))
        }
    }
}
