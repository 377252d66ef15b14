//! [`Node`]s to YAML text that PyYAML, or any other YAML parser, reads as the same.
//!
//! Three forms are enough. A plain scalar that might be anything but a string is copied letter by letter, so
//! that whatever decides on its type decides as before; every other scalar is a string and is written in
//! double quotes, in ASCII with escapes, where no rule of any version of YAML can touch it; a tag is written
//! in full. Collections are in flow style, except for the outer levels, which people look at. Aliases are
//! written out, because an anchor may stand in a part of the file that is not copied.

use std::fmt::Write;

use super::error::ConfigError;
use super::node::{Budget, Mapping, Node, Scalar};
use super::tag_resolution::may_be_other_than_string;

/// Levels in block style: `mcp_servers`, a server, a setting of it.
const BLOCK_LEVELS: usize = 3;
/// A key without `?` must fit into 1,024 characters on one line.
const MAX_SIMPLE_KEY: usize = 128;
/// Nodes nest at most 64 levels in a file, and an alias may hang one such tree into another.
const MAX_DEPTH: usize = 256;

/// A document with this mapping at its top.
pub fn emit(mapping: &Mapping, budget: &mut Budget) -> Result<String, ConfigError> {
    let mut out = Emitter {
        text: String::new(),
        budget,
    };
    if mapping.pairs.is_empty() {
        out.text.push_str("{}\n");
    } else {
        out.block(mapping, 0)?;
    }
    Ok(out.text)
}

struct Emitter<'a> {
    text: String,
    budget: &'a mut Budget,
}

impl Emitter<'_> {
    fn block(&mut self, mapping: &Mapping, level: usize) -> Result<(), ConfigError> {
        let indent = "  ".repeat(level);
        for (key, value) in &mapping.pairs {
            self.text.push_str(&indent);
            if is_simple(key) {
                self.flow(key, level + 1)?;
            } else {
                // On one line, `? a : b` would be a mapping as the key.
                self.text.push_str("? ");
                self.flow(key, level + 1)?;
                self.text.push('\n');
                self.text.push_str(&indent);
            }
            self.text.push(':');
            match &**value {
                Node::Mapping(inner)
                    if level + 1 < BLOCK_LEVELS && inner.tag.is_none() && !inner.pairs.is_empty() =>
                {
                    self.budget.spend(1)?;
                    self.text.push('\n');
                    self.block(inner, level + 1)?;
                }
                value => {
                    self.text.push(' ');
                    self.flow(value, level + 1)?;
                    self.text.push('\n');
                }
            }
        }
        Ok(())
    }

    fn flow(&mut self, node: &Node, depth: usize) -> Result<(), ConfigError> {
        self.budget.spend(1)?;
        if depth > MAX_DEPTH {
            return Err(ConfigError::Expands);
        }
        match node {
            Node::Scalar(scalar) => {
                self.budget.spend(scalar.text.len() / 32)?;
                self.scalar(scalar);
            }
            Node::Sequence { tag, items } => {
                self.tag(tag.as_deref());
                self.text.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.text.push_str(", ");
                    }
                    self.flow(item, depth + 1)?;
                }
                self.text.push(']');
            }
            Node::Mapping(mapping) => {
                self.tag(mapping.tag.as_deref());
                self.text.push('{');
                for (index, (key, value)) in mapping.pairs.iter().enumerate() {
                    if index > 0 {
                        self.text.push_str(", ");
                    }
                    let simple = is_simple(key);
                    self.text.push_str(if simple { "" } else { "? " });
                    self.flow(key, depth + 1)?;
                    self.text.push_str(if simple { ": " } else { " : " });
                    self.flow(value, depth + 1)?;
                }
                self.text.push('}');
            }
        }
        Ok(())
    }

    fn scalar(&mut self, scalar: &Scalar) {
        self.tag(scalar.tag.as_deref());
        if !scalar.plain {
            self.quoted(&scalar.text);
        } else if scalar.text.is_empty() {
            self.text.push_str("null");
        } else if may_be_other_than_string(&scalar.text) && may_stand_plain(&scalar.text) {
            self.text.push_str(&scalar.text);
        } else {
            self.quoted(&scalar.text);
        }
    }

    fn tag(&mut self, tag: Option<&str>) {
        let Some(tag) = tag else { return };
        self.text.push_str("!<");
        for byte in tag.bytes() {
            if byte.is_ascii_alphanumeric() || b"-;/?:@&=+$,_.!~*'()[]".contains(&byte) {
                self.text.push(byte.into());
            } else {
                self.write(format_args!("%{byte:02X}"));
            }
        }
        self.text.push_str("> ");
    }

    fn quoted(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\t' => self.text.push_str("\\t"),
                ' '..='~' => self.text.push(c),
                _ => match u32::from(c) {
                    code @ ..=0xffff => self.write(format_args!("\\u{code:04X}")),
                    code => self.write(format_args!("\\U{code:08X}")),
                },
            }
        }
        self.text.push('"');
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(arguments)
            .expect("a String takes whatever is written to it");
    }
}

