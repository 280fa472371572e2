//! Which JSON path a position in a text lies in. Only for the sentence of an error: the text has been refused already.

use serde_json::Value;

/// One level of nesting on the way to the position.
enum Level {
    Object(String),
    Array(usize),
}

/// The path at a 1-based line and column, as serde_json reports them: `process.user.uid`, `mounts[1].options`. Empty
/// at the top.
pub(super) fn path_at(text: &str, line: usize, column: usize) -> String {
    render(&levels_at(text, line, column))
}

/// The path of a field that the object lacks at whose end this position is.
pub(super) fn field_of(text: &str, line: usize, column: usize, field: &str) -> String {
    let mut levels = levels_at(text, line, column);
    match levels.last_mut() {
        Some(Level::Object(name)) => field.clone_into(name),
        _ => levels.push(Level::Object(field.to_owned())),
    }
    render(&levels)
}

/// Where the first text or key with a zero byte is, below `at`.
pub(super) fn zero_byte(value: &Value, at: String) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then_some(at),
        Value::Array(list) => {
            list.iter().enumerate().find_map(|(index, inner)| zero_byte(inner, format!("{at}[{index}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, inner)| {
            let below = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            if key.contains('\0') { Some(below.escape_default().to_string()) } else { zero_byte(inner, below) }
        }),
        _ => None,
    }
}

fn levels_at(text: &str, line: usize, column: usize) -> Vec<Level> {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    walk(text.as_bytes(), (before + column.saturating_sub(1)).min(text.len()))
}

fn walk(text: &[u8], stop: usize) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut at = 0;
    let mut key = true;
    while at < stop {
        match text[at] {
            b'{' => {
                levels.push(Level::Object(String::new()));
                key = true;
            }
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => drop(levels.pop()),
            b',' => {
                key = true;
                if let Some(Level::Array(index)) = levels.last_mut() {
                    *index += 1;
                }
            }
            b':' => key = false,
            b'"' => {
                let end = end_of_string(text, at);
                if let (true, Some(Level::Object(name))) = (key, levels.last_mut()) {
                    *name = String::from_utf8_lossy(&text[at + 1..end]).into_owned();
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    levels
}

/// Where the string that starts at `start` has its closing quote, or the end of the text.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
}

fn render(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object(name) if name.is_empty() => {}
            Level::Object(name) if path.is_empty() => path.push_str(name),
            Level::Object(name) => path.extend([".", name]),
            Level::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::path_at;

    #[test]
    fn keys_lists_and_strings_with_quotes() {
        let text = "{\"a\": [1, {\"b\\\"c\": \"x, y\"}],\n \"d\": 5}";
        assert_eq!(path_at(text, 1, 8), "a[0]");
        assert_eq!(path_at(text, 1, 20), "a[1].b\\\"c");
        assert_eq!(path_at(text, 2, 7), "d");
    }

    #[test]
    fn positions_outside_of_the_text_do_no_harm() {
        for (line, column) in [(0, 0), (1, 900), (99, 1)] {
            let _ = path_at("{\"a\": \"unterminated\\", line, column);
        }
    }
}
