//! `gantry image verify`: what is damaged, and with `--repair` what became of it.

use std::io::IsTerminal as _;
use std::io::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::request::Request;
use super::show::{pretty, size};
use super::transfer::credentials;
use crate::error::{Error, Kind, Result};
use crate::store::Store;
use crate::verify::{Outcome, Part, Report, Verify, Verifying, Watch};

pub(super) async fn verify(request: &Request, store: &Store) -> Result<String> {
    request.texts(0, 0)?;
    let (json, repair) = (request.json()?, request.is("repair")?);
    let shown = std::io::stderr().is_terminal() && !json && !request.is("quiet")?;
    let watch: Watch = Arc::new(move |progress| show(shown, &progress));
    let report = store.verify(&Verify { repair, auth: credentials(request)? }, watch).await;
    if shown {
        eprint!("\r\x1b[K");
    }
    let report = report?;
    let text = if json { pretty(&as_json(&report)) } else { report.to_string() };
    if report.is_good() {
        return Ok(text);
    }
    super::print(&text)?;
    let hint = if repair { "pull or import their images again" } else { "--repair brings them back" };
    Err(Error::new(Kind::Invalid, format!("blobs or layers are damaged or missing: {hint}")))
}

/// One line, redrawn in place.
fn show(shown: bool, progress: &Verifying) {
    if shown {
        let line = format!("\rread {} of {}\x1b[K", size(progress.bytes), size(progress.total));
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
}

fn as_json(report: &Report) -> Value {
    let faults = report.faults.iter().map(|fault| {
        let (kind, blob) = match &fault.part {
            Part::Blob(digest) => ("blob", digest),
            Part::Layer { blob, .. } => ("layer", blob),
        };
        let (outcome, lost) = match &fault.outcome {
            Outcome::Reported => ("reported", None),
            Outcome::Repaired => ("repaired", None),
            Outcome::Lost(why) => ("lost", Some(why)),
        };
        json!({"kind": kind, "digest": blob.to_string(), "why": fault.why, "images": fault.images, "outcome": outcome,
            "lost": lost})
    });
    let faults: Vec<Value> = faults.collect();
    json!({"blobs": report.blobs, "layers": report.layers, "unchecked": report.unchecked, "bytes": report.bytes,
        "faults": faults})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::verify::Fault;

    #[test]
    fn reports_for_people_and_programs() {
        let digest = Digest::of(b"x");
        let part = Part::Layer { diff_id: Digest::of(b"y"), blob: digest.clone() };
        let (why, images) = (vec!["/etc/passwd: is missing".to_owned()], vec!["docker.io/library/a:1".to_owned()]);
        let fault = Fault { part, why, images, outcome: Outcome::Repaired };
        let lost = Fault {
            part: Part::Blob(digest),
            why: vec!["is missing".into()],
            images: Vec::new(),
            outcome: Outcome::Lost("no".into()),
        };
        let mut report = Report { blobs: 5, layers: 3, unchecked: 0, bytes: 10, faults: vec![fault] };
        let hex = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let layer = format!("layer sha256:{hex} of docker.io/library/a:1: /etc/passwd: is missing (repaired)\n");
        let end = "5 blobs and 3 unpacked layers read, 1 were damaged or missing and are repaired\n";
        assert_eq!(report.to_string(), format!("{layer}{end}"));
        assert!(report.is_good());
        report.faults.push(lost);
        report.unchecked = 1;
        let blob = format!("blob sha256:{hex}, of no image: is missing (not repaired: no)\n");
        let end = "5 blobs and 3 unpacked layers read, 1 layers could not be compared, 1 are damaged or missing\n";
        assert_eq!(report.to_string(), format!("{layer}{blob}{end}"));
        assert!(!report.is_good());
        let value = as_json(&report);
        assert_eq!((&value["faults"][0]["outcome"], &value["faults"][1]["lost"]), (&json!("repaired"), &json!("no")));
        report.faults.clear();
        report.unchecked = 0;
        assert_eq!(report.to_string(), "5 blobs and 3 unpacked layers read, all are as they should be\n");
    }
}
