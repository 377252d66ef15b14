//! The five criteria, each a pure function of what was found.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, conditions};

use super::Criterion;
use super::live::{CallOutcome, DirectCall, LiveFacts, NotCalled};
use crate::inventory::Inventory;
use crate::lookup::Lookup;
use crate::outcome::Outcome;
use crate::status::condition;

struct Findings<'a> {
    inventory: &'a Inventory,
    live: &'a LiveFacts,
    now: Timestamp,
}

type Check = fn(&Findings<'_>) -> Vec<(Outcome, String)>;

const CRITERIA: [(&str, Check); 5] = [
    ("LiteLLM is unmodified", litellm_is_not_modified),
    ("OAuth2 works", tokens_are_issued),
    ("The configuration loads", configuration_loads),
    ("Headers are built and arrive", headers_arrive),
    ("MCP client and servers take them", tools_are_listed),
];

pub fn all(inventory: &Inventory, live: &LiveFacts, now: Timestamp) -> Vec<Criterion> {
    let findings = Findings { inventory, live, now };
    let criteria = CRITERIA.iter().zip(1..);
    criteria
        .map(|((title, check), number)| {
            let found = check(&findings);
            Criterion {
                number,
                title,
                outcome: worst(&found),
                findings: found.into_iter().map(|(_, text)| text).collect(),
            }
        })
        .collect()
}

/// Nothing found shows nothing, and neither does a part of it.
fn worst(found: &[(Outcome, String)]) -> Outcome {
    let is_among = |outcome| found.iter().any(|(found, _)| *found == outcome);
    let order = [
        Outcome::Fault,
        Outcome::Warning,
        Outcome::NotChecked,
        Outcome::Passed,
    ];
    order
        .into_iter()
        .find(|outcome| is_among(*outcome))
        .unwrap_or(Outcome::NotChecked)
}

fn litellm_is_not_modified(findings: &Findings<'_>) -> Vec<(Outcome, String)> {
    if findings.live.pods.is_empty() {
        return vec![(Outcome::Fault, "no LiteLLM pod with a sidecar runs".to_owned())];
    }
    let pods = findings.live.pods.iter();
    pods.map(|pod| {
        let name = format!("{}/{}", pod.namespace, pod.name);
        match &pod.modifications {
            Lookup::Found(found) if found.is_empty() => {
                let images = pod.images.join(", ");
                (
                    Outcome::Passed,
                    format!("{name} runs the image of its workload, {images}, and no file of it is replaced"),
                )
            }
            Lookup::Found(found) => (Outcome::Fault, format!("{name}: {}", found.join("; "))),
            Lookup::Missing => (
                Outcome::NotChecked,
                format!("{name}: there is nothing to compare it with"),
            ),
            Lookup::Unknown(why) => (Outcome::NotChecked, format!("{name}: {why}")),
        }
    })
    .collect()
}

fn tokens_are_issued(findings: &Findings<'_>) -> Vec<(Outcome, String)> {
    of_resources(findings, |resource| {
        let issued = condition(resource, conditions::TOKEN_ISSUED);
        let Some(issued) = issued.filter(|issued| issued.status == "True") else {
            return (Outcome::Fault, why_not(issued));
        };
        let token = resource.status.as_ref().and_then(|status| status.token.as_ref());
        let end = token.and_then(|token| token.expires_at.as_ref()).map(|end| end.0);
        match end {
            Some(end) if end <= findings.now => (Outcome::Fault, format!("the token expired at {end}")),
            Some(end) => (Outcome::Passed, format!("a token until {end}")),
            None => (Outcome::Passed, issued.message.clone()),
        }
    })
}

fn configuration_loads(findings: &Findings<'_>) -> Vec<(Outcome, String)> {
    of_resources(findings, |resource| {
        let status = resource.status.as_ref();
        if status.and_then(|status| status.observed_generation) != resource.metadata.generation {
            return (
                Outcome::Fault,
                "the operator has not looked at its newest spec".to_owned(),
            );
        }
        for type_ in [conditions::SECRETS_RESOLVED, conditions::SIDECARS_SYNCED] {
            let found = condition(resource, type_);
            if found.is_none_or(|found| found.status != "True") {
                return (Outcome::Fault, why_not(found));
            }
        }
        let synced = condition(resource, conditions::SIDECARS_SYNCED);
        (
            Outcome::Passed,
            synced.map(|synced| synced.message.clone()).unwrap_or_default(),
        )
    })
}

fn headers_arrive(findings: &Findings<'_>) -> Vec<(Outcome, String)> {
    let token = of_calls(findings, |outcome| match outcome {
        CallOutcome::Called { call, direct } => match call.arrival() {
            (Outcome::Passed, text) => beside_direct(&text, direct),
            shows_nothing => shows_nothing,
        },
        CallOutcome::Reported {
            message,
            direct,
            not_called: _,
        } => beside_direct(&format!("with the token that sidecars set, {message}"), direct),
        CallOutcome::Failed { pod, problem } => (Outcome::Fault, format!("through {pod}: {problem}")),
        CallOutcome::Failing(problem)
        | CallOutcome::KeyUnusable(problem)
        | CallOutcome::ServerUnknownOrNotAllowed(problem) => (Outcome::Fault, problem.clone()),
        CallOutcome::NotMade(why) => (Outcome::NotChecked, why.clone()),
    });
    // What only a user's call can show.
    let users = findings.live.calls.iter().filter_map(|call| match &call.outcome {
        CallOutcome::Reported { not_called, .. } if *not_called != NotCalled::NothingOfUsers => {
            let why = not_called.why();
            let text = format!("not checked: whether what users send arrives: {why}");
            Some((
                Outcome::NotChecked,
                format!("{}/{}: {text}", call.namespace, call.resource),
            ))
        }
        _ => None,
    });
    token.into_iter().chain(users).collect()
}

/// What was answered with a token shows something only beside what is answered without.
fn beside_direct(with_token: &str, direct: &DirectCall) -> (Outcome, String) {
    match direct {
        DirectCall::Refused(status) => (
            Outcome::Passed,
            format!("{with_token}; without a token it answers {status}"),
        ),
        DirectCall::Answered(_) => {
            let open = "it answers without a token as well, so nothing shows that the token arrived";
            (Outcome::Warning, format!("{with_token}; {open}"))
        }
        DirectCall::NotReached(why) => {
            let unknown = "what it says without a token could not be asked from here";
            (Outcome::Warning, format!("{with_token}; {unknown}: {why}"))
        }
    }
}

fn tools_are_listed(findings: &Findings<'_>) -> Vec<(Outcome, String)> {
    of_calls(findings, |outcome| match outcome {
        CallOutcome::Called { call, .. } => call.listing(),
        CallOutcome::Reported { message, .. } => {
            (Outcome::Passed, format!("LiteLLM's own requests: {message}"))
        }
        CallOutcome::Failed { problem, .. }
        | CallOutcome::Failing(problem)
        | CallOutcome::KeyUnusable(problem)
        | CallOutcome::ServerUnknownOrNotAllowed(problem) => (Outcome::Fault, problem.clone()),
        CallOutcome::NotMade(why) => (Outcome::NotChecked, why.clone()),
    })
}

fn of_resources(
    findings: &Findings<'_>,
    judge: impl Fn(&McpServerAuth) -> (Outcome, String),
) -> Vec<(Outcome, String)> {
    let resources = &findings.inventory.resources;
    if resources.is_empty() {
        return vec![(Outcome::Fault, "there is no McpServerAuth".to_owned())];
    }
    let judged = resources.iter().map(|resource| {
        let (outcome, text) = judge(resource);
        let namespace = resource.namespace().unwrap_or_default();
        (outcome, format!("{namespace}/{}: {text}", resource.name_any()))
    });
    judged.collect()
}

fn of_calls(
    findings: &Findings<'_>,
    judge: impl Fn(&CallOutcome) -> (Outcome, String),
) -> Vec<(Outcome, String)> {
    let calls = findings.live.calls.iter().map(|call| {
        let (outcome, text) = judge(&call.outcome);
        (outcome, format!("{}/{}: {text}", call.namespace, call.resource))
    });
    calls.collect()
}

fn why_not(condition: Option<&Condition>) -> String {
    match condition {
        Some(condition) => format!("{}: {}", condition.reason, condition.message),
        None => "no operator has looked at it".to_owned(),
    }
}
