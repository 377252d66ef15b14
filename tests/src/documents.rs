//! What the documents of this repository show: YAML, and commands. Documents are the README, all of `docs/`, the chart's README
//! and the examples.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file, by its path in the repository.
#[derive(Debug)]
pub struct Document {
    pub path: String,
    pub text: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Markdown files.
pub fn pages() -> Vec<Document> {
    let mut pages = below("docs", "md");
    pages.extend(["README.md", "charts/mcp-auth/README.md", "examples/README.md"].map(read));
    pages
}

/// The manifests of `examples/`: all its YAML but LiteLLM's own configuration.
pub fn examples() -> Vec<Document> {
    below("examples", "yaml")
        .into_iter()
        .filter(|example| !example.path.starts_with("examples/compose/litellm/"))
        .collect()
}

pub fn read(path: &str) -> Document {
    let text =
        std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Document {
        path: path.to_owned(),
        text,
    }
}

/// All files of a folder with this ending, in the order of their paths.
fn below(folder: &str, extension: &str) -> Vec<Document> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(repository().join(folder)).expect("the folder can be read");
    for entry in entries {
        let entry = entry.expect("it can be read");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(below(&path, extension));
        } else if path.ends_with(&format!(".{extension}")) {
            found.push(read(&path));
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

impl Document {
    /// The YAML of a page's code blocks, or of a manifest.
    pub fn yaml(&self) -> Vec<Value> {
        let blocks = if self.path.ends_with(".yaml") {
            vec![self.text.clone()]
        } else {
            self.blocks(&["yaml"])
        };
        let parsed = blocks.iter().flat_map(|block| {
            serde_saphyr::from_multiple::<Value>(block)
                .unwrap_or_else(|error| panic!("{}: {error}:\n{block}", self.path))
        });
        parsed.filter(|value| !value.is_null()).collect()
    }

    /// The commands of code blocks and of code within sentences, without what comes before and after them in a pipe.
    pub fn commands(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for block in self.blocks(&["", "sh", "bash", "console"]) {
            lines.extend(block.replace("\\\n", " ").lines().map(str::to_owned));
        }
        let outside = self.without_blocks();
        let indented = outside.replace("\\\n", " ");
        lines.extend(
            indented
                .lines()
                .filter(|line| line.starts_with("    "))
                .map(str::to_owned),
        );
        // Code within a sentence may go over the end of a line.
        let sentences = outside.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        lines.extend(sentences.split('`').skip(1).step_by(2).map(str::to_owned));
        let parts = lines.iter().flat_map(|line| {
            let line = line.split(" #").next().unwrap_or_default();
            line.split(['|', ';', '(', ')']).flat_map(|part| part.split("&&"))
        });
        parts
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The fenced blocks that are marked as one of these languages, without what they are indented by in a list.
    fn blocks(&self, languages: &[&str]) -> Vec<String> {
        let fences = self.text.split("```").collect::<Vec<_>>();
        let blocks = fences.iter().skip(1).step_by(2);
        let marked = blocks.filter_map(|block| {
            let (language, text) = block.split_once('\n')?;
            languages.contains(&language.trim()).then(|| dedent(text))
        });
        marked.collect()
    }

    fn without_blocks(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }
}

/// A block in a list is indented as a whole.
fn dedent(block: &str) -> String {
    let indentation = block.len() - block.trim_start_matches(' ').len();
    let lines = block
        .lines()
        .map(|line| line.get(indentation..).unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_and_commands_are_found_wherever_they_stand() {
        let page = Document {
            path: "page.md".to_owned(),
            text: "Run `make try`, or `mcp-auth exec\n  -- litellm`.\n\n    helm template x \\\n      y | tool --file - # why\n\n\
                   1. A list:\n\n   ```yaml\n   a: 1\n   ---\n   b: 2\n   ```\n"
                .to_owned(),
        };
        assert_eq!(page.yaml(), [json!({"a": 1}), json!({"b": 2})]);
        let commands = page.commands();
        for expected in ["make try", "mcp-auth exec -- litellm", "tool --file -"] {
            assert!(commands.iter().any(|command| command == expected), "{commands:?}");
        }
    }
}
