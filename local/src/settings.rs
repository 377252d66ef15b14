//! Settings from the environment: the client registration in `MCP_OAUTH2_*`, which holds for all MCP servers that state
//! nothing of their own, and whether LiteLLM is to be run with mcp-auth at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use mcp_auth_protocol::pod::env;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// All of our own begin with it.
const PREFIX: &str = "MCP_OAUTH2_";
pub const TOKEN_URL: &str = "MCP_OAUTH2_TOKEN_URL";
const CLIENT_ID: &str = "MCP_OAUTH2_CLIENT_ID";
const CLIENT_SECRET: &str = "MCP_OAUTH2_CLIENT_SECRET";
const CLIENT_SECRET_FILE: &str = "MCP_OAUTH2_CLIENT_SECRET_FILE";
const SCOPE: &str = "MCP_OAUTH2_SCOPE";
const AUDIENCE: &str = "MCP_OAUTH2_AUDIENCE";
const RESOURCE: &str = "MCP_OAUTH2_RESOURCE";
const KNOWN: [&str; 7] = [
    TOKEN_URL,
    CLIENT_ID,
    CLIENT_SECRET,
    CLIENT_SECRET_FILE,
    SCOPE,
    AUDIENCE,
    RESOURCE,
];
const AUTO_PATCH: &str = "LITELLM_MCP_AUTH_AUTO_PATCH";
/// Behind a variable's name: the file that holds its value.
const FILE_SUFFIX: &str = "_FILE";
/// Secrets are short.
const MAX_FILE_BYTES: u64 = 64 * 1024;

#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("{AUTO_PATCH} must be true or false; it is a text of {0} characters")]
    AutoPatch(usize),
    #[error(
        "{set} is set, and {missing} is not: set {TOKEN_URL}, {CLIENT_ID} and {CLIENT_SECRET} (or \
             {CLIENT_SECRET_FILE}), or none of them"
    )]
    HalfSet { set: String, missing: &'static str },
    #[error("both {0} and {0}{FILE_SUFFIX} are set: leave one out")]
    Twice(&'static str),
    #[error("{0} is no setting of mcp-auth: there are {known}", known = KNOWN.join(", "))]
    Unknown(String),
    #[error("{variable} names a file that cannot be read: {kind}")]
    File { variable: String, kind: io::ErrorKind },
    #[error(
        "{variable} names no regular file: name one, since a pipe, such as the shell's <(...), or a device can be read \
         once at most, and changes of the secret are read again"
    )]
    NoFile { variable: String },
    #[error(
        "{field} refers to ${{{name}}}, which is not set: set {name}, or {name}_FILE to the file that holds it"
    )]
    Unset { field: String, name: String },
    #[error("{field} has a `${{` without a name and a `}}` behind it: write ${{NAME}}")]
    Reference { field: String },
    #[error("{field} is empty")]
    Empty { field: String },
    #[error(
        "{field} holds control characters or characters beyond ASCII ({bytes} bytes; RFC 6749 appendix A)"
    )]
    NotPrintable { field: String, bytes: usize },
}

/// The variables of the environment that are text.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

