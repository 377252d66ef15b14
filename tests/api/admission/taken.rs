//! What is taken.

use mcp_auth_crds::McpServerAuth;
use mcp_auth_tests::world::World;
use serde_json::json;

use super::apply;

#[tokio::test]
async fn what_can_work_is_taken() {
    let world = World::new("admission-accepted", false).await;
    let cases = [
        json!({"server": {"url": "http://tools.apps.svc/mcp", "allowInsecureHttp": true}}),
        json!({"server": {"transport": "SSE", "url": "https://tools.example.com/sse?profile=a"}}),
        json!({"server": {"tls": {"caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}}}}),
        json!({
            "server": {"affinityCookies": ["my-lb", "1d3b1a93d8b0d5c1e4b7f2a6c9e8d7f0"]},
            "cookiePassthrough": {"enabled": true, "cookieNames": ["session_id"]},
            "oauth2": {"tokenExchange": {"subjectCookie": "session"}},
            "audit": {"user": {"cookie": "session_id"}},
        }),
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
        json!({"oauth2": {"tokenUrl": null, "issuer": "https://auth.example.com", "tokenExchange": {
            "profile": "IdJag",
            "subjectHeader": "Authorization",
            "scopes": ["tools:call"],
            "extraParameters": {"tenant": "a"},
            "identityProvider": {"issuer": "https://idp.example.com"},
        }}}),
        json!({"oauth2": {"tokenExchange": {
            "profile": "IdJag",
            "subjectCookie": "id_token",
            "audience": "https://auth.example.com",
            "identityProvider": {
                "tokenUrl": "https://idp.example.com/token",
                "clientId": "there",
                "clientAuthentication": {
                    "method": "PrivateKeyJwt",
                    "privateKeyJwt": {"keyRef": {"name": "s", "key": "k"}, "audience": "https://idp.example.com"},
                },
            },
        }}}),
        json!({"oauth2": {"clientId": null, "clientAuthentication": {
            "method": "PrivateKeyJwt",
            "clientSecretRef": null,
            "privateKeyJwt": {"managed": {"algorithm": "EdDSA", "rotateAfter": "168h"}},
        }}}),
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
