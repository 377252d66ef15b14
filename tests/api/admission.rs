//! What `kubectl apply` answers: the schema and its rules.

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_crds::admission::{Admission, Violation};
use mcp_auth_protocol::header_denylist::{DENIED_HEADERS, DENIED_PREFIXES};
use mcp_auth_tests::resource::{merge, oauth2, resource};
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

thread_local! {
    static ADMISSION: Admission = Admission::new();
}

/// The answer to a spec that is the good one but for these changes.
async fn apply(world: &World, changes: Value) -> Result<McpServerAuth, String> {
    let mut good = resource("good", "tools", oauth2("https://auth.example.com/token"));
    good["spec"]["oauth2"]["allowInsecureHttp"] = json!(false);
    merge(&mut good, json!({"spec": changes}));
    let answer = world.apply(&good).await.map_err(|error| error.to_string());
    is_answered_the_same_without_an_api_server(&good, &answer);
    answer
}

/// By `mcp-auth exec --resources`: the same verdict, the same defaults, and nothing that the API server does not say.
fn is_answered_the_same_without_an_api_server(resource: &Value, answer: &Result<McpServerAuth, String>) {
    // Server-side apply looks at these before the schema, and has words of its own for them.
    let by_server_side_apply = ["unknown field", "must be of type"];
    match (ADMISSION.with(|admission| admission.admit(resource)), answer) {
        (Ok(local), Ok(created)) => assert_eq!(local.spec, created.spec),
        (Err(violations), Err(message)) => {
            for violation in violations {
                let Violation { field, problem } = &violation;
                assert!(message.contains(field), "{violation} and {message}");
                let has_own_words = by_server_side_apply
                    .iter()
                    .any(|words| problem.starts_with(words));
                assert!(
                    has_own_words || message.contains(problem),
                    "{violation} and {message}"
                );
            }
        }
        (local, answer) => panic!("{resource}: {local:?}, and by the API server {answer:?}"),
    }
}

