//! Any text as an image reference: refused, or one normal form that is read back as the same reference and whose parts
//! are safe in the path of a URL.

#![no_main]

use gantry_images::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else { return };
    let normal = reference.to_string();
    let again: Reference = normal.parse().expect("a normal form is a reference");
    assert_eq!(again, reference, "{text:?} -> {normal:?}");
    assert_eq!(again.to_string(), normal, "{text:?}: the normal form is not stable");
    let safe = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@[]+=".contains(&b));
    assert!(safe(&normal) && safe(&reference.wanted()), "{text:?} -> {normal:?}");
    let path = reference.path();
    assert!(path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."), "{text:?} -> {path:?}");
    assert!(!reference.wanted().contains('/') && !reference.wanted().is_empty(), "{text:?}");
    assert!(normal.len() < text.len() + 64, "{text:?} -> {normal:?}");
});
