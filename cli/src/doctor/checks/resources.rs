//! Checks of the resources: what they refer to, and what the operator says of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, TokenClaims, conditions, reasons};
use mcp_auth_credentials::references::fields;

use super::ways_out::way_out;
use crate::doctor::facts::{AuthorizationServerOutcome, Facts, ReferenceFacts};
use crate::doctor::finding::Finding;
use crate::lookup::Lookup;
use crate::status::condition;

/// Reasons of `TokenIssued` that speak of a token which the MCP server does not, or should not, take.
const CLAIM_REASONS: [&str; 3] = [
    reasons::TOKEN_MISMATCH,
    reasons::TOKEN_REFUSED,
    reasons::INSUFFICIENT_SCOPE,
];

pub fn readable(facts: &Facts) -> Vec<Finding> {
    let check = "resource";
    if facts.inventory.resources.is_empty() && facts.inventory.unreadable.is_empty() {
        return vec![Finding::warning(
            check,
            "McpServerAuth",
            "there is none in what was looked at",
            "write one for each MCP server, see \"Use it\" in the README, or look elsewhere with --namespace or \
             --all-namespaces; `kubectl mcp-auth import litellm` makes them from a LiteLLM configuration",
        )];
    }
    let unreadable = facts.inventory.unreadable.iter().map(|unreadable| {
        Finding::fault(
            check,
            format!("{}/{}", unreadable.namespace, unreadable.name),
            format!("this program cannot read it: {}", unreadable.problem),
            "use the kubectl-mcp_auth of the version that is installed",
        )
    });
    let unobserved = facts.inventory.resources.iter().filter_map(|resource| {
        let generation = resource.metadata.generation;
        let observed = resource.status.as_ref().and_then(|status| status.observed_generation);
        (observed.is_none() || observed != generation).then(|| {
            Finding::fault(
                check,
                subject(resource),
                match observed {
                    None => "no operator has looked at it",
                    Some(_) => "the operator has not looked at its newest spec yet",
                },
                "see that an operator runs and serves this namespace (watchNamespaces of the chart), and its log",
            )
        })
    });
    unreadable.chain(unobserved).collect()
}

pub fn references(facts: &Facts) -> Vec<Finding> {
    facts.references.iter().map(reference).collect()
}

fn reference(facts: &ReferenceFacts) -> Finding {
    let check = "Secrets";
    let subject = format!("{}/{}", facts.namespace, facts.resource);
    let (field, name, key) = (facts.reference.field, &facts.reference.name, &facts.reference.key);
    let kind = facts.reference.kind.as_str();
    let namespace = &facts.namespace;
    let is_second_of_two = field == fields::ALTERNATE_SECRET;
    match &facts.keys {
        // The second of two secrets may come and go.
        Lookup::Missing if is_second_of_two => Finding::passed(
            check,
            subject,
            format!("{kind} {name}, the second of two, is not there"),
        ),
        Lookup::Found(keys) if is_second_of_two && !keys.contains_key(key) => {
            Finding::passed(check, subject, format!("{kind} {name} lacks the second secret"))
        }
        Lookup::Unknown(why) => Finding::not_checked(check, subject, format!("{kind} {name}: {why}")),
        Lookup::Missing => Finding::fault(
            check,
            subject,
            format!("{kind} {name}, named by {field}, does not exist"),
            match kind {
                "Secret" => {
                    format!("kubectl create secret generic {name} -n {namespace} --from-file={key}=FILE")
                }
                _ => format!("kubectl create configmap {name} -n {namespace} --from-file={key}=FILE"),
            },
        ),
        Lookup::Found(keys) => match keys.get(key) {
            Some(0) => Finding::fault(
                check,
                subject,
                format!("key {key} of {kind} {name}, named by {field}, is empty"),
                "fill it in; the operator takes it the moment it changes",
            ),
            Some(_) => Finding::passed(check, subject, format!("{kind} {name} has the key {key}")),
            None => {
                let has = match keys.is_empty() {
                    true => "no keys".to_owned(),
                    false => {
                        let names: Vec<&str> = keys.keys().map(String::as_str).collect();
                        format!("the keys {}", names.join(", "))
                    }
                };
                Finding::fault(
                    check,
                    subject,
                    format!("{kind} {name} has no key {key}, which {field} names: it has {has}"),
                    format!("put the value under {key}, or name another key in {field}"),
                )
            }
        },
    }
}

pub fn secrets_resolved(facts: &Facts) -> Vec<Finding> {
    of_condition(facts, "references", conditions::SECRETS_RESOLVED, |_| true)
}

