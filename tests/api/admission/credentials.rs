//! How the token is got.

use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use super::are_refused;

#[tokio::test]
async fn a_token_that_cannot_be_requested_is_refused_with_the_field_and_the_way_out() {
    let world = World::new("admission-credentials", false).await;
    let secret_ref = json!({"name": "s", "key": "k"});
    let cases: &[(Value, &str)] = &[
        (
            json!({"bearerToken": {"secretKeyRef": secret_ref}}),
            "exactly one of oauth2, githubApp and bearerToken",
        ),
        (
            json!({"oauth2": null}),
            "exactly one of oauth2, githubApp and bearerToken",
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
            "exactly one of keyRef, certificateRef and managed must be set",
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
            "two grants for one token",
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
            json!({"oauth2": {"tokenExchange": {"subjectHeader": "X-LiteLLM-API-Key"}}}),
            "subjectHeader must not be a header that carries LiteLLM's own credentials",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"profile": "IdJag", "subjectCookie": "id"}}}),
            "identityProvider belongs to the profile IdJag, which needs it",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"subjectCookie": "id", "identityProvider": {
                "issuer": "https://idp.example.com",
            }}}}),
            "identityProvider belongs to the profile IdJag",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"profile": "IdJag", "subjectCookie": "id", "identityProvider": {
                "issuer": "https://idp.example.com",
            }}}}),
            "needs tokenExchange.audience beside tokenUrl",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"profile": "IdJag", "subjectCookie": "id", "audience": "https://as",
                "identityProvider": {"clientId": "there"},
            }}}),
            "exactly one of issuer and tokenUrl must be set",
        ),
        (
            json!({"oauth2": {"allowInsecureHttp": false, "tokenUrl": "https://auth.example.com/token",
                "tokenExchange": {"profile": "IdJag", "subjectCookie": "id", "audience": "https://as",
                    "identityProvider": {"issuer": "http://idp.example.com"}},
            }}),
            "tokenExchange.identityProvider is plain http",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"profile": "IdJag", "subjectCookie": "id", "audience": "https://as",
                "identityProvider": {"issuer": "https://idp.example.com", "clientAuthentication": {
                    "method": "ClientSecretPost",
                }},
            }}}),
            "clientSecretRef belongs to the methods ClientSecretBasic and ClientSecretPost",
        ),
        (
            json!({"oauth2": {"tokenExchange": {"subjectCookie": "id", "extraParameters": {"subject_token": "x"}}}}),
            "extraParameters must not hold",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {
                "method": "PrivateKeyJwt",
                "clientSecretRef": null,
                "privateKeyJwt": {"managed": {}, "keyRef": secret_ref},
            }}}),
            "exactly one of keyRef, certificateRef and managed must be set",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {
                "method": "PrivateKeyJwt",
                "clientSecretRef": null,
                "privateKeyJwt": {"managed": {}, "keyId": "k-1"},
            }}}),
            "keyId and algorithm belong to a key of yours",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {
                "method": "PrivateKeyJwt",
                "clientSecretRef": null,
                "privateKeyJwt": {"managed": {"rotateAfter": "30d"}},
            }}}),
            "rotateAfter",
        ),
        (
            json!({"oauth2": {"clientAuthentication": {
                "method": "PrivateKeyJwt",
                "clientSecretRef": null,
                "privateKeyJwt": {"managed": {"algorithm": "PS256"}},
            }}}),
            "privateKeyJwt.managed.algorithm",
        ),
        (
            json!({"oauth2": {
                "clientAuthentication": {
                    "method": "WorkloadIdentity",
                    "clientSecretRef": null,
                    "workloadIdentity": {"serviceAccountRef": {"name": "litellm"}, "assertion": "TokenExchange"},
                },
                "jwtBearer": {"assertionRef": secret_ref},
            }}),
            "are two grants for one token: leave one out",
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
        (
            json!({"oauth2": {"extraParametersFrom": [{"name": "a"}]}}),
            "spec.oauth2.extraParametersFrom[0].secretKeyRef",
        ),
    ];
    are_refused(&world, cases).await;
}
