mod fixtures;
mod leftovers;
mod servers;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use kube::CustomResourceExt;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::references::needed;
use mcp_auth_operator::PodMeta;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::cluster::ApiGroup;
use crate::criteria::{
    self, Call, CallOutcome, DirectCall, LiteLlmPod, LiveFacts, NotCalled, Sent, UserCall,
};
use crate::doctor::facts::*;
use crate::doctor::finding::Report;
use crate::doctor::render;
use crate::inventory::{Inventory, Unreadable};
use crate::lookup::Lookup;
use crate::outcome::Outcome;
use fixtures::*;

#[test]
fn a_healthy_installation_passes_every_check() {
    let report = report(&healthy());
    for finding in &report.findings {
        assert_eq!(finding.outcome, Outcome::Passed, "{finding:?}");
    }
    insta::assert_snapshot!(plain(&report));
}

/// A change that breaks the installation.
type Damage = fn(&mut Facts);

/// What is wrong, and the check that has to name it first.
const DAMAGES: &[(&str, &str, Damage)] = &[
    ("no definition", "CustomResourceDefinition", |facts| {
        facts.api_group = ApiGroup::Missing;
        facts.webhooks = Lookup::Missing;
        facts.deployment = Lookup::Missing;
    }),
    (
        "another version of the resource",
        "CustomResourceDefinition",
        |facts| {
            facts.api_group = ApiGroup::OtherVersions("v1".to_owned());
        },
    ),
    ("no webhook configuration", "webhook configuration", |facts| {
        facts.webhooks = Lookup::Missing
    }),
    ("a webhook without caBundle", "webhook configuration", |facts| {
        facts.webhooks = Lookup::Found(vec![webhook("")]);
    }),
    ("an operator that does not run", "operator", |facts| {
        facts.deployment = Lookup::Found(deployment(0));
    }),
    ("a caBundle of another authority", "certificates", |facts| {
        facts.webhooks = Lookup::Found(vec![webhook(&certificates(31).0)]);
    }),
    ("a certificate that is over", "certificates", |facts| {
        facts.now = "2027-02-02T00:00:00Z".parse().unwrap();
    }),
    (
        "an operator that a namespace has not let",
        "operator's rights",
        |facts| {
            facts.rights[0].allowed = Lookup::Found(false);
            facts.rights[0].grant = Some("kubectl create rolebinding".to_owned());
        },
    ),
    ("an operator without a right", "operator's rights", |facts| {
        facts.rights[0].allowed = Lookup::Found(false);
    }),
    ("a namespace that has not opted in", "namespace", |facts| {
        facts.namespaces[0].labels = Lookup::Found(BTreeMap::new());
        facts.uninjected = vec![UninjectedPod {
            namespace: "llm".to_owned(),
            name: "litellm-0".to_owned(),
            explanation: None,
        }];
    }),
    ("a label with another value", "namespace", |facts| {
        let labels = [("mcpauth.dev/injection".to_owned(), "true".to_owned())];
        facts.namespaces[0].labels = Lookup::Found(labels.into());
    }),
    ("an excluded namespace", "namespace", |facts| {
        let Lookup::Found(labels) = &mut facts.namespaces[0].labels else {
            unreachable!()
        };
        labels.insert("kubernetes.io/metadata.name".to_owned(), "kube-system".to_owned());
    }),
    ("a webhook that does not answer", "webhook call", |facts| {
        facts.namespaces[0].webhook_call = WebhookCall::NotInjected;
    }),
    ("a resource of another version", "resource", |facts| {
        facts.inventory.unreadable = vec![Unreadable {
            namespace: "llm".to_owned(),
            name: "newer".to_owned(),
            problem: "missing field `oauth2`".to_owned(),
        }];
    }),
    ("an operator that looks elsewhere", "resource", |facts| {
        let mut unobserved = ready();
        unobserved.status = None;
        facts.inventory.resources = vec![Arc::new(unobserved)];
    }),
    ("a missing Secret", "Secrets", |facts| {
        facts.references[0].keys = Lookup::Missing
    }),
    ("a missing key", "Secrets", |facts| {
        facts.references[0].keys = Lookup::Found([("secret".to_owned(), 32)].into());
    }),
    ("an empty key", "Secrets", |facts| {
        facts.references[0].keys = Lookup::Found([("client-secret".to_owned(), 0)].into());
    }),
    ("a refused client", "token", |facts| {
        let message = "the authorization server refuses the client: invalid_client";
        set_resource(facts, "TokenIssued", "False", "RequestFailed", message);
    }),
    ("another issuer", "authorization server", |facts| {
        let message = "the metadata name the issuer https://other.example.com";
        facts.authorization_servers[0].outcome =
            AuthorizationServerOutcome::Contradiction(message.to_owned());
    }),
    ("a token for another server", "token's claims", |facts| {
        let message = "the MCP server answers 401 to tokens that were just issued";
        set_resource(facts, "TokenIssued", "False", "TokenRefused", message);
    }),
    ("a sidecar behind", "sidecars", |facts| {
        let message = "pod litellm-0 not yet up to date";
        set_resource(facts, "SidecarsSynced", "False", "SidecarsBehind", message);
    }),
    (
        "a cookie that LiteLLM does not pass on",
        "call through LiteLLM",
        |facts| {
            set_call(facts, |call| call.sent = Sent::Requests(Vec::new()));
        },
    ),
    (
        "a LiteLLM that does not take the key",
        "call through LiteLLM",
        |facts| {
            facts.live.calls[0].outcome = CallOutcome::Failed {
                pod: "litellm-0".to_owned(),
                problem: "LiteLLM answers initialize with 401 Unauthorized".to_owned(),
            };
        },
    ),
    (
        "a server that LiteLLM does not know, or does not let the key use",
        "call through LiteLLM",
        |facts| {
            let problem = "LiteLLM does not know the server tools, or does not let this key use it";
            facts.live.calls[0].outcome = CallOutcome::ServerUnknownOrNotAllowed(problem.to_owned());
        },
    ),
    (
        "a Secret of LiteLLM's key that is not there",
        "call through LiteLLM",
        |facts| {
            let problem = "--litellm-key-secret: the namespace llm has no Secret litellm";
            facts.live.calls[0].outcome = CallOutcome::KeyUnusable(problem.to_owned());
        },
    ),
];