#[tokio::test]
async fn defaults_are_what_the_documentation_says() {
    let world = World::new("admission-defaults", false).await;
    let created = apply(&world, json!({})).await.unwrap();
    let spec = serde_json::to_value(&created.spec).unwrap();
    assert_eq!(spec["server"]["transport"], "StreamableHTTP");
    assert_eq!(spec["server"]["allowInsecureHttp"], false);
    assert_eq!(spec["oauth2"]["refreshBefore"], "33%");
    assert_eq!(spec["userContext"], "Optional");
    assert_eq!(
        spec["podSelector"],
        json!({"matchLabels": {"app.kubernetes.io/name": "litellm"}})
    );
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_the_field_and_the_way_out() {
    let world = World::new("admission-refusals", false).await;
    let secret_ref = json!({"name": "s", "key": "k"});
    let long = "a".repeat(65);
    let cases: &[(Value, &str)] = &[
        (
            json!({"bearerToken": {"secretKeyRef": secret_ref}}),
            "exactly one of oauth2, githubApp and bearerToken",
        ),
        (
            json!({"oauth2": null}),
            "exactly one of oauth2, githubApp and bearerToken",
        ),
        (json!({"server": {"name": "my-tools"}}), "spec.server.name"),
        (json!({"server": {"name": ""}}), "spec.server.name"),
        (
            json!({"server": {"url": "tools.example.com/mcp"}}),
            "url must be an absolute http or https URL",
        ),
        (
            json!({"server": {"url": "ftp://tools.example.com"}}),
            "url must be an absolute http or https URL",
        ),
        (
            json!({"server": {"url": "https://tools.example.com/mcp#x"}}),
            "url must have no fragment",
        ),
        (
            json!({"server": {"url": "https://me:pw@tools.example.com/mcp"}}),
            "no user name or password",
        ),
        (
            json!({"server": {"url": "http://tools.example.com/mcp"}}),
            "server.allowInsecureHttp: true",
        ),
        (
            json!({"server": {"transport": "Websocket"}}),
            "spec.server.transport",
        ),
        (
            json!({"server": {"tls": {"caBundle": {}}}}),
            "exactly one of secretKeyRef and configMapKeyRef",
        ),
        (
            json!({"oauth2": {"tokenUrl": "http://auth.example.com/token"}}),
            "oauth2.allowInsecureHttp: true",
        ),
        (
            json!({"oauth2": {"tokenUrl": "auth"}}),
            "tokenUrl must be an absolute http or https URL",
        ),
        (
            json!({"oauth2": {"issuer": "https://auth.example.com"}}),
            "tokenUrl and issuer exclude each other",
        ),
        (
            json!({"oauth2": {"tokenUrl": null, "issuer": "http://auth.example.com"}}),
            "issuer must be an https URL",
        ),
        (
            json!({"oauth2": {"tokenUrl": null, "revocationUrl": "https://auth.example.com/revoke"}}),
            "revocationUrl must be an absolute URL and belongs to tokenUrl",
        ),
        (
            json!({"oauth2": {"stepUp": false, "stepUpAllowedScopes": ["tools:write"]}}),
            "stepUpAllowedScopes has no effect while stepUp is false",
        ),
        (
            json!({"oauth2": {"stepUpAllowedScopes": ["tools:read tools:write"]}}),
            "spec.oauth2.stepUpAllowedScopes",
        ),
        (
            json!({"oauth2": {"clientId": null}}),
            "one of clientId and clientIdSecretRef must be set",
        ),
        (
            json!({"oauth2": {"clientIdSecretRef": secret_ref}}),
            "clientId and clientIdSecretRef exclude each other",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"clientSecretRef": null}}}),
            "clientSecretRef belongs to the methods ClientSecretBasic and ClientSecretPost",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"method": "PrivateKeyJwt", "clientSecretRef": null}}}),
            "privateKeyJwt belongs to the method PrivateKeyJwt, which needs it",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"method": "TlsClientAuth", "clientSecretRef": null}}}),
            "the method TlsClientAuth needs certificateRef",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {
                "method": "PrivateKeyJwt", "clientSecretRef": null, "privateKeyJwt": {},
            }}}),
            "exactly one of keyRef and certificateRef must be set",
        ),
        (
            json!({"oauth2": {"jwtBearer": {"assertionRef": secret_ref, "keyRef": secret_ref}}}),
            "exactly one of assertionRef and keyRef must be set",
        ),
        (
            json!({"oauth2": {"jwtBearer": {"assertionRef": secret_ref, "subject": "anna"}}}),
            "belong to keyRef",
        ),
        (
            json!({"oauth2": {"jwtBearer": {"keyRef": secret_ref, "claims": {"aud": "x"}}}}),
            "claims must not hold iss, sub, aud",
        ),
        (
            json!({"oauth2": {"tokenExchange": {
                "profile": "EntraOBO", "subjectCookie": "session", "requestedTokenType": "x",
            }}}),
            "requestedTokenType belongs to the profile RFC8693",
        ),
        (
            json!({"oauth2": {"extraParametersFrom": [{"name": "scope", "secretKeyRef": secret_ref}]}}),
            "extraParametersFrom must not name",
        ),
        (
            json!({"oauth2": {
                "extraParameters": {"tenant": "a"},
                "extraParametersFrom": [{"name": "tenant", "secretKeyRef": secret_ref}],
            }}),
            "extraParametersFrom must not name",
        ),
        (
            json!({"oauth2": {"requestTimeout": "61s"}}),
            "spec.oauth2.requestTimeout",
        ),
        (json!({"oauth2": {"provider": "Azure"}}), "spec.oauth2.provider"),
        (
            json!({"oauth2": {"serviceToken": "None"}}),
            "serviceToken None needs tokenExchange",
        ),
        (
            json!({"oauth2": {
                "serviceToken": "None", "tokenExchange": {"subjectCookie": "session"},
                "issuer": "https://auth.example.com", "tokenUrl": null, "revokeOnDeletion": true,
            }}),
            "have no effect while serviceToken is None",
        ),
        (
            json!({"oauth2": {
                "serviceToken": "None", "tokenExchange": {"subjectCookie": "session"},
                "stepUpAllowedScopes": ["tools.write"],
            }}),
            "have no effect while serviceToken is None",
        ),
        (
            json!({"oauth2": {
                "serviceToken": "None", "tokenExchange": {"subjectCookie": "session"},
                "jwtBearer": {"assertionRef": secret_ref},
            }}),
            "have no effect while serviceToken is None",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"method": "ClientAssertion", "clientSecretRef": null}}}),
            "clientAssertion belongs to the method ClientAssertion",
        ),
        (
            json!({"oauth2": {"provider": "Entra"}}),
            "provider Entra needs audience",
        ),
        (
            json!({"oauth2": {"provider": "Okta"}}),
            "provider Okta needs scopes",
        ),
        (
            json!({"oauth2": {"provider": "Google"}}),
            "provider Google needs scopes",
        ),
        (
            json!({"githubApp": {"appId": 1, "installationId": 2, "keyRef": secret_ref}}),
            "exactly one of oauth2, githubApp and bearerToken",
        ),
        (
            json!({"oauth2": {"assumedLifetime": "33%"}}),
            "spec.oauth2.assumedLifetime",
        ),
        (
            json!({"oauth2": {"revokeOnDeletion": true}}),
            "revokeOnDeletion needs to know where: set revocationUrl beside tokenUrl",
        ),
        (
            json!({"oauth2": {"tokenUrl": "https://u:p@auth.example.com/token"}}),
            "tokenUrl must hold no user name or password",
        ),
        (
            json!({"oauth2": {"tokenUrl": null, "issuer": "https://auth.example.com?tenant=1"}}),
            "issuer must be a URL with a host, without query",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"workloadIdentity": {}}}}),
            "workloadIdentity belongs to the method WorkloadIdentity",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"method": "WorkloadIdentity", "clientSecretRef": null}}}),
            "needs workloadIdentity.serviceAccountRef, a ServiceAccount of this namespace",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {"method": "None", "clientSecretRef": null}}}),
            "clientAuthentication.method None needs jwtBearer",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {
                "method": "PrivateKeyJwt", "clientSecretRef": null, "privateKeyJwt": {"keyRef": secret_ref},
                "alternateClientSecretRef": secret_ref,
            }}}),
            "alternateClientSecretRef is the second of two",
        ),
        (
            json!({"oauth2": {
                "jwtBearer": {"assertionRef": secret_ref},
                "clientAuthentication": {
                    "method": "WorkloadIdentity",
                    "clientSecretRef": null,
                    "workloadIdentity": {"assertion": "JwtBearer"},
                },
            }}),
            "two assertions for one grant",
        ),
        (
            json!({"oauth2": {"tokenExchange": {}}}),
            "exactly one of subjectCookie and subjectHeader",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"subjectCookie": "token"}}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"subjectHeader": "Authorization"}}}),
            "subjectHeader must not be a header that carries LiteLLM's own credentials",
        ),
        (json!({"oauth2": {"tokenType": "MAC"}}), "spec.oauth2.tokenType"),
        (
            json!({"oauth2": {"extraParameters": {"client_secret": "x"}}}),
            "extraParameters must not hold",
        ),
        (
            json!({"oauth2": {"refreshBefore": "soon"}}),
            "spec.oauth2.refreshBefore",
        ),
        (json!({"oauth2": {"scopes": ["two words"]}}), "spec.oauth2.scopes"),
        (json!({"audit": {"level": "Everything"}}), "spec.audit.level"),
        (
            json!({"audit": {"user": {"claim": "sub"}}}),
            "exactly one of cookie and header",
        ),
        (
            json!({"audit": {"user": {"cookie": "token"}}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"audit": {"user": {"header": "X-Id", "jwks": {"issuer": "https://auth.example.com"}}}}),
            "jwks needs claim",
        ),
        (
            json!({"audit": {"user": {"header": "X-Id", "claim": "sub", "jwks": {"issuer": "http://auth.example.com"}}}}),
            "keys of their own",
        ),
        (
            json!({"audit": {"user": {"header": "X-Id", "claim": "sub", "jwks": {
                "issuer": "https://auth.example.com",
                "url": "auth.example.com/keys",
            }}}}),
            "absolute http or https URLs",
        ),
        (
            json!({"audit": {"user": {"header": "Authorization"}}}),
            "LiteLLM's own credentials",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true}}),
            "there is no wildcard",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["a b"]}}),
            "cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["token"]}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["Authorization"]}}),
            "headerNames must not hold credentials",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["COOKIE"]}}),
            "headerNames must not hold credentials",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["Mcp-Session-Id"]}}),
            "headers of the MCP transport",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["mcpauth-context"]}}),
            "mcp-auth",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["X-Forwarded-User", "X-Forwarded-For"]}}),
            "where a request came from",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["Content-Language"]}}),
            "headers of the body or of the connection",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["X User"]}}),
            "headerNames",
        ),
        (json!({"headerPassthrough": {"headerNames": [""]}}), "headerNames"),
        (
            json!({"liteLLM": {"description": "os.environ/LITELLM_MASTER_KEY"}}),
            "one of its environment variables",
        ),
        (json!({"liteLLM": {"alias": "my-tools"}}), "alias"),
        (json!({"liteLLM": {"allowedTools": []}}), "allowedTools"),
        (
            json!({"liteLLM": {"allowedTools": ["a"], "disallowedTools": ["b"]}}),
            "cannot both be set",
        ),
        (
            json!({"liteLLM": {"allowedParameters": {"": ["city"]}}}),
            "name of a tool",
        ),
        (json!({"liteLLM": {"timeoutSeconds": 0}}), "timeoutSeconds"),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": [""]}}),
            "cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["sid=1"]}}),
            "cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"cookieNames": ["token"]}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"cookiePassthrough": {"cookieNames": ["session_id"]}}),
            "cookieNames needs enabled: true",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["session_*"]}}),
            "cookieNames looks like a pattern",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["^session$"]}}),
            "cookieNames looks like a pattern",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["X-User-*"]}}),
            "headerNames looks like a pattern",
        ),
        (json!({"server": {"name": long}}), "spec.server.name"),
        (
            json!({"cookiePassthrough": {"cookieNames": vec!["a"; 65]}}),
            "spec.cookiePassthrough.cookieNames",
        ),
        (json!({"server": {"url": null}}), "spec.server.url"),
        (
            json!({"server": {"uri": "https://tools.example.com"}}),
            "spec.server.uri",
        ),
        (
            json!({"cookiePassthrough": {"enabled": "yes"}}),
            "spec.cookiePassthrough.enabled",
        ),
        (
            json!({"oauth2": {"extraParametersFrom": [{"name": "a"}]}}),
            "spec.oauth2.extraParametersFrom[0].secretKeyRef",
        ),
    ];
    for (changes, expected) in cases {
        let answer = apply(&world, changes.clone()).await;
        let refusal = answer
            .map(|created| created.spec)
            .expect_err(&format!("{changes} is refused"));
        assert!(
            refusal.contains(expected),
            "{changes} is refused with {expected:?}: {refusal}"
        );
    }
    let left: Api<McpServerAuth> = world.api();
    assert!(left.list(&Default::default()).await.unwrap().items.is_empty());
}