/// The client registration for servers that state none.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub token_url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    pub resource: Option<String>,
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Variables {
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }

    /// The value, where it is set to anything but the empty text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Whether it is there, be it empty.
    pub fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names of mcp-auth's own settings that are set.
    pub fn own_names(&self) -> impl Iterator<Item = &str> {
        let headers = |name: &str| name.strip_suffix(FILE_SUFFIX).unwrap_or(name) == env::OTLP_HEADERS;
        let is_own = move |name: &&str| name.starts_with(PREFIX) || *name == AUTO_PATCH || headers(name);
        self.0.keys().map(String::as_str).filter(is_own)
    }

    /// Whether LiteLLM is to be run with mcp-auth.
    pub fn auto_patch(&self) -> Result<bool, SettingsError> {
        let Some(text) = self.get(AUTO_PATCH) else {
            return Ok(true);
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            other => Err(SettingsError::AutoPatch(other.chars().count())),
        }
    }

    /// The value of a variable, or of the file that `NAME_FILE` names, without the line end behind it.
    fn secret(&self, name: &str) -> Result<Option<String>, SettingsError> {
        if let Some(value) = self.get(name) {
            return Ok(Some(value.to_owned()));
        }
        let variable = format!("{name}{FILE_SUFFIX}");
        let Some(path) = self.get(&variable) else {
            return Ok(None);
        };
        let cannot_read = |kind| SettingsError::File {
            variable: variable.clone(),
            kind,
        };
        let file = std::fs::metadata(path).map_err(|error| cannot_read(error.kind()))?;
        if !file.is_file() {
            // A pipe that nobody writes to would be waited for without an end.
            return Err(SettingsError::NoFile { variable });
        }
        if file.len() > MAX_FILE_BYTES {
            return Err(cannot_read(io::ErrorKind::FileTooLarge));
        }
        let text = std::fs::read_to_string(path).map_err(|error| cannot_read(error.kind()))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// The value of a setting, or of the file that `NAME_FILE` names; not of both.
    pub fn value_or_file(&self, name: &'static str) -> Result<Option<String>, SettingsError> {
        let file = format!("{name}{FILE_SUFFIX}");
        match self.get(name).is_some() && self.get(&file).is_some() {
            true => Err(SettingsError::Twice(name)),
            false => self.secret(name),
        }
    }

    /// The client registration of `MCP_OAUTH2_*`, if it is there.
    pub fn defaults(&self) -> Result<Option<Defaults>, SettingsError> {
        let set: Vec<&str> = self
            .own_names()
            .filter(|name| name.starts_with(PREFIX) && self.get(name).is_some())
            .collect();
        let Some(first) = set.first() else {
            return Ok(None);
        };
        if let Some(unknown) = set.iter().find(|name| !KNOWN.contains(name)) {
            return Err(SettingsError::Unknown((*unknown).to_owned()));
        }
        let missing = |missing| SettingsError::HalfSet {
            set: (*first).to_owned(),
            missing,
        };
        let secret = self
            .value_or_file(CLIENT_SECRET)?
            .ok_or_else(|| missing(CLIENT_SECRET))?;
        let field = match self.get(CLIENT_SECRET) {
            Some(_) => CLIENT_SECRET.to_owned(),
            None => format!("the file of {CLIENT_SECRET_FILE}"),
        };
        check_printable(&secret, &field)?;
        Ok(Some(Defaults {
            token_url: self.get(TOKEN_URL).ok_or_else(|| missing(TOKEN_URL))?.to_owned(),
            client_id: self.get(CLIENT_ID).ok_or_else(|| missing(CLIENT_ID))?.to_owned(),
            client_secret: secret.into(),
            scopes: self
                .get(SCOPE)
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
            audience: self.get(AUDIENCE).map(str::to_owned),
            resource: self.get(RESOURCE).map(str::to_owned),
        }))
    }

    /// The text with each `${NAME}` replaced. `used` gets the variables that were read for it.
    pub fn expand(
        &self,
        text: &str,
        field: &str,
        used: &mut BTreeSet<String>,
    ) -> Result<SecretString, SettingsError> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, reference)) = rest.split_once("${") {
            let (name, after) = reference.split_once('}').unwrap_or_default();
            let is_name = |name: &str| {
                name.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            if name.is_empty() || !is_name(name) {
                return Err(SettingsError::Reference {
                    field: field.to_owned(),
                });
            }
            let value = self.secret(name)?.ok_or_else(|| SettingsError::Unset {
                field: field.to_owned(),
                name: name.to_owned(),
            })?;
            used.extend(references(text));
            expanded.push_str(before);
            expanded.push_str(&value);
            rest = after;
        }
        expanded.push_str(rest);
        check_printable(&expanded, field)?;
        Ok(expanded.into())
    }

    /// As [`expand`](Self::expand), for what is no secret.
    pub fn expand_text(
        &self,
        text: &str,
        field: &str,
        used: &mut BTreeSet<String>,
    ) -> Result<String, SettingsError> {
        Ok(self.expand(text, field, used)?.expose_secret().to_owned())
    }
}

/// The variables that the `${NAME}` of a text may be taken from.
pub fn references(text: &str) -> impl Iterator<Item = String> {
    let names = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
    names.flat_map(|(name, _)| [name.to_owned(), format!("{name}{FILE_SUFFIX}")])
}

