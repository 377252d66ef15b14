//! What a check found, as lines for people and as JSON for programs.

use serde::Serialize;

use crate::servers::NO_SERVER;

/// One of the five criteria.
#[derive(Debug, Serialize)]
pub struct Criterion {
    pub name: &'static str,
    #[serde(skip)]
    title: &'static str,
    pub holds: bool,
    /// What was found, or what is wrong and the way out.
    pub message: String,
    /// The same for each server, where it is looked at for each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerFinding>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ServerFinding {
    pub server: String,
    pub holds: bool,
    pub message: String,
    /// What is to be looked at, though it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether all hold.
    pub holds: bool,
    pub criteria: Vec<Criterion>,
}

/// What was found, or what is wrong.
pub type Finding = Result<String, String>;

/// The criteria in their order, by name and title.
#[derive(Clone, Copy, Debug)]
pub enum Name {
    LitellmUnmodified,
    OAuth2Works,
    ConfigurationLoads,
    HeadersArrive,
    ServersAccept,
}

impl Name {
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::LitellmUnmodified => ("litellm-unmodified", "LiteLLM is unmodified"),
            Self::OAuth2Works => ("oauth2-works", "OAuth2 works"),
            Self::ConfigurationLoads => ("configuration-loads", "The configuration loads"),
            Self::HeadersArrive => ("headers-arrive", "Headers are built and arrive"),
            Self::ServersAccept => ("servers-accept", "MCP client and servers take them"),
        }
    }
}

impl Criterion {
    pub fn new(criterion: Name, finding: Finding) -> Self {
        let (name, title) = criterion.texts();
        Self {
            name,
            title,
            holds: finding.is_ok(),
            message: finding.unwrap_or_else(|problem| problem),
            servers: Vec::new(),
        }
    }

    /// Holds if it holds for each server.
    pub fn of_servers(criterion: Name, servers: Vec<ServerFinding>) -> Self {
        let failed = servers.iter().filter(|finding| !finding.holds).count();
        let count = servers.len();
        let finding = match (count, failed) {
            (0, _) => Err(NO_SERVER.to_owned()),
            (_, 0) => Ok(format!("{count} of {count} servers")),
            _ => Err(format!("{} of {count} servers", count - failed)),
        };
        Self {
            servers,
            ..Self::new(criterion, finding)
        }
    }
}

impl ServerFinding {
    pub fn new(server: &str, finding: Finding) -> Self {
        Self {
            server: server.to_owned(),
            holds: finding.is_ok(),
            message: finding.unwrap_or_else(|problem| problem),
            warning: None,
        }
    }
}

impl Report {
    pub fn new(criteria: Vec<Criterion>) -> Self {
        Self {
            holds: criteria.iter().all(|criterion| criterion.holds),
            criteria,
        }
    }

    /// Nothing but that the configuration does not load is known, since LiteLLM was not started.
    pub fn not_loaded(problem: &str) -> Self {
        let unknown = |criterion| {
            let finding = "not known, since the configuration does not load".to_owned();
            Criterion::new(criterion, Err(finding))
        };
        Self::new(vec![
            unknown(Name::LitellmUnmodified),
            unknown(Name::OAuth2Works),
            Criterion::new(Name::ConfigurationLoads, Err(problem.to_owned())),
            unknown(Name::HeadersArrive),
            unknown(Name::ServersAccept),
        ])
    }

    pub fn to_text(&self) -> String {
        let mark = |holds: bool| if holds { '✓' } else { '✗' };
        let mut text = String::new();
        for criterion in &self.criteria {
            let Criterion { title, message, .. } = criterion;
            text += &format!("{} {title}: {}\n", mark(criterion.holds), one_line(message));
            for ServerFinding {
                server,
                holds,
                message,
                warning,
            } in &criterion.servers
            {
                let warning = warning
                    .as_deref()
                    .map_or_else(String::new, |warning| format!(". Warning: {warning}"));
                text += &format!("    {} {server}: {}{warning}\n", mark(*holds), one_line(message));
            }
        }
        text
    }

    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.unwrap_or_default() + "\n"
    }
}

/// Servers' texts may hold what a terminal obeys.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_lines_and_programs_get_json() {
        let servers = vec![
            ServerFinding {
                warning: Some("it is open".to_owned()),
                ..ServerFinding::new("tools", Ok("a token".into()))
            },
            ServerFinding::new("other", Err("refused\n\u{1b}[2J: look".into())),
            ServerFinding::new("third", Err("refused".into())),
        ];
        let report = Report::new(vec![
            Criterion::new(Name::LitellmUnmodified, Ok("1.110.2".into())),
            Criterion::of_servers(Name::OAuth2Works, servers),
            Criterion::of_servers(Name::ServersAccept, Vec::new()),
        ]);
        assert!(!report.holds);
        let text = report.to_text();
        assert!(text.starts_with(
            "✓ LiteLLM is unmodified: 1.110.2\n✗ OAuth2 works: 1 of 3 servers\n    ✓ tools: a token. Warning: it is open\n    \
             ✗ other: refused  [2J: look\n    ✗ third: refused\n✗ MCP client and servers take them: no MCP server"
        ));
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["holds"], false);
        assert_eq!(json["criteria"][1]["name"], "oauth2-works");
        assert_eq!(json["criteria"][1]["servers"][1]["server"], "other");
        assert!(json["criteria"][0].get("servers").is_none());
    }
}
