//! `gantry image pull`, `import` and `export`: what moves bytes, with progress on standard error.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use serde_json::Value;

use super::progress::Watch;
use super::request::Request;
use super::show;
use crate::config::Config;
use crate::error::{Context as _, Error, Kind, Result};
use crate::exchange::{ImportOptions, Input, Output};
use crate::layout::export::Form;
use crate::options::{Auth, PullOptions, Secret};
use crate::reference::Reference;
use crate::store::{Image, Store};

/// When a registry is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Policy {
    Always,
    Missing,
    Newer,
    Never,
}

impl std::str::FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "always" => Ok(Self::Always),
            "missing" | "ifnotpresent" => Ok(Self::Missing),
            "newer" => Ok(Self::Newer),
            "never" => Ok(Self::Never),
            _ => {
                let why = format!("{text:?} is none of always, missing, newer and never");
                Err(Error::new(Kind::InvalidArgument, why))
            }
        }
    }
}

pub(super) async fn pull(request: &Request, mut config: Config) -> Result<String> {
    let names = request.texts(1, usize::MAX)?;
    let references = names.iter().map(|name| name.parse()).collect::<Result<Vec<Reference>>>()?;
    let policy = request.parsed("policy")?.unwrap_or(Policy::Always);
    if let Some(dirs) = request.one("hosts-dir")? {
        config.hosts_dir = Some(dirs.into());
    }
    let hosts = references.iter().map(|reference| reference.host().to_owned());
    if request.is("plain-http")? {
        config.plain_http.extend(hosts.clone());
    }
    if !request.unless_said("tls-verify")? {
        config.insecure.extend(hosts);
    }
    logins(request, &mut config)?;
    let options =
        PullOptions { auth: credentials(request)?, platform: request.parsed("platform")?, pinned: request.is("pin")? };
    let store = Store::open(config)?;
    let watch = Watch::new(request.is("quiet")? || request.json()?);
    let mut images = Vec::new();
    for reference in &references {
        watch.title(&format!("{reference}"));
        let image = one(&store, reference, &options, policy, &watch).await?;
        watch.end();
        images.push((Some(reference.clone()), image));
    }
    said(request, &store, &images)
}

/// The file that is named, alone; else those of the configuration, then those of whoever calls.
fn logins(request: &Request, config: &mut Config) -> Result<()> {
    match request.one("authfile")? {
        Some(file) => {
            let path = std::path::absolute(&file).context(|| format!("--authfile {file}"))?;
            if !path.exists() {
                return Err(Error::new(Kind::NotFound, format!("--authfile {file}: there is no such file")));
            }
            config.credentials = vec![path];
        }
        None => {
            let uid = rustix::process::geteuid().as_raw();
            config.credentials.extend(crate::credentials::of_user(|name| std::env::var_os(name), uid));
        }
    }
    Ok(())
}

async fn one(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    policy: Policy,
    watch: &Watch,
) -> Result<Arc<Image>> {
    let here = store.image(&reference.to_string());
    match (policy, here) {
        (Policy::Never, here) => here.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{reference} is not here, and the policy is never to pull"))
        }),
        (Policy::Missing, Some(image)) => Ok(image),
        (Policy::Newer, Some(image)) => match store.pull(reference, options, watch.sink()).await {
            Err(why) if why.kind() == Kind::Unavailable => {
                watch.note(&format!("{why}; what is here is taken"));
                Ok(image)
            }
            other => other,
        },
        _ => store.pull(reference, options, watch.sink()).await,
    }
}

/// `--creds` or `--user`; a password that is not there is read from standard input, since arguments are seen by all.
pub(super) fn credentials(request: &Request) -> Result<Option<Auth>> {
    let given = match (request.one("creds")?, request.one("user")?) {
        (Some(_), Some(_)) => {
            return Err(Error::new(Kind::InvalidArgument, "--creds and --user: one of them is enough"));
        }
        (Some(creds), None) | (None, Some(creds)) => creds,
        (None, None) => return Ok(None),
    };
    let (user, password) = match given.split_once(':') {
        Some((user, password)) => (user.to_owned(), Secret::new(password)),
        None => (given, password()?),
    };
    Ok(Some(Auth::Basic { user, password }))
}

/// One line of standard input.
fn password() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin().lock().take(64 << 10).read_to_string(&mut text).context(|| "read the password")?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

pub(super) async fn import(request: &Request, store: &Store) -> Result<String> {
    let path = request.path()?;
    let options = ImportOptions { name: request.name()?, platform: request.parsed("platform")? };
    let input = match path.as_os_str() == "-" {
        true if std::io::stdin().is_terminal() => {
            return Err(Error::new(Kind::InvalidArgument, "import: standard input is a terminal, no archive"));
        }
        true => Input::Stream(descriptor(std::io::stdin().as_fd())?),
        false => Input::Path(path),
    };
    let watch = Watch::new(request.is("quiet")? || request.json()?);
    let images = store.import_from(input, options, watch.sink()).await?;
    watch.end();
    let images: Vec<_> = images.into_iter().map(|image| (None, image)).collect();
    said(request, store, &images)
}

fn descriptor(of: std::os::fd::BorrowedFd<'_>) -> Result<File> {
    Ok(File::from(of.try_clone_to_owned().context(|| "standard input or output")?))
}

/// What has come: ids for programs, ids and names for people.
fn said(request: &Request, store: &Store, images: &[(Option<Reference>, Arc<Image>)]) -> Result<String> {
    if request.json()? {
        let all = images.iter().map(|(asked, image)| {
            let mut value = show::summary(image, store.last_used(image));
            value["reference"] = serde_json::json!(asked.as_ref().map(ToString::to_string));
            value
        });
        return Ok(show::pretty(&Value::Array(all.collect())));
    }
    let quiet = request.is("quiet")?;
    let line = |(asked, image): &(Option<Reference>, Arc<Image>)| match (quiet, asked) {
        (true, _) => format!("{}\n", image.id),
        (false, Some(asked)) => format!("{} {asked}\n", image.id),
        (false, None) => format!("{} {}\n", image.id, image.repo_tags.join(" ")).replace(" \n", "\n"),
    };
    Ok(images.iter().map(line).collect())
}

pub(super) async fn export(request: &Request, store: &Store) -> Result<String> {
    let names = request.texts(1, usize::MAX)?;
    let form: Form = request.parsed("format")?.unwrap_or_default();
    let out = request.one("output")?.unwrap_or_else(|| "-".into());
    if out == "-" && std::io::stdout().is_terminal() {
        let why = "export: standard output is a terminal; name a file with --output";
        return Err(Error::new(Kind::InvalidArgument, why));
    }
    let to = match out.as_str() {
        "-" => Output::Stream(descriptor(std::io::stdout().as_fd())?),
        path => Output::Path(path.into()),
    };
    store.export_to(&names, form, to).await?;
    match (out.as_str(), request.json()?) {
        ("-", _) => Ok(String::new()),
        (_, true) => Ok(show::pretty(&serde_json::json!({"path": out, "images": names}))),
        (_, false) => Ok(format!("{out}\n")),
    }
}
