//! `gantry image build`.

use super::request::Request;
use super::show::pretty;
use crate::error::{Error, Kind, Result};
use crate::layout::{self, Settings};

pub(super) fn build(request: &Request) -> Result<String> {
    let missing = |what| Error::new(Kind::InvalidArgument, format!("build: --{what} is missing"));
    let name = request.name()?.ok_or_else(|| missing("name"))?;
    let out = request.one("output")?.ok_or_else(|| missing("output"))?;
    let mut settings = Settings {
        env: request.all("env")?,
        entrypoint: request.all("entrypoint")?,
        cmd: request.all("cmd")?,
        workdir: request.one("workdir")?,
        user: request.one("user")?,
        ports: request.all("port")?,
        stop_signal: request.one("stop-signal")?,
        platform: request.parsed("platform")?,
        ..Settings::default()
    };
    for label in request.all("label")? {
        let wrong = || Error::new(Kind::InvalidArgument, format!("--label {label:?}: expected NAME=VALUE"));
        let (name, value) = label.split_once('=').ok_or_else(wrong)?;
        settings.labels.insert(name.into(), value.into());
    }
    let digest = layout::write(&request.path()?, &settings, std::path::Path::new(&out), &name)?;
    match request.json()? {
        true => Ok(pretty(&serde_json::json!({
            "name": name.to_string(), "manifest": digest.to_string(), "path": out
        }))),
        false => Ok(format!("{name}@{digest} in {out}\n")),
    }
}
