//! Settings of sidecars that a chart of another version wrote: what this version does not know is left out and named, so that a
//! replica of before, whose container starts again in the middle of an upgrade, serves on. Whoever writes settings by hand
//! hears of a misspelt one as an error ([`Settings::from_json`]), and whoever installs the chart by the schema of its values.

use std::fmt;

use serde_json::Value;

use super::settings::{Settings, SettingsError};

/// The fields of each object of the settings. A test compares them with what [`Settings`] knows.
const KNOWN: [(&str, &[&str]); 10] = [
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
            "sharedMemory",
            "startTimeoutSeconds",
            "drainSeconds",
            "log",
        ],
    ),
    ("audit", &["output", "volume"]),
    ("otlp", &["endpoint", "headersSecret", "caBundle", "tracing"]),
    ("otlp.headersSecret", &["name", "key"]),
    ("resources", &["requests", "limits"]),
    (
        "securityContext",
        &[
            "runAsUser",
            "runAsGroup",
            "seccompProfile",
            "appArmorProfile",
            "seLinuxOptions",
            "runAsNonRoot",
            "readOnlyRootFilesystem",
            "allowPrivilegeEscalation",
            "privileged",
            "capabilities",
        ],
    ),
    ("securityContext.seccompProfile", PROFILE),
    ("securityContext.appArmorProfile", PROFILE),
    ("securityContext.seLinuxOptions", &["level", "type"]),
    ("securityContext.capabilities", &["drop"]),
];
const PROFILE: &[&str] = &["type", "localhostProfile"];
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

    /// Settings in which every field is set, so that there is no object of them that is not walked through.
    fn all_settings() -> Value {
        json!({
            "image": "sidecar:1",
            "imagePullPolicy": "Always",
            "imagePullSecrets": ["pull"],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
            "securityContext": {
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "seccompProfile": {"type": "Localhost", "localhostProfile": "profile.json"},
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "profile"},
                "seLinuxOptions": {"level": "s0:c1,c2", "type": "container_t"},
                "runAsNonRoot": true,
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "privileged": false,
                "capabilities": {"drop": ["ALL"]},
            },
            "audit": {"output": "file", "volume": "logs"},
            "otlp": {
                "endpoint": "https://otlp.example.com:4318",
                "headersSecret": {"name": "headers", "key": "headers"},
                "caBundle": "-----BEGIN CERTIFICATE-----",
                "tracing": true,
            },
            "sharedMemory": true,
            "startTimeoutSeconds": 7,
            "drainSeconds": 7,
            "log": "info",
        })
    }

    /// Paths of all objects but those whose names are anybody's, which are resources of Kubernetes.
    fn objects(of: &Value, path: &str, found: &mut Vec<String>) {
        let Some(fields) = of.as_object() else { return };
        found.push(path.to_owned());
        for (name, field) in fields {
            let path = format!("{path}/{name}");
            if !["/resources/requests", "/resources/limits"].contains(&&*path) {
                objects(field, &path, found);
            }
        }
    }

    #[test]
    fn a_field_of_a_later_chart_stops_no_replica_wherever_it_stands() {
        let all = all_settings();
        let (expected, unknown) = read(&all.to_string()).unwrap();
        assert_eq!(unknown, [], "all fields are known");
        assert_eq!(expected, Settings::from_json(&all.to_string()).unwrap());
        let mut paths = Vec::new();
        objects(&all, "", &mut paths);
        assert_eq!(paths.len(), KNOWN.len(), "{paths:?}");
        for path in paths {
            let mut later = all.clone();
            later.pointer_mut(&path).unwrap()["fieldOfTomorrow"] = json!(1);
            assert!(
                Settings::from_json(&later.to_string()).is_err(),
                "{path}: by hand it is an error"
            );
            let (settings, unknown) = read(&later.to_string()).unwrap();
            assert_eq!(settings, expected, "{path}");
            let told = format!("{path}/fieldOfTomorrow")[1..].replace('/', ".");
            assert_eq!(unknown.len(), 1, "{path}");
            assert_eq!(unknown[0].path, told);
        }
    }

    /// What is said of a field that no version has names all that there are.
    #[test]
    fn every_field_of_the_settings_is_known_and_walked_through_here() {
        for (path, known) in KNOWN {
            let pointer = match path {
                "" => String::new(),
                path => format!("/{}", path.replace('.', "/")),
            };
            let mut all = all_settings();
            let object = all.pointer_mut(&pointer).unwrap();
            let set: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
            object["noSuchField"] = json!(1);
            let error = Settings::from_json(&all.to_string()).unwrap_err().to_string();
            let mut named: Vec<_> = match (error.split_once("expected "), error.split_once("takes ")) {
                (Some((_, named)), _) => named.split('`').skip(1).step_by(2).collect(),
                (None, Some((_, named))) => {
                    let end = named.find(" at line").unwrap_or(named.len());
                    named[..end].split(", ").collect()
                }
                // A part of the security context, whose values are told as a whole.
                (None, None) => known.to_vec(),
            };
            let (mut known, mut set) = (known.to_vec(), set);
            named.sort_unstable();
            known.sort_unstable();
            set.sort_unstable();
            assert_eq!(named, known, "{path:?}: {error}");
            assert_eq!(set, known, "{path:?} is set whole above");
        }
    }
}