/// The sidecar refuses these whoever lists them; here the user is told at once, in whatever case they are
/// written.
#[tokio::test]
async fn no_header_that_the_sidecar_refuses_gets_past_admission() {
    let world = World::new("admission-headers", false).await;
    let prefixed = DENIED_PREFIXES.map(|prefix| format!("{prefix}x"));
    for name in DENIED_HEADERS.map(str::to_owned).into_iter().chain(prefixed) {
        for spelled in [name.clone(), name.to_uppercase()] {
            let passed = json!({"headerPassthrough": {"headerNames": ["X-Forwarded-User", spelled]}});
            let exchanged = json!({"oauth2": {"tokenExchange": {"subjectHeader": spelled}}});
            for changes in [passed, exchanged] {
                let refusal = apply(&world, changes.clone()).await.map(|created| created.spec);
                let refusal = refusal.expect_err(&format!("{changes} is refused"));
                assert!(refusal.contains("must not"), "{changes}: {refusal}");
            }
        }
    }
}

#[tokio::test]
async fn what_can_work_is_taken() {
    let world = World::new("admission-accepted", false).await;
    let cases = [
        json!({"server": {"url": "http://tools.apps.svc/mcp", "allowInsecureHttp": true}}),
        json!({"server": {"transport": "SSE", "url": "https://tools.example.com/sse?profile=a"}}),
        json!({"server": {"tls": {"caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}}}}),
        json!({"oauth2": null, "bearerToken": {"secretKeyRef": {"name": "s", "key": "k"}}}),
        json!({"oauth2": {"tokenUrl": null, "issuer": "https://auth.example.com"}}),
        json!({"oauth2": {"tokenUrl": null}}),
        json!({"oauth2": {"revocationUrl": "https://auth.example.com/revoke", "revokeOnDeletion": true}}),
        json!({"oauth2": {
            "tokenType": "DPoP",
            "tokenExchange": {"subjectHeader": "X-Forwarded-Access-Token"},
        }}),
        json!({"oauth2": {"tokenCheck": {"mode": "Report", "acceptedAudiences": ["tools"]}}}),
        json!({"oauth2": {
            "clientId": null,
            "clientAuthentication": {
                "method": "WorkloadIdentity",
                "clientSecretRef": null,
                "workloadIdentity": {"serviceAccountRef": {"name": "litellm"}},
            },
        }}),
        json!({"oauth2": {
            "clientId": null,
            "jwtBearer": {"assertionRef": {"name": "s", "key": "k"}},
            "clientAuthentication": {"method": "None", "clientSecretRef": null},
        }}),
        json!({"oauth2": {
            "clientId": null,
            "jwtBearer": {"keyRef": {"name": "s", "key": "k"}, "subject": "anna", "claims": {"scope": "a b"}},
            "clientAuthentication": {"method": "None", "clientSecretRef": null},
        }}),
        json!({"oauth2": {"clientAuthentication": {
            "method": "PrivateKeyJwt",
            "clientSecretRef": null,
            "privateKeyJwt": {"certificateRef": {"name": "s"}},
            "certificateRef": {"name": "s"},
        }}}),
        json!({"oauth2": {"clientAuthentication": {"certificateRef": {"name": "s"}}}}),
        json!({"oauth2": {"clientId": null, "clientAuthentication": {
            "method": "ClientAssertion",
            "clientSecretRef": null,
            "clientAssertion": {"secretKeyRef": {"name": "s", "key": "svid"}, "type": "JwtSpiffe"},
        }}}),
        json!({"oauth2": {"serviceToken": "None", "tokenExchange": {"subjectCookie": "session"}}}),
        json!({"oauth2": {
            "tokenExchange": {"profile": "EntraOBO", "subjectHeader": "X-Forwarded-Access-Token"},
            "extraParameters": {"tenant": "a"},
            "extraParametersFrom": [{"name": "api_key", "secretKeyRef": {"name": "s", "key": "k"}}],
            "requestTimeout": "30s",
            "assumedLifetime": "2h",
            "zeroExpiresIn": "Unlimited",
            "provider": "Salesforce",
            "tokenCheck": {"acceptedIssuers": ["https://sts.windows.net/tenant/"]},
        }}),
        json!({"egressProxy": {"url": "http://proxy.example.com:3128", "noProxy": [".svc", "10.0.0.0/8"]}}),
        json!({"oauth2": {"refreshBefore": "1h30m", "resource": "", "scopes": ["tools:read", "tools:call"]}}),
        json!({"oauth2": {"clientAuthentication": {"method": "ClientSecretPost"}}}),
        json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["__Host-session", "session_id"]}}),
        json!({"cookiePassthrough": {"enabled": false, "cookieNames": [".AspNetCore.Cookies"]}}),
        json!({"headerPassthrough": {"headerNames": ["X-Forwarded-User", "X-Auth-Request-Email"]}}),
        json!({"headerPassthrough": {"headerNames": [
            "X-Forwarded-Email",
            "X-Remote-User",
            "Accept-Language",
            "traceparent",
        ]}}),
        json!({"podSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["red"]}]}}),
        json!({"audit": {"user": {"cookie": "id_token", "claim": "email", "jwks": {
            "issuer": "https://auth.example.com/realms/a",
            "url": "https://auth.example.com/keys?v=2",
            "audience": "litellm",
        }}}}),
        json!({"liteLLM": {
            "description": "Weather and alarms",
            "alias": "weather",
            "allowedTools": ["get_weather"],
            "allowedParameters": {"get_weather": ["city"]},
            "accessGroups": ["staff"],
            "allowAllKeys": false,
            "availableOnPublicInternet": false,
            "timeoutSeconds": 30,
        }}),
    ];
    for changes in cases {
        let answer = apply(&world, changes.clone()).await;
        assert!(answer.is_ok(), "{changes}: {answer:?}");
        world.delete::<McpServerAuth>("good").await;
    }
}

/// The default would merge with labels that `kubectl apply` sends later, and the two together select nothing.
#[tokio::test]
async fn the_default_selector_is_not_stored_and_labels_given_later_take_its_place() {
    let world = World::new("admission-selector", false).await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.secret("token", "token", "t0ken").await;
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    // As it is stored: the type of this crate would apply the default.
    let kind = ApiResource::erase::<McpServerAuth>(&());
    let untyped: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), "admission-selector", &kind);
    let stored = async || untyped.get("tools").await.unwrap().data["spec"]["podSelector"].clone();
    assert_eq!(stored().await, Value::Null);
    // The default is applied when the operator reads it.
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;

    let api: Api<McpServerAuth> = world.api();
    let patch = json!({"spec": {"podSelector": {"matchLabels": {"app": "gateway"}}}});
    let params = PatchParams::default();
    api.patch("tools", &params, &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(stored().await, json!({"matchLabels": {"app": "gateway"}}));
    sidecar.until(|snapshot| snapshot.servers.is_empty()).await;
}
