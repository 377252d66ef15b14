//! What the name of a container's image says.

use k8s_openapi::api::core::v1::Container;

/// The oldest LiteLLM that mcp-auth is tested with.
pub(super) const OLDEST_LITELLM: Version = (1, 80, 17);

pub(super) type Version = (u32, u32, u32);

/// Endings of images that have LiteLLM in their name and do not serve its API.
const OTHER_ENDINGS: [&str; 10] = [
    "-ui",
    "-migrations",
    "-exporter",
    "-metrics",
    "-operator",
    "-docs",
    "-dashboard",
    "-client",
    "-tests",
    "-mcp",
];

/// Repository and tag, in lower case.
pub(super) struct Image {
    repository: String,
    tag: Option<String>,
}

impl Image {
    pub fn of(container: &Container) -> Self {
        let image = container
            .image
            .as_deref()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let image = image.split('@').next().unwrap_or_default();
        match image.rsplit_once(':') {
            // A colon before the last slash is the registry's port.
            Some((repository, tag)) if !tag.contains('/') => Self {
                repository: repository.to_owned(),
                tag: Some(tag.to_owned()),
            },
            _ => Self {
                repository: image.to_owned(),
                tag: None,
            },
        }
    }

    /// Whether it is LiteLLM by its name, wherever it comes from.
    pub fn names_litellm(&self) -> bool {
        self.name().contains("litellm") && !OTHER_ENDINGS.iter().any(|ending| self.name().ends_with(ending))
    }

    /// Whether it is LiteLLM's own image, or a mirror of it that keeps its path. Its arguments and environment
    /// are known: they name no configuration.
    pub fn is_official(&self) -> bool {
        let mut segments = self.repository.rsplit('/');
        let name = segments.next().unwrap_or_default();
        let owner = segments.next().unwrap_or_default();
        name.starts_with("litellm") && matches!(owner, "berriai" | "litellm") && self.names_litellm()
    }

    /// Whether it is LiteLLM's image of one component alone.
    pub fn is_component(&self) -> bool {
        self.name().ends_with("-gateway") || self.name().ends_with("-backend")
    }

    /// The version in the tag, as in `v1.80.17`, `main-v1.80.17-stable` or `1.80.17`.
    pub fn version(&self) -> Option<Version> {
        let tag = self.tag.as_deref()?;
        let numbers = tag.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
        numbers.filter_map(parse_version).next()
    }

    /// Whether it is an image of LiteLLM's charts that serves something else than its API.
    pub fn is_other_component(&self) -> bool {
        self.name().ends_with("-ui") || self.name().ends_with("-migrations")
    }

    fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(image: &str) -> Image {
        Image::of(&Container {
            image: Some(image.to_owned()),
            ..Container::default()
        })
    }

    #[test]
    fn a_tag_or_digest_is_not_the_name_of_an_image() {
        assert!(image("r:5000/a/LiteLLM:v1@sha256:0").names_litellm());
        assert!(!image("r:5000/app").names_litellm());
        assert!(!image("app:litellm-1").names_litellm());
        assert!(!image("litellm/app").names_litellm());
        assert!(!image("corp/litellm-exporter:1").names_litellm());
    }

    #[test]
    fn litellms_own_image_is_known_in_mirrors_that_keep_its_path() {
        for official in [
            "ghcr.io/berriai/litellm:lts",
            "berriai/litellm",
            "docker.litellm.ai/berriai/litellm-database:main-v1.85.1",
            "registry.example.com:5000/ghcr.io/berriai/litellm-gateway@sha256:0",
            "litellm/litellm",
        ] {
            assert!(image(official).is_official(), "{official}");
        }
        for other in [
            "registry.example.com/litellm:1",
            "own/litellm",
            "berriai/other",
            "litellm",
        ] {
            assert!(!image(other).is_official(), "{other}");
        }
    }

    #[test]
    fn a_version_is_read_from_any_form_of_tag() {
        for (tag, expected) in [
            ("v1.80.17", Some((1, 80, 17))),
            ("main-v1.50.2", Some((1, 50, 2))),
            ("1.80.17-stable.1", Some((1, 80, 17))),
            ("v1.85.1.rc.1", Some((1, 85, 1))),
            ("lts", None),
            ("main-latest", None),
            ("v1.80", None),
        ] {
            assert_eq!(image(&format!("i:{tag}")).version(), expected, "{tag}");
        }
        assert_eq!(image("registry.example.com:5000/i").version(), None);
    }
}
