//! Labels and annotations of a pod that look like ours and are none. Kubernetes takes any key, so that a misspelt one has
//! no effect and nobody is told: each becomes a warning that names the key that may be meant.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::annotations::{INJECT_LABEL, MARKS, STATED, WRITTEN};
use super::warning::{Warning, lasting};

const DOMAIN: &str = "mcpauth.dev";
/// How far a domain may be from ours to be a misspelt one: that of `mcpauth.io` is.
const MAX_DOMAIN_DISTANCE: usize = 3;
/// Letters of a name that stand for the whole: `keepalive` for `keepalive-seconds`.
const MIN_BEGINNING: usize = 4;
/// How many are named; a further one says how many there are besides.
const MAX_NAMED: usize = 3;
/// A longer key is not repeated. Kubernetes allows 63 characters behind the domain.
const MAX_KEY_BYTES: usize = 80;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Label,
    Annotation,
}

impl Kind {
    /// With its article.
    fn as_str(self) -> &'static str {
        match self {
            Self::Label => "the label",
            Self::Annotation => "the annotation",
        }
    }

    /// Every key of ours that a pod may have.
    fn keys(self) -> impl Iterator<Item = &'static str> {
        let (label, annotations): (&[&str], [&[&str]; 2]) = match self {
            Self::Label => (&[INJECT_LABEL], [&MARKS, &[]]),
            Self::Annotation => (&[], [&STATED, &WRITTEN]),
        };
        let annotations = annotations.into_iter().flatten();
        label.iter().chain(annotations).copied()
    }
}

pub(super) fn warnings(pod: &Pod) -> Vec<Warning> {
    let of = |keys: &Option<BTreeMap<String, String>>, kind| -> Vec<String> {
        let keys = keys.iter().flat_map(BTreeMap::keys);
        keys.filter_map(|key| objection(key, kind)).collect()
    };
    let metadata = &pod.metadata;
    let messages = [
        of(&metadata.labels, Kind::Label),
        of(&metadata.annotations, Kind::Annotation),
    ]
    .concat();
    let further = messages.len().saturating_sub(MAX_NAMED);
    let more = (further > 0).then(|| {
        format!("{further} more labels or annotations of {DOMAIN} are not known and have no effect")
    });
    let named = messages.into_iter().take(MAX_NAMED);
    named
        .chain(more)
        .map(|message| lasting("UnknownAnnotation", message))
        .collect()
}

/// What is wrong with a key, if it is meant for us and is none of ours.
fn objection(key: &str, kind: Kind) -> Option<String> {
    let (domain, name) = key.split_once('/')?;
    if domain == DOMAIN && kind.keys().any(|known| known == key) {
        return None;
    }
    let nearest = nearest(name);
    // The key of another domain is somebody else's, unless that is nearly ours and so is the name.
    if domain != DOMAIN {
        let is_misspelt = strsim::damerau_levenshtein(domain, DOMAIN) <= MAX_DOMAIN_DISTANCE;
        nearest.filter(|_| is_misspelt)?;
    }
    let is_shown = key.len() <= MAX_KEY_BYTES && key.bytes().all(|letter| letter.is_ascii_graphic());
    let shown = match is_shown {
        true => format!("{} {key}", kind.as_str()),
        false => format!(
            "{} of {} characters of {DOMAIN}",
            kind.as_str(),
            key.chars().count()
        ),
    };
    let advice = match nearest {
        Some((meant, of)) => format!("perhaps {} {meant} is meant", of.as_str()),
        None => "correct its name, or take it off".to_owned(),
    };
    Some(format!("{shown} is not known and has no effect: {advice}"))
}

