//! An installation in which all is well, to be broken in one place.

use super::*;

pub const VERSION: &str = "1.2.3";
pub const HOST: &str = "mcp-auth-operator.mcp-auth-system.svc";

/// Authority and serving certificate in PEM, the latter valid until that day of January 2027.
pub fn certificates(last_day: u8) -> (String, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, last_day);
    let serving = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    (authority.pem(), serving.pem())
}

pub fn webhook(bundle: &str) -> MutatingWebhookConfiguration {
    serde_json::from_value(json!({
        "metadata": {"name": "mcp-auth", "labels": {"app.kubernetes.io/version": VERSION}},
        "webhooks": [{
            "name": "namespace.inject.mcpauth.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "clientConfig": {
                "service": {"name": "mcp-auth-operator", "namespace": "mcp-auth-system", "path": "/v1/inject"},
                "caBundle": ByteString(bundle.as_bytes().to_vec()),
            },
            "namespaceSelector": {"matchExpressions": [
                {"key": "mcpauth.dev/injection", "operator": "In", "values": ["enabled"]},
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]},
            ]},
        }],
    }))
    .unwrap()
}

pub fn deployment(available: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {
            "name": "mcp-auth-operator",
            "labels": {"app.kubernetes.io/version": VERSION},
        },
        "spec": {"replicas": 2, "selector": {}, "template": {}},
        "status": {
            "availableReplicas": available,
            "conditions": [{
                "type": "Available",
                "status": if available > 0 { "True" } else { "False" },
                "message": "Deployment does not have minimum availability.",
            }],
        },
    }))
    .unwrap()
}

pub fn resource(conditions: &[(&str, &str, &str, &str)]) -> McpServerAuth {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status, reason, message)| {
            json!({
                "type": type_, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-12-01T00:00:00Z",
            })
        })
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm", "generation": 1},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "oauth2": {
                "tokenUrl": "https://auth.example.com/token",
                "clientId": "litellm",
                "clientAuthentication": {
                    "method": "ClientSecretBasic",
                    "clientSecretRef": {"name": "tools-oauth", "key": "client-secret"},
                },
            },
        },
        "status": {"observedGeneration": 1, "conditions": conditions},
    }))
    .unwrap()
}

pub fn ready() -> McpServerAuth {
    resource(&[
        (
            "Ready",
            "True",
            "Ready",
            "LiteLLM reaches tools with a valid token",
        ),
        (
            "SecretsResolved",
            "True",
            "Resolved",
            "every referenced Secret and ConfigMap has been read",
        ),
        (
            "TokenIssued",
            "True",
            "Issued",
            "the token in use is valid until 2026-12-01T01:00:00Z",
        ),
        (
            "SidecarsSynced",
            "True",
            "Synced",
            "1 of 1 sidecars are up to date",
        ),
        (
            "ServerReachable",
            "True",
            "Answered",
            "the MCP server answers 1 of 1 sidecars, the first since 2026-12-01T00:00:00Z",
        ),
    ])
}

pub fn pod(annotations: Value) -> PodMeta {
    serde_json::from_value(json!({
        "metadata": {
            "name": "litellm-0",
            "namespace": "llm",
            "labels": {"app.kubernetes.io/name": "litellm"},
            "annotations": annotations,
        },
    }))
    .unwrap()
}

pub fn opted_in_labels() -> Lookup<BTreeMap<String, String>> {
    let labels = [
        ("mcpauth.dev/injection", "enabled"),
        ("kubernetes.io/metadata.name", "llm"),
    ];
    Lookup::Found(
        labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    )
}

/// An installation at which nothing is wrong.
pub fn healthy() -> Facts {
    let (authority, serving) = certificates(31);
    let resource = ready();
    let reference = needed(&resource.spec).remove(0);
    Facts {
        now: "2026-12-01T00:00:00Z".parse::<Timestamp>().unwrap(),
        version: VERSION,
        api_group: ApiGroup::Served,
        definition: Lookup::Found(McpServerAuth::crd()),
        webhooks: Lookup::Found(vec![webhook(&authority)]),
        operator_namespace: Some("mcp-auth-system".to_owned()),
        deployment: Lookup::Found(deployment(2)),
        certificates: Lookup::Found(OperatorCertificates {
            secret: "mcp-auth-system/mcp-auth-operator-tls".to_owned(),
            serving: serving.into_bytes(),
            host: HOST.to_owned(),
        }),
        rights: vec![Right {
            action: "list secrets in the namespace llm".to_owned(),
            allowed: Lookup::Found(true),
            grant: None,
        }],
        namespaces: vec![NamespaceFacts {
            name: "llm".to_owned(),
            labels: opted_in_labels(),
            webhook_call: WebhookCall::Injected,
        }],
        inventory: Inventory {
            resources: vec![Arc::new(resource)],
            unreadable: Vec::new(),
            pods: Some(vec![pod(json!({"mcpauth.dev/injected": VERSION}))]),
        },
        references: vec![ReferenceFacts {
            namespace: "llm".to_owned(),
            resource: "tools".to_owned(),
            reference,
            keys: Lookup::Found([("client-secret".to_owned(), 32)].into()),
        }],
        authorization_servers: vec![AuthorizationServerFacts {
            namespace: "llm".to_owned(),
            resource: "tools".to_owned(),
            url: "https://auth.example.com/token".to_owned(),
            outcome: AuthorizationServerOutcome::Answers,
        }],
        uninjected: Vec::new(),
        live: LiveFacts {
            pods: vec![LiteLlmPod {
                namespace: "llm".to_owned(),
                name: "litellm-0".to_owned(),
                images: vec!["litellm:1".to_owned()],
                modifications: Lookup::Found(Vec::new()),
            }],
            calls: vec![Call {
                namespace: "llm".to_owned(),
                resource: "tools".to_owned(),
                outcome: CallOutcome::Called {
                    call: UserCall::that_arrives(),
                    direct: DirectCall::Refused(401),
                },
            }],
        },
    }
}

pub fn set_call(facts: &mut Facts, change: impl FnOnce(&mut UserCall)) {
    if let CallOutcome::Called { call, .. } = &mut facts.live.calls[0].outcome {
        change(call);
    }
}

pub fn report(facts: &Facts) -> Report {
    let criteria = criteria::all(&facts.inventory, &facts.live, facts.now);
    Report::new(all(facts), criteria)
}

pub fn set_resource(facts: &mut Facts, type_: &str, status: &str, reason: &str, message: &str) {
    let mut changed = ready();
    let conditions = &mut changed.status.as_mut().unwrap().conditions;
    let condition = conditions
        .iter_mut()
        .find(|condition| condition.type_ == type_)
        .unwrap();
    (condition.status, condition.reason, condition.message) = (status.into(), reason.into(), message.into());
    facts.inventory.resources = vec![Arc::new(changed)];
}

pub fn plain(report: &Report) -> String {
    anstream::adapter::strip_str(&render(report)).to_string()
}
