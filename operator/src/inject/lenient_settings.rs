//! Settings of sidecars that a chart of another version wrote: what this version does not know is left out and named, so that a
//! replica of before, whose container starts again in the middle of an upgrade, serves on. Whoever writes settings by hand
//! hears of a misspelt one as an error ([`Settings::from_json`]), and whoever installs the chart by the schema of its values.

use std::fmt;

use serde_json::Value;

use super::settings::{Settings, SettingsError};

/// The fields of each object of the settings. A test compares them with what [`Settings`] knows.
const KNOWN: [(&str, &[&str]); 5] = [
    (
        "",
        &[
            "image",
            "imagePullPolicy",
            "imagePullSecrets",
            "resources",
            "securityContext",
            "audit",
            "otlp",
            "startTimeoutSeconds",
            "drainSeconds",
            "log",
        ],
    ),
    ("audit", &["output", "volume"]),
    ("otlp", &["endpoint", "headersSecret", "caBundle", "tracing"]),
    ("otlp.headersSecret", &["name", "key"]),
    ("resources", &["requests", "limits"]),
];
/// A longer name is not repeated.
const MAX_NAME_BYTES: usize = 80;

/// A setting that this version does not know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownSetting {
    path: String,
    /// The known one whose name is nearest, if any is near.
    nearest: Option<String>,
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.len() {
            0..=MAX_NAME_BYTES => write!(formatter, "{:?}", self.path)?,
            bytes => write!(formatter, "a name of {bytes} bytes")?,
        }
        formatter.write_str(" is not known to this version and has no effect")?;
        match &self.nearest {
            Some(nearest) => write!(formatter, ": perhaps {nearest:?} is meant"),
            None => formatter.write_str(", as with a chart of a later version"),
        }
    }
}

/// The settings, and what stands there besides.
pub fn read(text: &str) -> Result<(Settings, Vec<UnknownSetting>), SettingsError> {
    let mut value: Value = serde_json::from_str(text)?;
    let mut unknown = Vec::new();
    take_unknown(&mut value, "", &mut unknown);
    // The text where nothing was taken out: its errors then name the line.
    let settings = match unknown.is_empty() {
        true => Settings::from_json(text)?,
        false => Settings::from_json(&value.to_string())?,
    };
    Ok((settings, unknown))
}

fn take_unknown(value: &mut Value, path: &str, unknown: &mut Vec<UnknownSetting>) {
    let Some((_, known)) = KNOWN.iter().find(|(of, _)| *of == path) else {
        return;
    };
    let Value::Object(fields) = value else { return };
    let join = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    fields.retain(|name, _| {
        let is_known = known.contains(&name.as_str());
        if !is_known {
            unknown.push(UnknownSetting {
                path: join(name),
                nearest: nearest(name, known).map(join),
            });
        }
        is_known
    });
    for (name, field) in fields {
        take_unknown(field, &join(name), unknown);
    }
}

/// A third of the letters may be wrong, or two.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, &known.to_ascii_lowercase());
    let nearest = known.iter().copied().min_by_key(|known| distance(known))?;
    (distance(nearest) <= (name.len() / 3).max(2)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_a_later_chart_are_read_without_what_this_version_does_not_know() {
        let text = json!({
            "image": "sidecar:1", "drainSecond": 9, "startTimeoutSeconds": 7,
            "audit": {"output": "file", "volume": "logs", "rotation": {"days": 3}},
            "otlp": {"headersSecret": {"name": "", "key": "", "optional": true}},
            "resources": {"limits": {"cpu": "1"}, "claims": []},
            "x".repeat(200): 1,
        });
        let (settings, unknown) = read(&text.to_string()).unwrap();
        assert_eq!((settings.start_timeout_seconds, settings.drain_seconds), (7, 5));
        assert_eq!(settings.audit.volume(), Some("logs"));
        assert!(settings.resources.limits.is_some());
        let told: Vec<_> = unknown.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 5, "{told:#?}");
        for expected in [
            "\"drainSecond\" is not known to this version and has no effect: perhaps \"drainSeconds\" is meant",
            "\"audit.rotation\" is not known to this version and has no effect, as with a chart of a later version",
            "\"otlp.headersSecret.optional\"",
            "\"resources.claims\"",
            "a name of 200 bytes is not known",
        ] {
            assert!(
                told.iter().any(|told| told.starts_with(expected)),
                "{expected}: {told:#?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_an_error_as_it_is_without_anything_unknown() {
        for (text, expected) in [
            (r#"{"drain": 5}"#, "missing field `image`"),
            (
                r#"{"image": "sidecar:1", "drain": 5, "drainSeconds": 86400}"#,
                "drainSeconds",
            ),
            (r#"{"image": "sidecar:1", "drainSeconds": "x"}"#, "line 1"),
            ("{", "EOF"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    /// What serde says of a field that no version has names all that there are.
    #[test]
    fn every_field_of_the_settings_is_known_here() {
        for (path, known) in KNOWN {
            let mut text = json!({"image": "sidecar:1"});
            let mut object = &mut text;
            for name in path.split('.').filter(|name| !name.is_empty()) {
                object[name] = json!({});
                object = &mut object[name];
            }
            object["noSuchField"] = json!(1);
            let error = Settings::from_json(&text.to_string()).unwrap_err().to_string();
            let (_, named) = error.split_once("expected ").unwrap();
            let mut named: Vec<_> = named.split('`').skip(1).step_by(2).collect();
            let mut known = known.to_vec();
            named.sort_unstable();
            known.sort_unstable();
            assert_eq!(named, known, "{path:?}: {error}");
        }
    }
}
