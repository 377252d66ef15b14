//! The schema of the resource as a Markdown page: each object a section, with its fields, defaults and rules.

use std::fmt::Write;

use serde_json::Value;

/// What stands above the generated part of the page.
const HEAD: &str = "\
# McpServerAuth

Every field of the resource, made from its schema by `make generate`; `kubectl explain mcpserverauth.spec` says the same. What
is refused is refused by the API server at `kubectl apply`, with the sentence that stands here. Examples are in
[examples/](../../examples/README.md).

`apiVersion: mcpauth.dev/v1alpha1`, `kind: McpServerAuth`, short name `msa`, one namespace's.
";

/// The page, from the schema of `spec` and `status`.
pub fn page(schema: &Value) -> String {
    let mut page = HEAD.to_owned();
    for part in ["spec", "status"] {
        section(&mut page, part, &schema["properties"][part]);
    }
    page
}

/// The section of one object, and after it those of the objects below.
fn section(page: &mut String, path: &str, schema: &Value) {
    let item = object_of(schema);
    let properties = item.get("properties").and_then(Value::as_object);
    let Some(properties) = properties else { return };
    let level = if path.contains('.') { "###" } else { "##" };
    // Writing to a String cannot fail.
    let _ = write!(page, "\n{level} {path}\n\n");
    if let Some(description) = text(schema).or_else(|| text(item)) {
        let _ = write!(page, "{}\n\n", paragraph(description));
    }
    page.push_str("| field | type | what it is |\n|---|---|---|\n");
    for (name, property) in properties {
        let required = item["required"]
            .as_array()
            .is_some_and(|required| required.iter().any(|each| each == name));
        let below = object_of(property).get("properties").is_some();
        let shown = if below {
            format!("[`{name}`](#{})", anchor(&format!("{path}.{name}")))
        } else {
            format!("`{name}`")
        };
        let _ = writeln!(
            page,
            "| {shown}{} | {} | {} |",
            if required { ", required" } else { "" },
            kind(property),
            cell(property)
        );
    }
    let mut rules = messages(schema).chain(messages(&schema["items"])).peekable();
    if rules.peek().is_some() {
        page.push_str("\nWhat has to hold:\n\n");
    }
    for rule in rules {
        let _ = writeln!(page, "- {}", escape(rule));
    }
    for (name, property) in properties {
        section(page, &format!("{path}.{name}"), property);
    }
}

/// The schema of an object, of a list's items, or of a map's values.
fn object_of(schema: &Value) -> &Value {
    if schema.get("items").is_some() {
        &schema["items"]
    } else {
        schema
    }
}

fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    let rules = schema["x-kubernetes-validations"].as_array();
    rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["message"].as_str())
}

/// The type in the words of YAML.
fn kind(schema: &Value) -> String {
    let kind = schema["type"].as_str().unwrap_or("any");
    match (kind, schema["format"].as_str()) {
        ("array", _) => format!("list of {}s", schema["items"]["type"].as_str().unwrap_or("value")),
        ("object", _) if schema.get("additionalProperties").is_some() => "map".to_owned(),
        ("string", Some("date-time")) => "time".to_owned(),
        (kind, _) => kind.to_owned(),
    }
}

/// Description, values and default of a field, for a table's cell.
fn cell(schema: &Value) -> String {
    let mut sentences: Vec<String> = text(schema).map(paragraph).into_iter().collect();
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values.iter().map(|value| format!("`{}`", plain(value))).collect();
        sentences.push(format!("One of {}.", values.join(", ")));
    }
    match schema.get("default") {
        // The defaults of an object stand at its fields.
        None | Some(Value::Null | Value::Object(_)) => {}
        Some(_) if text(schema).is_some_and(|text| text.contains("Default: ")) => {}
        Some(default) => sentences.push(format!("Default: `{}`.", plain(default))),
    }
    for rule in messages(schema).filter(|_| object_of(schema).get("properties").is_none()) {
        sentences.push(format!("What has to hold: {}.", escape(rule)));
    }
    sentences.join(" ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn text(schema: &Value) -> Option<&str> {
    schema["description"]
        .as_str()
        .filter(|text| !text.trim().is_empty())
}

fn paragraph(description: &str) -> String {
    escape(&description.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What would end a table's cell or begin HTML.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// A heading's anchor, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace('.', "")
}

/// Paths of the fields that `kubectl explain` has no text for.
#[cfg(test)]
pub fn undescribed(schema: &Value) -> Vec<String> {
    fn look(path: &str, schema: &Value, found: &mut Vec<String>) {
        let none = serde_json::Map::new();
        let properties = object_of(schema)["properties"].as_object().unwrap_or(&none);
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            if text(property).is_none() {
                found.push(path.clone());
            }
            look(&path, property, found);
        }
    }
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        look(part, &schema["properties"][part], &mut found);
    }
    found
}