#[test]
fn the_first_fault_is_named_with_its_way_out() {
    let mut told = String::new();
    for (what, check, damage) in DAMAGES {
        let mut facts = healthy();
        damage(&mut facts);
        let report = report(&facts);
        let fault = report
            .first_fault()
            .unwrap_or_else(|| panic!("{what} is a fault"));
        assert_eq!(fault.check, *check, "{what}: {fault:?}");
        let way_out = fault.way_out.as_deref().unwrap_or_default();
        assert!(!way_out.is_empty(), "{what} has a way out");
        assert!(!report.healthy);
        told.push_str(&format!(
            "{what}\n  {}: {}\n  {way_out}\n",
            fault.subject, fault.message
        ));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn without_litellm_s_key_nothing_of_users_is_called_in_order() {
    let mut facts = healthy();
    facts.live.calls[0].outcome = CallOutcome::Reported {
        message: "the MCP server answers 1 of 1 sidecars".to_owned(),
        direct: DirectCall::Refused(401),
        not_called: NotCalled::NoKey,
    };
    let report = report(&facts);
    assert!(report.healthy);
    let finding = report.findings.last().unwrap();
    assert_eq!(
        (finding.check, finding.outcome),
        ("call through LiteLLM", Outcome::NotChecked)
    );
    assert!(
        finding.message.starts_with("give a key of LiteLLM"),
        "{finding:?}"
    );
    assert_eq!(
        report.criteria[3].outcome,
        Outcome::NotChecked,
        "half of it is shown"
    );
}

#[test]
fn a_made_up_user_whom_the_server_refuses_is_a_warning() {
    let mut facts = healthy();
    set_call(&mut facts, |call| {
        call.tools = 0;
        call.tools_without_user = Some(3);
        if let Sent::Requests(requests) = &mut call.sent {
            requests[0].status = Some(401);
        }
    });
    let report = report(&facts);
    assert!(report.healthy);
    assert_eq!(report.findings.last().unwrap().outcome, Outcome::Warning);
}

#[test]
fn a_definition_that_lacks_a_field_is_older_and_the_field_is_named() {
    let mut facts = healthy();
    let mut definition = serde_json::to_value(McpServerAuth::crd()).unwrap();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]
        .as_object_mut()
        .unwrap()
        .remove("headerPassthrough");
    facts.definition = Lookup::Found(serde_json::from_value(definition).unwrap());
    let report = report(&facts);
    let finding = &report.findings[0];
    assert_eq!(finding.outcome, Outcome::Warning);
    assert!(
        finding.message.contains("lacks spec.headerPassthrough,"),
        "{}",
        finding.message
    );
    assert!(report.healthy, "it serves all the same");
}

#[test]
fn an_older_operator_is_called_older() {
    let mut facts = healthy();
    let Lookup::Found(deployment) = &mut facts.deployment else {
        unreachable!()
    };
    let labels = deployment.metadata.labels.as_mut().unwrap();
    labels.insert("app.kubernetes.io/version".to_owned(), "0.0.9".to_owned());
    let report = report(&facts);
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.check == "version")
        .unwrap();
    assert_eq!(finding.outcome, Outcome::Warning);
    assert!(
        finding.message.contains("0.0.9, older than this program"),
        "{}",
        finding.message
    );
}