/// The key that users may set whose name is nearest to this one, if any is near.
fn nearest(name: &str) -> Option<(&'static str, Kind)> {
    let settable = STATED.into_iter().map(|key| (key, Kind::Annotation));
    let candidates = std::iter::once((INJECT_LABEL, Kind::Label)).chain(settable);
    let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
    let distance = |key: &str| {
        let known = key.split_once('/').map_or(key, |(_, known)| known);
        let is_cut_off = name.len() >= MIN_BEGINNING && known.starts_with(&name);
        match is_cut_off {
            true => 1,
            false => strsim::damerau_levenshtein(&name, known),
        }
    };
    let (key, kind) = candidates.min_by_key(|(key, _)| distance(key))?;
    // A third of the letters may be wrong, or two.
    (distance(key) <= (name.len() / 3).max(2)).then_some((key, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(labels: &[&str], annotations: &[&str]) -> Vec<String> {
        let map = |keys: &[&str]| {
            let keys = keys.iter().map(|key| ((*key).to_owned(), "s3cret".to_owned()));
            Some(keys.collect())
        };
        let mut pod = Pod::default();
        pod.metadata.labels = map(labels);
        pod.metadata.annotations = map(annotations);
        warnings(&pod)
            .into_iter()
            .map(|warning| warning.message)
            .collect()
    }

    #[test]
    fn a_misspelt_key_is_told_with_the_nearest_one_that_users_may_set() {
        for (key, meant) in [
            ("mcpauth.dev/config-pth", "the annotation mcpauth.dev/config-path"),
            ("mcpauth.dev/configPath", "the annotation mcpauth.dev/config-path"),
            ("mcpauth.dev/Inbound", "the annotation mcpauth.dev/inbound"),
            (
                "mcpauth.dev/audit_output",
                "the annotation mcpauth.dev/audit-output",
            ),
            (
                "mcpauth.dev/start-timeout",
                "the annotation mcpauth.dev/start-timeout-seconds",
            ),
            ("mcpauth.dev/inject", "the label mcpauth.dev/inject"),
            ("mcpauth.dev/injection", "the label mcpauth.dev/inject"),
            ("mcp-auth.dev/container", "the annotation mcpauth.dev/container"),
            ("mcpauth.io/port", "the annotation mcpauth.dev/port"),
        ] {
            let expected =
                format!("the annotation {key} is not known and has no effect: perhaps {meant} is meant");
            assert_eq!(messages(&[], &[key]), [expected]);
        }
        assert_eq!(
            messages(&["mcpauth.dev/container", "mcpauth.dev/injct"], &[]),
            [
                "the label mcpauth.dev/container is not known and has no effect: perhaps the annotation \
                 mcpauth.dev/container is meant",
                "the label mcpauth.dev/injct is not known and has no effect: perhaps the label \
                 mcpauth.dev/inject is meant",
            ]
        );
        assert_eq!(
            messages(&[], &["mcpauth.dev/colour"]),
            [
                "the annotation mcpauth.dev/colour is not known and has no effect: correct its name, or take it off"
            ]
        );
    }

    #[test]
    fn keys_of_ours_and_of_others_are_no_news() {
        assert!(messages(&[INJECT_LABEL], &STATED).is_empty());
        assert!(messages(&[], &WRITTEN).is_empty());
        let others = [
            "port",
            "example.com/container",
            "sidecar.istio.io/inject",
            "prometheus.io/port",
            "mcpauth.example/colour",
            "oauth.dev/colour",
        ];
        assert!(messages(&others, &others).is_empty());
    }

    #[test]
    fn many_keys_and_long_ones_make_few_and_short_messages() {
        let many: Vec<String> = (0..9)
            .map(|number| format!("mcpauth.dev/colour-{number}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let told = messages(&[], &many);
        assert_eq!(told.len(), 4);
        assert!(told[3].starts_with("6 more "), "{}", told[3]);
        let long = format!("mcpauth.dev/{}", "x".repeat(5000));
        let with_break = "mcpauth.dev/a\nInjected: b";
        for key in [long.as_str(), with_break] {
            let told = messages(&[], &[key]).join("");
            assert!(
                told.len() < 200 && !told.contains('\n') && !told.contains("xxx"),
                "{told}"
            );
            assert!(!told.contains("s3cret"));
        }
    }
}