/// Whether a key may do without `?`.
fn is_simple(key: &Node) -> bool {
    matches!(key, Node::Scalar(Scalar { text, tag: None, .. }) if text.len() <= MAX_SIMPLE_KEY)
}

/// Whether these characters, all of the set in [`may_be_other_than_string`], are a plain scalar anywhere.
/// What is not is a string in any case.
fn may_stand_plain(text: &str) -> bool {
    let colon_ends = |(at, _): (usize, _)| matches!(text.as_bytes().get(at + 1), None | Some(b' ' | b'\t'));
    let dash_is_indicator = text == "-" || text.starts_with("- ") || text.starts_with("-\t");
    !text.starts_with([' ', '\t', ':'])
        && !text.ends_with([' ', '\t'])
        && !dash_is_indicator
        && !text.match_indices(':').any(colon_ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::litellm_config::parse::parse;

    fn round(text: &str) -> String {
        let root = parse(text).unwrap().unwrap();
        emit(root.as_mapping().unwrap(), &mut Budget::default()).unwrap()
    }

    #[test]
    fn writes_out_aliases_and_keeps_merge_keys() {
        let text = round("x: &x {a: yes}\ny: {<<: *x, '<<': 1}\nz: [*x, *x]");
        assert_eq!(
            text,
            "x:\n  a: yes\ny:\n  <<:\n    a: yes\n  \"<<\": 1\nz: [{a: yes}, {a: yes}]\n"
        );
    }

    #[test]
    fn escapes_everything_that_is_not_ascii() {
        assert_eq!(
            round("a: \"\\0 \\\\ \\\" \\u2028 \u{1f600} é\""),
            "a: \"\\u0000 \\\\ \\\" \\u2028 \\U0001F600 \\u00E9\"\n"
        );
    }

    #[test]
    fn a_long_key_is_an_explicit_one() {
        let key = "k".repeat(2000);
        assert_eq!(
            round(&format!("? {key}\n: {{? {key} : 1}}")),
            format!("? {key}\n:\n  ? {key}\n  : 1\n")
        );
    }

    #[test]
    fn layers_of_aliases_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for layer in 1..9 {
            let below = vec![format!("*a{}", layer - 1); 10].join(", ");
            text.push_str(&format!("a{layer}: &a{layer} [{below}]\n"));
        }
        let root = parse(&text).unwrap().unwrap();
        let error = emit(root.as_mapping().unwrap(), &mut Budget::default()).unwrap_err();
        assert_eq!(error.reason(), "ConfigTooLarge");
    }

    #[test]
    fn layers_of_merges_are_refused() {
        let mut text = String::from("a0: &a0 {x: 1}\n");
        for layer in 1..30 {
            let below = layer - 1;
            text.push_str(&format!("a{layer}: &a{layer} {{<<: [*a{below}, *a{below}]}}\n"));
        }
        text.push_str("mcp_servers: {<<: *a29}");
        let root = parse(&text).unwrap().unwrap();
        let servers = root
            .as_mapping()
            .unwrap()
            .get("mcp_servers", &mut Budget::default())
            .unwrap()
            .unwrap();
        let error = servers
            .as_mapping()
            .unwrap()
            .flatten(&mut Budget::new(10_000))
            .unwrap_err();
        assert_eq!(error.reason(), "ConfigTooLarge");
    }
}