/// What goes into a header or a form.
fn check_printable(text: &str, field: &str) -> Result<(), SettingsError> {
    let field = field.to_owned();
    if text.is_empty() {
        return Err(SettingsError::Empty { field });
    }
    match text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true => Ok(()),
        false => Err(SettingsError::NotPrintable {
            field,
            bytes: text.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    const WHOLE: [(&str, &str); 3] = [
        (TOKEN_URL, "https://auth.example.com/token"),
        (CLIENT_ID, "litellm"),
        (CLIENT_SECRET, "s3cret"),
    ];

    fn with(more: &[(&str, &str)]) -> Variables {
        variables(&[&WHOLE, more].concat())
    }

    #[test]
    fn the_variables_are_a_client_registration() {
        assert!(variables(&[(AUTO_PATCH, "true")]).defaults().unwrap().is_none());
        let defaults = with(&[(SCOPE, " read  write"), (AUDIENCE, "tools")])
            .defaults()
            .unwrap()
            .unwrap();
        assert_eq!(defaults.token_url, "https://auth.example.com/token");
        assert_eq!(defaults.scopes, ["read", "write"]);
        assert_eq!(
            (defaults.audience.as_deref(), defaults.resource),
            (Some("tools"), None)
        );
        assert_eq!(defaults.client_secret.expose_secret(), "s3cret");
    }

    #[test]
    fn a_file_may_hold_the_secret_with_a_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let path = file.path().to_str().unwrap();
        let by_file = variables(&[WHOLE[0], WHOLE[1], (CLIENT_SECRET_FILE, path)]);
        assert_eq!(
            by_file.defaults().unwrap().unwrap().client_secret.expose_secret(),
            "from-file"
        );
        let message = with(&[(CLIENT_SECRET_FILE, path)])
            .defaults()
            .unwrap_err()
            .to_string();
        assert!(message.contains("leave one out"), "{message}");
        let gone = variables(&[WHOLE[0], WHOLE[1], (CLIENT_SECRET_FILE, "/does/not/exist")]);
        assert!(
            gone.defaults()
                .unwrap_err()
                .to_string()
                .starts_with(CLIENT_SECRET_FILE)
        );
    }

    #[test]
    fn a_secret_in_a_pipe_or_a_folder_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [pipe.as_path(), folder.path()] {
            let path = path.to_str().unwrap();
            let settings = variables(&[WHOLE[0], WHOLE[1], (CLIENT_SECRET_FILE, path)]);
            let message = settings.defaults().unwrap_err().to_string();
            assert!(
                message.starts_with("MCP_OAUTH2_CLIENT_SECRET_FILE names no regular file: name one"),
                "{message}"
            );
        }
    }

    #[test]
    fn half_set_and_unknown_variables_are_named() {
        for (pairs, expected) in [
            (&[WHOLE[0]][..], CLIENT_SECRET),
            (&[WHOLE[0], WHOLE[2]][..], CLIENT_ID),
            (&[WHOLE[1], WHOLE[2]][..], TOKEN_URL),
            (
                &[("MCP_OAUTH2_SECRET", "s3cret")][..],
                "MCP_OAUTH2_SECRET is no setting",
            ),
            (
                &[WHOLE[0], WHOLE[1], (CLIENT_SECRET, "p\u{e4}ss")][..],
                "beyond ASCII",
            ),
        ] {
            let message = variables(pairs).defaults().unwrap_err().to_string();
            assert!(
                message.contains(expected) && !message.contains("s3cret"),
                "{message}"
            );
        }
    }

    #[test]
    fn references_are_replaced_and_what_is_wrong_with_them_is_named() {
        let variables = variables(&[("SECRET", "s3cret"), ("EMPTY", "")]);
        let mut used = BTreeSet::new();
        let mut expand = |text: &str| variables.expand_text(text, "the field", &mut used);
        assert_eq!(expand("${SECRET}").unwrap(), "s3cret");
        assert_eq!(expand("a-${SECRET}-$b").unwrap(), "a-s3cret-$b");
        for (text, expected) in [
            ("${OTHER}", "the field refers to ${OTHER}, which is not set"),
            ("${EMPTY}", "which is not set"),
            ("${", "write ${NAME}"),
            ("${a b}", "write ${NAME}"),
            ("", "the field is empty"),
        ] {
            let message = expand(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(used.contains("SECRET") && !used.contains("OTHER"));
    }

    #[test]
    fn the_switch_is_a_boolean_and_nothing_else() {
        for (text, expected) in [("true", true), ("False", false), ("0", false), ("", true)] {
            assert_eq!(
                variables(&[(AUTO_PATCH, text)]).auto_patch().unwrap(),
                expected,
                "{text}"
            );
        }
        let message = variables(&[(AUTO_PATCH, "maybe")])
            .auto_patch()
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("true or false") && !message.contains("maybe"),
            "{message}"
        );
    }
}
