//! Tests: whatever is of a wrong type in a configuration is named by its exact place.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::parse;

const FULL: &str = include_str!("full.json");

/// Every place in a value, as a pointer of serde_json and as a sentence names it.
fn places(value: &Value, pointer: &str, name: &str, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                into.push((pointer.clone(), name.clone()));
                places(inner, &pointer, &name, into);
            }
        }
        Value::Array(elements) => {
            for (at, inner) in elements.iter().enumerate() {
                let (pointer, name) = (format!("{pointer}/{at}"), format!("{name}[{at}]"));
                into.push((pointer.clone(), name.clone()));
                places(inner, &pointer, &name, into);
            }
        }
        _ => {}
    }
}

/// In three layouts: one line, lines, and lines in which the broken value is followed by a space.
fn texts(json: &Value) -> [String; 3] {
    let pretty = serde_json::to_string_pretty(json).unwrap();
    [json.to_string(), pretty.replace(",\n", " ,\n"), pretty]
}

#[test]
fn the_full_configuration_can_be_read() {
    parse::<Spec>(FULL).unwrap();
}

#[test]
fn a_wrong_type_anywhere_is_named_by_its_place() {
    let full: Value = serde_json::from_str(FULL).unwrap();
    let mut all = Vec::new();
    places(&full, "", "", &mut all);
    assert!(all.len() > 250, "{}", all.len());
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (pointer, name) in &all {
        for value in [json!({ "frob": [1] }), json!([[7]]), json!("frob, {\"[}"), json!(-1.5), json!(true)] {
            let mut broken = full.clone();
            *broken.pointer_mut(pointer).unwrap() = value.clone();
            for text in texts(&broken) {
                let Err(why) = parse::<Spec>(&text) else { continue };
                tried += 1;
                let said = why.to_string();
                // What is inside of a value of the wrong kind may be what the reader stumbles over.
                let inside = value.is_object() || value.is_array();
                let exact = said.starts_with(&format!("{name}: "));
                let below = said.starts_with(&format!("{name}[")) || said.starts_with(&format!("{name}."));
                if !(exact || inside && below) {
                    wrong.push(format!("{name} = {value}: {said}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 2000, "{tried}");
}

#[test]
fn a_missing_field_is_named_by_its_place() {
    let full: Value = serde_json::from_str(FULL).unwrap();
    let mut all = Vec::new();
    places(&full, "", "", &mut all);
    let mut refused = 0;
    for (pointer, name) in all.iter().filter(|(pointer, _)| !pointer.ends_with(|letter: char| letter.is_ascii_digit()))
    {
        let mut broken = full.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        broken.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(&key.replace("~1", "/")).unwrap();
        for text in texts(&broken) {
            if let Err(why) = parse::<Spec>(&text) {
                refused += 1;
                assert_eq!(why.to_string(), format!("{name}: is missing"));
            }
        }
    }
    assert!(refused > 30, "{refused}");
}
