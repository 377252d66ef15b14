//! `ServerReachable`: what the sidecars of the selected pods have learned of the MCP server. Its reasons are the
//! states of [`Reachability`].

use jiff::Timestamp;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::reachability::Reachability;

use super::pod_classes::PodClass;
use super::selection::Selection;
use super::{ConditionDraft, StatusInputs, first_draft};

const CHECKS: &[for<'a> fn(&Selection<'a>) -> Option<ConditionDraft>] =
    &[awaited, unreachable, reached, not_contacted];

pub(super) fn server_reachable(inputs: &StatusInputs<'_>) -> ConditionDraft {
    let Some(pods) = &inputs.pods else {
        let message = "the selected pods are being listed";
        return ConditionDraft::new(conditions::SERVER_REACHABLE, None, reasons::PENDING, message);
    };
    first_draft(CHECKS, &Selection { inputs, pods })
}

fn draft(holds: Option<bool>, state: Reachability, message: String) -> Option<ConditionDraft> {
    let type_ = conditions::SERVER_REACHABLE;
    Some(ConditionDraft::new(type_, holds, state.reason(), message))
}

fn awaited(selection: &Selection<'_>) -> Option<ConditionDraft> {
    if !selection.classes().any(PodClass::is_awaited) {
        return None;
    }
    selection.kept_while_awaited(conditions::SERVER_REACHABLE)
}

fn unreachable(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let (&state, failing) = selection.pods.learned.failing.first_key_value()?;
    let (pods, first) = (failing.names.list()?, &failing.first);
    let since = Timestamp::from_second(first.since).unwrap_or_default();
    let detail = match first.detail.as_str() {
        "" => String::new(),
        detail => format!(" ({detail})"),
    };
    let url = &selection.inputs.resource.spec.server.url;
    let message = format!(
        "{pods} cannot reach {url} since {since}: {}{detail}. {}",
        what(state),
        advice(state)
    );
    draft(Some(false), state, message)
}

fn reached(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let (learned, total) = (&selection.pods.learned, selection.total());
    if let Some(first) = learned.answered_since {
        let first = Timestamp::from_second(first).unwrap_or_default();
        let message = format!(
            "the MCP server answers {} of {total} sidecars, the first since {first}",
            learned.answered
        );
        return draft(Some(true), Reachability::Answered, message);
    }
    let connected = learned.connected;
    (connected > 0).then_some(())?;
    let message = format!(
        "the MCP server takes connections of {connected} of {total} sidecars, and LiteLLM has not called it through \
         them since. If LiteLLM calls it all the same, it does so past the sidecar, as with a server of the same name \
         in its database: remove that one"
    );
    draft(Some(true), Reachability::Connected, message)
}

fn not_contacted(_: &Selection<'_>) -> Option<ConditionDraft> {
    let message = "no sidecar has spoken to the MCP server yet";
    draft(None, Reachability::NotContacted, message.to_owned())
}

fn what(state: Reachability) -> &'static str {
    match state {
        Reachability::NotContacted => "no connection has been tried",
        Reachability::Connected => "it takes connections",
        Reachability::Answered => "it answers",
        Reachability::NameNotResolved => "its host name does not resolve",
        Reachability::ConnectionFailed => "it takes no connection",
        Reachability::ConnectionTimedOut => "a connection is not opened in time",
        Reachability::CertificateNotTrusted => "its certificate is not trusted",
        Reachability::CertificateForOtherHost => "its certificate is for another host name",
        Reachability::CertificateExpired => "its certificate is not valid now",
        Reachability::TlsFailed => "the TLS handshake fails",
        Reachability::ProxyUnreachable => "spec.egressProxy takes no connection",
        Reachability::ProxyRefused => "spec.egressProxy opens no tunnel to it",
        Reachability::NoAnswer => "it takes connections and gives no answer",
        Reachability::Unavailable => "it, or what stands before it, is unavailable",
        Reachability::HostNotServed => "it does not serve this host name",
        Reachability::PathNotFound => "there is no MCP server at this path",
    }
}

/// The way out of this state; empty where none is needed.
pub fn advice(state: Reachability) -> &'static str {
    match state {
        Reachability::NotContacted | Reachability::Connected | Reachability::Answered => "",
        Reachability::NameNotResolved => {
            "Check the host in spec.server.url, and the namespace in a Service's name"
        }
        Reachability::ConnectionFailed => {
            "Check host and port in spec.server.url, and whether its Service has ready pods (`kubectl get \
             endpointslices`)"
        }
        Reachability::ConnectionTimedOut => {
            "Check NetworkPolicies and firewalls between LiteLLM's pods and the server, and the port in \
             spec.server.url"
        }
        Reachability::CertificateNotTrusted => {
            "Name the certificate of its authority in spec.server.tls.caBundle, or the right one if one is named"
        }
        Reachability::CertificateForOtherHost => {
            "Use a host name in spec.server.url that the certificate names, or correct the certificate"
        }
        Reachability::CertificateExpired => "Renew the server's certificate, and check the clock of the node",
        Reachability::TlsFailed => {
            "Check that the port in spec.server.url speaks TLS, and spec.server.tls.clientCertificate if the server \
             demands one"
        }
        Reachability::ProxyUnreachable => {
            "Check spec.egressProxy.url, and NetworkPolicies and firewalls between LiteLLM's pods and the proxy"
        }
        Reachability::ProxyRefused => {
            "Check spec.egressProxy.credentialsRef, and that the proxy allows CONNECT to host and port of \
             spec.server.url; a host that is to be reached without it belongs into noProxy"
        }
        Reachability::NoAnswer | Reachability::Unavailable => "Look at the server's own logs and readiness",
        Reachability::HostNotServed => "Correct the host in spec.server.url",
        Reachability::PathNotFound => {
            "Correct the path in spec.server.url: many servers listen on /mcp or /sse"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_documented_as_a_reason_and_every_failure_has_a_way_out() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/status.md");
        let documented = std::fs::read_to_string(path).unwrap();
        for state in Reachability::ALL {
            let reason = state.reason();
            assert!(documented.contains(&format!("`{reason}`")), "{reason}");
            assert_eq!(
                advice(state).is_empty(),
                state.is_reachable() != Some(false),
                "{reason}"
            );
        }
    }
}