#[test]
fn what_may_not_be_read_is_not_checked_and_is_no_fault() {
    let mut facts = healthy();
    let why = || "you may not read it".to_owned();
    facts.definition = Lookup::Unknown(why());
    facts.webhooks = Lookup::Unknown(why());
    facts.deployment = Lookup::Unknown(why());
    facts.certificates = Lookup::Unknown(why());
    facts.rights[0].allowed = Lookup::Unknown(why());
    facts.namespaces[0].labels = Lookup::Unknown(why());
    facts.namespaces[0].webhook_call = WebhookCall::NotMade(why());
    facts.references[0].keys = Lookup::Unknown(why());
    facts.inventory.pods = None;
    let report = report(&facts);
    assert!(report.healthy, "{:?}", report.first_fault());
    let unchecked = report
        .findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::NotChecked)
        .count();
    assert!(unchecked >= 6, "{:#?}", report.findings);
}

#[test]
fn an_authorization_server_that_only_the_cluster_reaches_is_no_fault() {
    let mut facts = healthy();
    let message = "the host name does not resolve".to_owned();
    facts.authorization_servers[0].outcome = AuthorizationServerOutcome::Unreachable(message);
    let report = report(&facts);
    assert!(report.healthy);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.outcome == Outcome::Warning)
    );
}

#[test]
fn claims_in_which_nothing_is_amiss_are_named_and_an_opaque_token_is_called_that() {
    let with_token = |token: Value| {
        let mut facts = healthy();
        let mut resource = ready();
        resource.status.as_mut().unwrap().token = Some(serde_json::from_value(token).unwrap());
        facts.inventory.resources = vec![Arc::new(resource)];
        let findings = all(&facts)
            .into_iter()
            .filter(|finding| finding.check == "token's claims");
        findings
            .map(|finding| (finding.outcome, finding.message))
            .collect::<Vec<_>>()
    };
    let claims = json!({"issuer": "https://auth.example.com", "audience": ["https://tools.example.com/mcp"]});
    let found = with_token(json!({"type": "Bearer", "format": "JWT", "claims": claims}));
    let expected =
        "the operator found nothing amiss in iss https://auth.example.com, aud https://tools.example.com/mcp";
    assert_eq!(found, [(Outcome::Passed, expected.to_owned())]);
    let found = with_token(json!({"type": "Bearer", "format": "Opaque"}));
    assert!(found[0].1.contains("only a call shows"), "{found:?}");
    assert!(
        with_token(json!({"type": "Bearer"})).is_empty(),
        "an older operator does not say"
    );
}
