//! A line of the audit log (`docs/audit.md`): read as far as it is shown and filtered, and kept as it was written.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Deserialize;

/// What each audit line begins with; the sidecar's own log, which a pod's log holds too, does not.
const BEGINNING: &str = r#"{"schema":"mcpauth.dev/audit/"#;

#[derive(Clone, Debug)]
pub struct AuditLine {
    /// As it was written.
    pub text: String,
    pub fields: Fields,
    /// When the request came; the beginning of time where the line does not say it.
    time: Timestamp,
}

/// What is shown and filtered by. A newer version of the schema may lack some of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fields {
    pub time: String,
    pub pod: String,
    pub server: String,
    pub resource: String,
    pub http_method: String,
    pub method: Option<String>,
    pub tool: Option<String>,
    pub user: Option<User>,
    pub client_key: Option<String>,
    pub outcome: String,
    pub reason: Option<String>,
    pub status: Option<u16>,
    pub duration_ms: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct User {
    pub id: Option<String>,
    pub fingerprint: Option<String>,
    pub problem: Option<String>,
}

/// Which lines are wanted; what is not set lets all pass.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub server: Option<String>,
    pub user: Option<String>,
}

impl AuditLine {
    /// Nothing of a line that is none of the audit log, or was cut.
    pub fn read(text: &str) -> Option<Self> {
        if !text.starts_with(BEGINNING) {
            return None;
        }
        let fields: Fields = serde_json::from_str(text).ok()?;
        Some(Self {
            time: fields.time.parse().unwrap_or(Timestamp::MIN),
            text: text.to_owned(),
            fields,
        })
    }

    pub fn by_time(&self, other: &Self) -> Ordering {
        let pods = || self.fields.pod.cmp(&other.fields.pod);
        self.time.cmp(&other.time).then_with(pods)
    }
}

impl Filter {
    pub fn wants(&self, fields: &Fields) -> bool {
        let is_server = |name: &String| *name == fields.server || *name == fields.resource;
        let of_user = fields.user.iter().flat_map(|user| [&user.id, &user.fingerprint]);
        let names: Vec<&String> = of_user.chain([&fields.client_key]).flatten().collect();
        let is_user = |name: &String| names.contains(&name);
        self.server.as_ref().is_none_or(is_server) && self.user.as_ref().is_none_or(is_user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rest: &str) -> AuditLine {
        let text = format!(
            r#"{{"schema":"mcpauth.dev/audit/v1","time":"2026-11-29T17:50:00.123456Z","pod":"a","server":"tools","resource":"tools-auth"{rest}}}"#
        );
        AuditLine::read(&text).unwrap()
    }

    #[test]
    fn what_is_no_audit_line_is_passed_over() {
        let whole = line("").text;
        for text in [
            "",
            "INFO serving",
            r#"{"level":"info"}"#,
            &whole[..whole.len() - 3],
            &format!(" {whole}"),
        ] {
            assert!(AuditLine::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_newer_schema_is_shown_as_far_as_it_is_known() {
        let text = r#"{"schema":"mcpauth.dev/audit/v2","tool":"search"}"#;
        assert_eq!(
            AuditLine::read(text).unwrap().fields.tool.as_deref(),
            Some("search")
        );
    }

    #[test]
    fn servers_are_known_by_either_name_and_users_by_any_of_theirs() {
        let call = line(r#","user":{"id":"ada","fingerprint":"f1"},"clientKey":"k1""#);
        let by = |server: Option<&str>, user: Option<&str>| {
            let filter = Filter {
                server: server.map(str::to_owned),
                user: user.map(str::to_owned),
            };
            filter.wants(&call.fields)
        };
        assert!(by(None, None) && by(Some("tools"), None) && by(Some("tools-auth"), None));
        assert!(
            ["ada", "f1", "k1"]
                .iter()
                .all(|user| by(Some("tools"), Some(user)))
        );
        assert!(!by(Some("other"), None) && !by(None, Some("ad")) && !by(Some("other"), Some("ada")));
        let nobody = line("");
        let filter = Filter {
            server: None,
            user: Some(String::new()),
        };
        assert!(
            !filter.wants(&nobody.fields),
            "no user is not the user without a name"
        );
    }

    #[test]
    fn lines_are_ordered_by_the_time_of_the_request() {
        let early = AuditLine::read(r#"{"schema":"mcpauth.dev/audit/v1","time":"2026-11-29T17:49:59.9Z"}"#);
        assert_eq!(early.unwrap().by_time(&line("")), Ordering::Less);
    }
}
