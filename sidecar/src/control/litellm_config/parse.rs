//! YAML text to [`Node`]s. The parser knows YAML 1.2; this file takes its events only, which say how a scalar
//! was written, and leaves its meaning to [`tag_resolution`](super::tag_resolution), which is that of YAML
//! 1.1.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::error::ConfigError;
use super::node::{Mapping, Node, Pair, Scalar};

/// Deeper nesting is refused, so that walking the tree cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// A collection whose end has not been read.
struct OpenCollection {
    anchor: usize,
    tag: Option<String>,
    content: Content,
}

enum Content {
    Sequence(Vec<Arc<Node>>),
    Mapping {
        pairs: Vec<Pair>,
        key: Option<Arc<Node>>,
    },
}

/// The one document of `text`, `None` if there is none. Several documents are refused, as PyYAML's
/// `safe_load` refuses them.
pub fn parse(text: &str) -> Result<Option<Arc<Node>>, ConfigError> {
    // A line break in YAML 1.1, a letter like any other in YAML 1.2. PyYAML makes the first of the three a
    // \n.
    let text = text.replace('\u{85}', "\n");
    if let Some(at) = text.find(['\u{2028}', '\u{2029}']) {
        let line = text[..at].matches('\n').count() + 1;
        return Err(ConfigError::Syntax {
            line,
            column: 0,
            what:
                "a Unicode line separator, which YAML 1.1 takes for a line break; remove it or write it as \
                an escape"
                    .into(),
        });
    }

    let mut anchors: HashMap<usize, Arc<Node>> = HashMap::new();
    let mut open_collections: Vec<OpenCollection> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(&text) {
        let (event, span) = event.map_err(|error| ConfigError::Syntax {
            line: error.marker().line(),
            column: error.marker().col() + 1,
            what: error.info().to_owned(),
        })?;
        let syntax = |what: &str| ConfigError::Syntax {
            line: span.start.line(),
            column: span.start.col() + 1,
            what: what.to_owned(),
        };
        let (anchor, node) = match event {
            Event::DocumentStart(_) if root.is_some() => {
                return Err(syntax("a second document; only one is read"));
            }
            Event::Alias(anchor) => {
                let node = anchors
                    .get(&anchor)
                    .ok_or_else(|| syntax("an alias inside its own anchor"))?;
                (0, node.clone())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let (tag, non_specific) = full_tag(tag.as_deref());
                let plain = non_specific || (style == ScalarStyle::Plain && tag.is_none());
                (
                    anchor,
                    Arc::new(Node::Scalar(Scalar {
                        text: text.into_owned(),
                        plain,
                        tag,
                    })),
                )
            }
            Event::SequenceStart(anchor, tag) => {
                open_collections.push(OpenCollection {
                    anchor,
                    tag: full_tag(tag.as_deref()).0,
                    content: Content::Sequence(Vec::new()),
                });
                if open_collections.len() > MAX_DEPTH {
                    return Err(syntax("nesting deeper than 64 levels"));
                }
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Mapping {
                    pairs: Vec::new(),
                    key: None,
                };
                open_collections.push(OpenCollection {
                    anchor,
                    tag: full_tag(tag.as_deref()).0,
                    content,
                });
                if open_collections.len() > MAX_DEPTH {
                    return Err(syntax("nesting deeper than 64 levels"));
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let collection = open_collections
                    .pop()
                    .expect("the parser ends only collections it has begun");
                let node = match collection.content {
                    Content::Sequence(items) => Node::Sequence {
                        tag: collection.tag,
                        items,
                    },
                    Content::Mapping { pairs, .. } => Node::Mapping(Mapping {
                        tag: collection.tag,
                        pairs,
                    }),
                };
                (collection.anchor, Arc::new(node))
            }
            _ => continue,
        };
        if anchor > 0 {
            anchors.insert(anchor, node.clone());
        }
        match open_collections
            .last_mut()
            .map(|open_collections| &mut open_collections.content)
        {
            None => root = Some(node),
            Some(Content::Sequence(items)) => items.push(node),
            Some(Content::Mapping { pairs, key }) => match key.take() {
                None => *key = Some(node),
                Some(key) => pairs.push((key, node)),
            },
        }
    }
    Ok(root)
}

/// The tag in full, and whether it is `!`, by which PyYAML decides on the type from the text even of a quoted
/// scalar.
fn full_tag(tag: Option<&Tag>) -> (Option<String>, bool) {
    match tag {
        None => (None, false),
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => (None, true),
        Some(tag) => (Some(format!("{}{}", tag.handle, tag.suffix)), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn keeps_how_a_scalar_was_written() {
        let root = parse("[yes, 'yes', !!str yes, ! 'yes', !<tag:yaml.org,2002:int> '1']")
            .unwrap()
            .unwrap();
        let items: Vec<_> = root
            .as_sequence()
            .unwrap()
            .iter()
            .map(|item| match &**item {
                Node::Scalar(scalar) => (scalar.plain, scalar.tag.as_deref()),
                _ => unreachable!(),
            })
            .collect();
        assert_eq!(
            items,
            [
                (true, None),
                (false, None),
                (false, Some("tag:yaml.org,2002:str")),
                (true, None),
                (false, Some("tag:yaml.org,2002:int")),
            ]
        );
    }

    #[test]
    fn refuses_what_it_cannot_stand_for() {
        assert!(parse_error("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(parse_error("&a [*a]").contains("inside its own anchor"));
        assert!(parse_error(&format!("{}{}", "[".repeat(65), "]".repeat(65))).contains("nesting deeper"));
        parse_error(&"[".repeat(100_000));
        assert!(parse_error("a: [").contains("line"));
        assert!(parse_error("a: x\u{2028}y").contains("line 1"));
    }

    #[test]
    fn a_refusal_quotes_nothing_of_the_file() {
        assert!(!parse_error("key: 's3cret\nother: {").contains("s3cret"));
    }

    #[test]
    fn an_empty_file_has_no_document() {
        assert_eq!(parse("# nothing\n").unwrap(), None);
    }
}
