//! Events for `kubectl describe`: one whenever status or reason of a condition change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use mcp_auth_crds::{McpServerAuthStatus, conditions, reasons};

/// Longest note Kubernetes takes, in bytes.
const MAX_NOTE: usize = 1024;

/// The events of a status that follows another.
pub fn events(before: Option<&McpServerAuthStatus>, after: &McpServerAuthStatus) -> Vec<Event> {
    // Ready only sums up the others, except where nothing else is judged.
    let condition_types = [
        conditions::TOKEN_ISSUED,
        conditions::SECRETS_RESOLVED,
        conditions::SIDECARS_SYNCED,
        conditions::SERVER_REACHABLE,
        conditions::CREDENTIAL_EXPIRING,
    ];
    let changed = condition_types.iter().filter_map(|type_| {
        let current = find(after, type_)?;
        let previous = before.and_then(|status| find(status, type_));
        let is_same = previous.is_some_and(|previous| {
            (&previous.status, &previous.reason) == (&current.status, &current.reason)
        });
        (!is_same).then_some(current)
    });
    let mut messages: Vec<&str> = Vec::new();
    let mut events = Vec::new();
    for condition in changed.filter(|condition| condition.status != "Unknown") {
        // A missing Secret fails the token too, for the same reason: once is enough.
        if !messages.contains(&condition.message.as_str()) {
            messages.push(&condition.message);
            events.push(event(condition));
        }
    }
    events
}

fn find<'a>(status: &'a McpServerAuthStatus, type_: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

fn event(condition: &Condition) -> Event {
    let is_normal = condition.status == "True" && !reasons::WARNINGS.contains(&condition.reason.as_str());
    let end = condition.message.floor_char_boundary(MAX_NOTE);
    Event {
        type_: if is_normal {
            EventType::Normal
        } else {
            EventType::Warning
        },
        reason: condition.reason.clone(),
        note: Some(condition.message[..end].to_owned()),
        action: condition.type_.clone(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(conditions: &[(&str, &str, &str, &str)]) -> McpServerAuthStatus {
        let condition = |(type_, status, reason, message): &(&str, &str, &str, &str)| Condition {
            type_: (*type_).into(),
            status: (*status).into(),
            reason: (*reason).into(),
            message: (*message).into(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        McpServerAuthStatus {
            conditions: conditions.iter().map(condition).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_renewed_token_is_no_event_and_a_failed_one_is() {
        let issued = status(&[("TokenIssued", "True", "Issued", "until 12:00")]);
        let renewed = status(&[("TokenIssued", "True", "Issued", "until 13:00")]);
        let failing = status(&[("TokenIssued", "True", "RenewalFailed", "invalid_client")]);
        assert_eq!(events(None, &issued).len(), 1);
        assert!(events(Some(&issued), &renewed).is_empty());
        let failed = events(Some(&renewed), &failing);
        assert_eq!(failed.len(), 1);
        assert!(matches!(failed[0].type_, EventType::Warning));
    }

    #[test]
    fn one_cause_is_told_once() {
        let missing = "Secret oauth does not exist";
        let status = status(&[
            ("SecretsResolved", "False", "SecretNotFound", missing),
            ("TokenIssued", "False", "SecretNotFound", missing),
        ]);
        assert_eq!(events(None, &status).len(), 1);
    }
}