pub fn token_issued(facts: &Facts) -> Vec<Finding> {
    of_condition(facts, "token", conditions::TOKEN_ISSUED, |condition| {
        !CLAIM_REASONS.contains(&condition.reason.as_str())
    })
}

/// What the operator found when it compared the token with the server: its claims, and whether the server
/// takes it.
pub fn claims(facts: &Facts) -> Vec<Finding> {
    let check = "token's claims";
    let mut findings = of_condition(facts, check, conditions::TOKEN_ISSUED, |condition| {
        CLAIM_REASONS.contains(&condition.reason.as_str())
    });
    let fitting = facts.inventory.resources.iter().filter(|resource| {
        let condition = condition(resource, conditions::TOKEN_ISSUED);
        condition.is_some_and(|condition| !CLAIM_REASONS.contains(&condition.reason.as_str()))
    });
    findings.extend(fitting.filter_map(|resource| {
        let token = resource.status.as_ref()?.token.as_ref()?;
        let message = match &token.claims {
            Some(claims) => format!("the operator found nothing amiss in {}", named_claims(claims)),
            // Of an older operator that is not known.
            None if token.format.is_none() => return None,
            None => "the token is opaque: only a call shows whether the server takes it".to_owned(),
        };
        Some(Finding::passed(check, subject(resource), message))
    }));
    findings
}

/// "iss https://auth.example.com, aud https://tools.example.com"
fn named_claims(claims: &TokenClaims) -> String {
    let list = |values: &[String]| (!values.is_empty()).then(|| values.join(" "));
    let named = [
        ("iss", claims.issuer.clone()),
        ("aud", list(&claims.audience)),
        ("scope", list(&claims.scope)),
    ];
    let named: Vec<String> = named
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
        .collect();
    match named.is_empty() {
        true => "its claims, of which none says for whom it is".to_owned(),
        false => named.join(", "),
    }
}

pub fn authorization_server(facts: &Facts) -> Vec<Finding> {
    let check = "authorization server";
    let servers = facts.authorization_servers.iter();
    let findings = servers.map(|server| {
        let subject = format!("{}/{}", server.namespace, server.resource);
        match &server.outcome {
            AuthorizationServerOutcome::Answers => {
                Finding::passed(check, subject, format!("{} answers, seen from here", server.url))
            }
            AuthorizationServerOutcome::Metadata {
                issuer,
                token_endpoint,
            } => {
                let message =
                    format!("{issuer} says that its token endpoint is {token_endpoint}, seen from here");
                Finding::passed(check, subject, message)
            }
            AuthorizationServerOutcome::Contradiction(message) => Finding::fault(
                check,
                subject,
                format!("{}, seen from here: {message}", server.url),
                "compare spec.oauth2.issuer with what the server's metadata say, byte for byte",
            ),
            AuthorizationServerOutcome::Unreachable(message) => Finding::warning(
                check,
                subject,
                format!(
                    "{} does not answer as it should, seen from here: {message}",
                    server.url
                ),
                "the operator may reach it all the same: the check `token` says. A name such as \
                 keycloak.auth.svc is known inside of the cluster only",
            ),
        }
    });
    findings.collect()
}

/// A finding for each resource whose condition is the check's business.
pub fn of_condition(
    facts: &Facts,
    check: &'static str,
    type_: &'static str,
    concerns: impl Fn(&Condition) -> bool,
) -> Vec<Finding> {
    let resources = facts.inventory.resources.iter();
    let judged = resources.filter_map(|resource| {
        let condition = condition(resource, type_).filter(|condition| concerns(condition))?;
        Some(judge(check, resource, condition))
    });
    judged.collect()
}

fn judge(check: &'static str, resource: &McpServerAuth, condition: &Condition) -> Finding {
    let message = format!("{}: {}", condition.reason, condition.message);
    let way_out = way_out(&condition.reason, resource);
    match condition.status.as_str() {
        "True" if reasons::WARNINGS.contains(&condition.reason.as_str()) => {
            Finding::warning(check, subject(resource), message, way_out)
        }
        "True" => Finding::passed(check, subject(resource), condition.message.clone()),
        "False" => Finding::fault(check, subject(resource), message, way_out),
        _ => Finding::warning(check, subject(resource), message, "ask again in a moment"),
    }
}

pub fn subject(resource: &McpServerAuth) -> String {
    format!(
        "{}/{}",
        resource.namespace().unwrap_or_default(),
        resource.name_any()
    )
}
