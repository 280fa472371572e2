//! `config.json`: reading, checking, and the sentence that a broken one deserves.

#[cfg(test)]
mod bad;
mod beside;
mod locate;
#[cfg(test)]
mod places;
mod resources;
mod template;
mod validate;

use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Kind, Result};

pub use resources::load_resources;
pub use template::TEMPLATE;
pub use validate::{check, check_process};
pub(crate) use validate::{host_id, is_joined, lists};

/// Newest version of the runtime-spec that this crate knows; any `1.x` is read.
pub const VERSION: &str = "1.3.0";

/// Largest `config.json` that is read; Docker's with its whole seccomp profile has 60 KB.
const LIMIT: u64 = 16 << 20;

/// Reads and checks `config.json` of a bundle.
///
/// # Errors
/// `Invalid` with the JSON path of what is wrong.
pub fn load(bundle: &Path) -> Result<Spec> {
    load_file(&bundle.join("config.json"), &mut Vec::new())
}

/// Reads and checks a configuration of any name; `notes` gets a sentence for each thing in it that is not known here and
/// was left out.
///
/// # Errors
/// As [`load`].
pub fn load_file(path: &Path, notes: &mut Vec<String>) -> Result<Spec> {
    let text = read_bounded(path)?;
    let mut spec: Spec = parse_noting(&text, notes).context(|| format!("read {}", path.display()))?;
    resources::settle_spec(&mut spec, &text);
    check(&spec).context(|| format!("check {}", path.display()))?;
    Ok(spec)
}

/// Reads and checks a process, as `exec --process` takes it.
///
/// # Errors
/// `Invalid` with the JSON path of what is wrong.
pub fn load_process(path: &Path) -> Result<Process> {
    let text = read_bounded(path)?;
    let process: Process = parse(&text).context(|| format!("read {}", path.display()))?;
    check_process(&process, "").context(|| format!("check {}", path.display()))?;
    Ok(process)
}

/// Turns JSON into a type of the specification; a failure names the path at which the text stops to fit.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    parse_noting(text, &mut Vec::new())
}

/// A zero byte in any text: nothing that the kernel takes can have one, and C would stop reading there.
fn no_zero_bytes(text: &str) -> Result<()> {
    // JSON has no other way to write one.
    if !text.contains("\\u0000") {
        return Ok(());
    }
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    match locate::zero_byte(&json, String::new()) {
        Some(place) => Err(Error::new(Kind::Invalid, format!("{place}: must not contain a zero byte"))),
        None => Ok(()),
    }
}

/// As [`parse`]; `notes` gets a sentence for each thing that is not known here and was left out.
pub(crate) fn parse_noting<T: DeserializeOwned>(text: &str, notes: &mut Vec<String>) -> Result<T> {
    let why = match serde_json::from_str(text) {
        Ok(parsed) => return no_zero_bytes(text).map(|()| parsed),
        Err(why) => why,
    };
    let mut noted = Vec::new();
    let reworded = beside::reword(text, &mut noted);
    if let Some(parsed) = reworded.and_then(|text| serde_json::from_str(&text).ok()) {
        notes.append(&mut noted);
        return no_zero_bytes(text).map(|()| parsed);
    }
    Err(located(text, &why))
}

/// The sentence of a refused text, with the path at which it stops to fit.
fn located(text: &str, why: &serde_json::Error) -> Error {
    let said = why.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    let (line, column) = (why.line(), why.column());
    let at = format!("line {line}, column {column}");
    let missing = said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    // What an object or a list is in place of is found before it is read, everything else after.
    let early = said.starts_with("invalid type: map") || said.starts_with("invalid type: sequence");
    let place = locate::path_at(text, line, if early { column + 1 } else { column });
    // serde_json takes a word of a closed list that is no string for broken JSON.
    let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let what = match missing {
        Some(field) => format!("{}: is missing", locate::field_of(text, line, column, field)),
        None if why.is_data() && place.is_empty() => format!("{said} ({at})"),
        None if why.is_data() => format!("{place}: {said}"),
        None if is_json() => format!("{place}: must be a string"),
        None if place.is_empty() => format!("not JSON at {at}: {said}"),
        None => format!("not JSON at {at}, in {place}: {said}"),
    };
    Error::new(Kind::Invalid, what)
}

fn read_bounded(path: &Path) -> Result<String> {
    use std::io::Read as _;

    let file = std::fs::File::open(path).context(|| format!("open {}", path.display()))?;
    let about = file.metadata().context(|| format!("look at {}", path.display()))?;
    if !about.is_file() || about.len() > LIMIT {
        let what = format!("{}: not a regular file of at most 16 MiB", path.display());
        return Err(Error::new(Kind::Invalid, what));
    }
    let mut text = String::with_capacity(about.len() as usize + 1);
    file.take(LIMIT).read_to_string(&mut text).context(|| format!("read {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parse::<Spec>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let said = wrong(r#"{"ociVersion":"1.0.2","process":{"user":{"uid":"root","gid":0},"cwd":"/"}}"#);
        assert_eq!(said, "process.user.uid: invalid type: string \"root\", expected u32");
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_not_wrapped() {
        for uid in ["-1", "4294967296", "1.5", "null"] {
            let text = format!(r#"{{"process":{{"user":{{"uid":{uid},"gid":0}},"cwd":"/"}}}}"#);
            assert!(wrong(&text).starts_with("process.user.uid: "), "{uid}: {}", wrong(&text));
        }
    }

    #[test]
    fn elements_of_a_list_carry_their_index() {
        let said = wrong(r#"{"mounts":[{"destination":"/proc"},{"destination":7}]}"#);
        assert_eq!(said, "mounts[1].destination: invalid type: integer `7`, expected path string");
    }

    #[test]
    fn the_template_is_a_valid_spec() {
        let spec: Spec = parse(TEMPLATE).unwrap();
        check(&spec).unwrap();
    }
}
