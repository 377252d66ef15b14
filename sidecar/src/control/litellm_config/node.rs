//! A YAML document as a tree that forgets nothing of what PyYAML looks at: whether a scalar is plain, and its
//! tag. An alias shares the node of its anchor, so a small document stays small here however much it would
//! expand to; code that walks it spends a [`Budget`].

use std::collections::HashMap;
use std::sync::Arc;

use super::error::ConfigError;
use super::tag_resolution::{Kind, resolve_tag};

/// Prefix of the tags that PyYAML's safe loader knows.
const CORE: &str = "tag:yaml.org,2002:";

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Scalar(Scalar),
    Sequence {
        tag: Option<String>,
        items: Vec<Arc<Node>>,
    },
    Mapping(Mapping),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    pub text: String,
    /// Whether the text decides on the type: plain and without a tag, or with the tag `!`.
    pub plain: bool,
    /// In full, such as `tag:yaml.org,2002:str`.
    pub tag: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapping {
    pub tag: Option<String>,
    pub pairs: Vec<Pair>,
}

pub type Pair = (Arc<Node>, Arc<Node>);

/// How many nodes may still be visited. Aliases and merges in layers of ten make a few hundred bytes stand
/// for billions of nodes.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    /// Far above any real configuration, and still a fraction of a second.
    fn default() -> Self {
        Self(200_000)
    }
}

impl Budget {
    #[cfg(test)]
    pub fn new(nodes: usize) -> Self {
        Self(nodes)
    }

    pub fn spend(&mut self, nodes: usize) -> Result<(), ConfigError> {
        self.0 = self.0.checked_sub(nodes).ok_or(ConfigError::Expands)?;
        Ok(())
    }
}

impl Node {
    /// A string, whatever it looks like.
    pub fn text(text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self::Scalar(Scalar {
            text: text.into(),
            plain: false,
            tag: None,
        }))
    }

    /// A number or a truth value.
    pub fn plain(text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self::Scalar(Scalar {
            text: text.into(),
            plain: true,
            tag: None,
        }))
    }

    pub fn sequence(items: Vec<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self::Sequence { tag: None, items })
    }

    pub fn mapping(pairs: Vec<Pair>) -> Arc<Self> {
        Arc::new(Self::Mapping(Mapping { tag: None, pairs }))
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) if scalar.kind() == Some(Kind::Str) => Some(&scalar.text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.kind() == Some(Kind::Null))
    }

    /// What Python holds for false, as far as LiteLLM tells it from a value that is set.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(scalar) => match scalar.kind() {
                Some(Kind::Null) => true,
                Some(Kind::Str) => scalar.text.is_empty(),
                Some(Kind::Bool) => {
                    matches!(scalar.text.to_ascii_lowercase().as_str(), "no" | "false" | "off")
                }
                _ => false,
            },
            Self::Sequence { items, .. } => items.is_empty(),
            Self::Mapping(mapping) => mapping.pairs.is_empty(),
        }
    }

    pub fn as_sequence(&self) -> Option<&[Arc<Self>]> {
        match self {
            Self::Sequence { items, .. } => Some(items),
            _ => None,
        }
    }

    pub fn as_mapping(&self) -> Option<&Mapping> {
        match self {
            Self::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }
}

impl Scalar {
    /// `None` for a tag of which only PyYAML knows what becomes of it.
    pub fn kind(&self) -> Option<Kind> {
        match &self.tag {
            None if self.plain => Some(resolve_tag(&self.text)),
            None => Some(Kind::Str),
            Some(tag) => match tag.strip_prefix(CORE)? {
                "str" => Some(Kind::Str),
                "null" => Some(Kind::Null),
                "bool" => Some(Kind::Bool),
                "int" => Some(Kind::Int),
                "float" => Some(Kind::Float),
                "timestamp" => Some(Kind::Timestamp),
                "merge" => Some(Kind::Merge),
                "value" => Some(Kind::Value),
                _ => None,
            },
        }
    }
}

impl Mapping {
    /// The mapping as the safe loader constructs it: what `<<` takes over comes first, its first mapping
    /// counting most, and of equal keys the last value wins at the first one's place. Keys that are no
    /// strings stay as they are, for the loader to compare.
    pub fn flatten(&self, budget: &mut Budget) -> Result<Vec<Pair>, ConfigError> {
        let mut flat: Vec<Pair> = Vec::new();
        let mut settings: HashMap<String, usize> = HashMap::new();
        for (key, value) in self.merged(budget)? {
            match key.as_key().and_then(|name| settings.get(name)) {
                Some(&place) => flat[place].1 = value,
                None => {
                    if let Some(name) = key.as_key() {
                        settings.insert(name.to_owned(), flat.len());
                    }
                    flat.push((key, value));
                }
            }
        }
        Ok(flat)
    }

    /// The value of a key, with merges and repetitions.
    pub fn get(&self, key: &str, budget: &mut Budget) -> Result<Option<Arc<Node>>, ConfigError> {
        let pairs = self.merged(budget)?;
        Ok(pairs
            .into_iter()
            .rev()
            .find(|(k, _)| k.as_key() == Some(key))
            .map(|(_, value)| value))
    }

    fn merged(&self, budget: &mut Budget) -> Result<Vec<Pair>, ConfigError> {
        budget.spend(self.pairs.len() + 1)?;
        let mut taken_over = Vec::new();
        let mut own = Vec::new();
        for (key, value) in &self.pairs {
            if !key.is_merge() {
                own.push((key.clone(), value.clone()));
                continue;
            }
            match &**value {
                Node::Mapping(mapping) => taken_over.extend(mapping.merged(budget)?),
                Node::Sequence { items, .. } => {
                    for item in items.iter().rev() {
                        let mapping = item.as_mapping().ok_or(ConfigError::Merge)?;
                        taken_over.extend(mapping.merged(budget)?);
                    }
                }
                Node::Scalar(_) => return Err(ConfigError::Merge),
            }
            budget.spend(taken_over.len())?;
        }
        taken_over.extend(own);
        Ok(taken_over)
    }
}

impl Node {
    fn is_merge(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.kind() == Some(Kind::Merge))
    }

    /// A string key. The safe loader takes the key `=` for a string as well.
    fn as_key(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) if matches!(scalar.kind(), Some(Kind::Str | Kind::Value)) => {
                Some(&scalar.text)
            }
            _ => None,
        }
    }
}
