//! Reads what a newer or older version wrote: each entry of a list by itself. Errors of serde quote their input,
//! which holds tokens, so that none of them is kept.

use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use thiserror::Error;

use super::{
    Capability, Credential, Route, Server, ServerAddresses, Snapshot, SnapshotDelta, SnapshotLine,
    UnreadablePart, UnreadableServer,
};

/// A line downwards with its servers not read yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    revision: String,
    /// Of a delta only.
    base: Option<String>,
    /// Of a whole snapshot only.
    operator_ca: Option<String>,
    #[serde(default, deserialize_with = "readable_entries")]
    capabilities: Vec<Capability>,
    #[serde(default)]
    fingerprint_key: Option<SecretString>,
    servers: Vec<Value>,
    #[serde(default)]
    removed: Vec<String>,
    #[serde(default)]
    sent_at: Value,
}

#[derive(Debug, Error)]
pub(super) enum LineError {
    #[error("missing field `operatorCa`")]
    NoOperatorCa,
    #[error("a delta stands where a whole snapshot belongs")]
    NotWhole,
}

impl TryFrom<Line> for SnapshotLine {
    type Error = LineError;

    fn try_from(line: Line) -> Result<Self, LineError> {
        let mut servers = Vec::with_capacity(line.servers.len());
        let mut unreadable = Vec::new();
        for entry in line.servers {
            let (server, problem) = read_server(entry);
            servers.extend(server);
            unreadable.extend(problem);
        }
        let (revision, sent_at) = (line.revision, line.sent_at.as_i64());
        Ok(match line.base {
            Some(base) => Self::Delta(SnapshotDelta {
                revision,
                base,
                servers,
                removed: line.removed,
                sent_at,
                unreadable,
            }),
            None => Self::Whole(Snapshot {
                revision,
                operator_ca: line.operator_ca.ok_or(LineError::NoOperatorCa)?,
                capabilities: line.capabilities,
                fingerprint_key: line.fingerprint_key,
                servers,
                sent_at,
                unreadable,
            }),
        })
    }
}

impl TryFrom<Line> for Snapshot {
    type Error = LineError;

    fn try_from(line: Line) -> Result<Self, LineError> {
        match SnapshotLine::try_from(line)? {
            SnapshotLine::Whole(snapshot) => Ok(snapshot),
            SnapshotLine::Delta(_) => Err(LineError::NotWhole),
        }
    }
}

/// The entries of a list that can be read.
pub(super) fn readable_entries<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let entries = Vec::<Value>::deserialize(deserializer)?;
    Ok(entries.into_iter().filter_map(read).collect())
}

