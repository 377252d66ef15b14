//! The report of `token` for people.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mcp_auth_crds::TokenClaims;

use super::report::TokenReport;
use crate::output::{BAD, Cell, GOOD, HEADING, UNKNOWN, WARNING, clean, duration, paint, table};
use crate::token_summary::TokenSummary;

pub fn render(reports: &[TokenReport]) -> String {
    let texts: Vec<String> = reports.iter().map(report).collect();
    texts.join("\n")
}

fn report(report: &TokenReport) -> String {
    let title = format!(
        "{}/{}, the server {} at {}",
        report.namespace, report.resource, report.server, report.url
    );
    let mut text = format!("{}\n", paint(&title, HEADING));
    let style = match report.issued.as_str() {
        "True" => GOOD,
        "False" => BAD,
        _ => UNKNOWN,
    };
    let state = paint(&report.reason, style);
    let _ = writeln!(text, "{state}: {}\n", clean(&report.message));
    match &report.token {
        None => text.push_str("There is no token.\n"),
        Some(token) => text.push_str(&facts(token)),
    }
    if let Some(note) = &report.note {
        let _ = writeln!(text, "\n{} {}", paint("Note:", WARNING), clean(note));
    }
    text
}

fn facts(token: &TokenSummary) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            rows.push(vec![Cell::from(name), Cell::from(value)]);
        }
    };
    row("type", token.r#type.clone());
    row("format", token.format.as_deref().map(format));
    row("scope granted", token.scope.clone());
    row("issued at", token.issued_at.clone());
    let left = |seconds: i64| match seconds {
        ..=0 => "it has expired".to_owned(),
        seconds => format!("in {}", duration(seconds)),
    };
    let end = token.expires_at.as_ref().zip(token.expires_in_seconds);
    let unknown = "unknown: the authorization server does not say".to_owned();
    row(
        "expires at",
        Some(end.map_or(unknown, |(at, seconds)| format!("{at} ({})", left(seconds)))),
    );
    row("next renewal", token.next_refresh_at.clone());
    let mut text = table(&["FACT", "VALUE"], &rows);
    if let Some(claims) = &token.claims {
        text.push('\n');
        text.push_str(&claims_table(claims));
    }
    text
}

fn format(format: &str) -> String {
    match format {
        "JWT" => "JWT: its claims are below; the MCP server verifies the signature".to_owned(),
        "Opaque" => {
            "opaque: it has no claims to read, only its authorization server knows what it says".to_owned()
        }
        other => other.to_owned(),
    }
}

fn claims_table(claims: &TokenClaims) -> String {
    let list = |values: &[String]| (!values.is_empty()).then(|| values.join(" "));
    let time = |time: &Option<Time>| time.as_ref().map(|time| time.0.to_string());
    let all = [
        ("iss", claims.issuer.clone()),
        ("sub", claims.subject.clone()),
        ("client_id", claims.client_id.clone()),
        ("aud", list(&claims.audience)),
        ("scope", list(&claims.scope)),
        ("iat", time(&claims.issued_at)),
        ("nbf", time(&claims.not_before)),
        ("exp", time(&claims.expires_at)),
        ("cnf.jkt", claims.key_thumbprint.clone()),
        ("cnf.x5t#S256", claims.certificate_thumbprint.clone()),
    ];
    let rows: Vec<Vec<Cell>> = all
        .into_iter()
        .filter_map(|(name, value)| Some(vec![Cell::from(name), Cell::from(value?)]))
        .collect();
    match rows.is_empty() {
        true => "None of the claims that standards define is in it.\n".to_owned(),
        false => table(&["CLAIM", "VALUE"], &rows),
    }
}