fn read_server(mut entry: Value) -> (Option<Server>, Option<UnreadableServer>) {
    // A refusal of another kind says no more than none.
    let declined = entry
        .as_object_mut()
        .and_then(|fields| fields.remove("declined"))
        .and_then(read);
    let text = |field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
    let (name, resource_uid) = (text("server"), text("resourceUid"));
    // What is not understood allows no more than the strictest that is.
    let addresses = entry
        .get("addresses")
        .map(|stated| read(stated.clone()).unwrap_or(ServerAddresses::Public));
    let route: Option<Route> = read(entry.clone());
    let unreadable = |part| UnreadableServer { server: name, part };
    match (read::<Server>(entry), route) {
        (Some(server), _) => (Some(Server { declined, ..server }), None),
        (None, Some(route)) => {
            let server = Server {
                credential: Credential::Unavailable {
                    reason: "SidecarTooOld".to_owned(),
                    message: format!(
                        "the sidecar is of another version than the operator and does not understand its \
                         credential for {}: restart the pod, so that it gets the newer sidecar",
                        route.server
                    ),
                    keep: true,
                },
                resource_uid,
                client_certificate: None,
                egress_proxy: None,
                addresses,
                declined,
                route,
            };
            (Some(server), Some(unreadable(UnreadablePart::Credential)))
        }
        (None, None) => (None, Some(unreadable(UnreadablePart::Route))),
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Report;
    use super::*;

    fn server(name: &str, credential: Value) -> Value {
        json!({
            "resource": name, "server": name, "url": "https://tools.example.com/mcp",
            "transport": "StreamableHttp", "credential": credential,
        })
    }

    fn bearer() -> Value {
        json!({"kind": "bearer", "id": "a7", "token": "t0p-s3cret"})
    }

    fn snapshot(servers: Value) -> Snapshot {
        serde_json::from_value(json!({"revision": "1", "operatorCa": "", "servers": servers})).unwrap()
    }

    #[test]
    fn an_older_or_odd_sender_says_nothing_of_its_clock() {
        assert_eq!(snapshot(json!([])).sent_at, None);
        let odd = json!({"revision": "1", "operatorCa": "", "servers": [], "sentAt": "noon"});
        assert_eq!(serde_json::from_value::<Snapshot>(odd).unwrap().sent_at, None);
        let stated = json!({"revision": "1", "operatorCa": "", "servers": [], "sentAt": 7});
        assert_eq!(
            serde_json::from_value::<Snapshot>(stated).unwrap().sent_at,
            Some(7)
        );
    }

    #[test]
    fn addresses_that_are_not_understood_are_the_public_ones_and_an_older_sender_says_none() {
        let stated = |addresses: Value| {
            let mut tools = server("tools", bearer());
            tools["addresses"] = addresses;
            snapshot(json!([tools])).servers.remove(0)
        };
        assert_eq!(
            stated(json!("NotLoopback")).addresses,
            Some(ServerAddresses::NotLoopback)
        );
        let odd = stated(json!("OfThisRegion"));
        assert_eq!(odd.addresses, Some(ServerAddresses::Public));
        assert!(matches!(
            odd.credential,
            Credential::Unavailable { keep: true, .. }
        ));
        assert_eq!(
            snapshot(json!([server("tools", bearer())])).servers[0].addresses,
            None
        );
    }

    #[test]
    fn a_credential_of_an_unknown_kind_costs_its_server_the_credential_and_no_other_server_anything() {
        let read = snapshot(json!([
            server("mail", json!({"kind": "macaroon", "value": "s3cret"})),
            server("tools", bearer()),
        ]));
        let [mail, tools] = &read.servers[..] else {
            panic!("{read:?}")
        };
        let Credential::Unavailable {
            reason,
            message,
            keep,
        } = &mail.credential
        else {
            panic!("{mail:?}")
        };
        assert_eq!((reason.as_str(), *keep), ("SidecarTooOld", true));
        assert!(
            message.contains("restart the pod") && !message.contains("s3cret"),
            "{message}"
        );
        assert!(matches!(tools.credential, Credential::Bearer { .. }));
        assert_eq!(
            read.unreadable,
            [UnreadableServer {
                server: Some("mail".into()),
                part: UnreadablePart::Credential
            }]
        );
    }

    #[test]
    fn a_server_by_an_unknown_transport_is_left_out_and_named() {
        let mut quic = server("mail", bearer());
        quic["transport"] = json!("Quic");
        let read = snapshot(json!([quic, server("tools", bearer()), 7]));
        assert_eq!(read.servers.len(), 1);
        assert_eq!(read.servers[0].route.server, "tools");
        let names: Vec<_> = read
            .unreadable
            .iter()
            .map(|entry| entry.server.as_deref())
            .collect();
        assert_eq!(names, [Some("mail"), None]);
    }

    #[test]
    fn an_unknown_cause_in_a_declined_refresh_leaves_the_token_in_use() {
        let mut tools = server("tools", bearer());
        tools["declined"] = json!({"token": "a7", "why": "fullMoon", "message": "no"});
        let read = snapshot(json!([tools]));
        assert_eq!(read.servers[0].declined, None);
        assert!(matches!(read.servers[0].credential, Credential::Bearer { .. }));
        assert!(read.unreadable.is_empty());
    }

    #[test]
    fn an_unknown_cause_in_a_report_costs_that_entry_alone() {
        let report: Report = serde_json::from_value(json!({
            "pod": {"namespace": "apps", "name": "litellm-0", "uid": "u"},
            "version": "9.0.0",
            "refused": [
                {"server": "mail", "token": "1", "why": "fullMoon"},
                {"server": "tools", "token": "2", "why": "unauthorized"},
            ],
            "problems": [{"reason": 7}, {"reason": "PortTaken", "message": "by another"}],
            "restartNeededFor": ["tools", {"name": "mail"}],
            "invented": {"later": true},
        }))
        .unwrap();
        let refused: Vec<_> = report.refused.iter().map(|token| token.server.as_str()).collect();
        assert_eq!(refused, ["tools"]);
        assert_eq!(report.problems.len(), 1);
        assert_eq!(report.restart_needed_for, ["tools"]);
    }
}
