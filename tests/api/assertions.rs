//! Assertions that something else signs and keeps in a Secret, from resource to token: Keycloak is the real server that verifies
//! them, by the keys that their issuers publish.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::sync::Snapshot;
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::registration::{Grant, Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::{Granted, Server};
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{jwt, keycloak};
use serde_json::{Value, json};

use crate::providers::{page_at_real_server, refusal_of};

const SERVER: Server = Server::Keycloak;
/// Of the MCP server on the pages, and of this file's own resources.
const SERVER_URL: &str = "https://tools.company.com/mcp";

/// Where an issuer publishes the keys that its assertions are verified by.
struct Issuer {
    key: Key,
    web: Web,
}

impl Issuer {
    /// `more`: what the members of the key set are besides the key.
    async fn start(algorithm: &str, r#use: &str, more: Value) -> Self {
        let key = Key::new(algorithm, "current").await;
        let mut jwk = key.jwk().await;
        jwk["use"] = json!(r#use);
        let mut set = json!({"keys": [jwk]});
        merge(&mut set, more);
        let web = Web::start().await;
        web.json("/keys", &set);
        Self { key, web }
    }

    fn keys_url(&self) -> String {
        format!("{}/keys", self.web.url)
    }

    fn sign(&self, claims: &Value) -> String {
        jwt::sign(&self.key, claims)
    }
}

async fn world(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world.trust().await;
    world
}

/// A client for the MCP server of the pages.
fn registration(id: &str, method: Method) -> Registration {
    Registration {
        resource: SERVER_URL.to_owned(),
        ..Registration::new(id, method)
    }
}

/// A sidecar of this namespace, and the token that it has.
async fn arrived(world: &World) -> (Sidecar, String) {
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    (sidecar, bearer(&snapshot, "tools").unwrap())
}

async fn next(sidecar: &mut Sidecar, old: &str) -> String {
    let changed = |snapshot: &Snapshot| bearer(snapshot, "tools").is_some_and(|token| token != old);
    bearer(&sidecar.until(changed).await, "tools").unwrap()
}

async fn granted_by_assertion(client: &str) -> usize {
    let expected = Granted {
        method: "federated-jwt".to_owned(),
        grant: Grant::ClientCredentials.name().to_owned(),
    };
    let granted = SERVER.granted(client).await;
    assert!(granted.iter().all(|it| *it == expected), "{granted:?}");
    granted.len()
}

/// The claims of a JWT-SVID.
fn svid(subject: &str, audience: &str, lifetime: i64) -> Value {
    let now = jwt::now();
    json!({"sub": subject, "aud": [audience], "iat": now, "exp": now + lifetime})
}

/// <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md>, and the trust domain's bundle by
/// <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md>.
#[tokio::test]
async fn a_jwt_svid_of_spiffe_is_verified_by_its_trust_domain_s_bundle() {
    if !keycloak::is_there() {
        return;
    }
    let id = "assertions-spiffe";
    let world = world(id).await;
    let bundle = json!({"spiffe_sequence": 1, "spiffe_refresh_hint": 300});
    let spire = Issuer::start("ES256", "jwt-svid", bundle).await;
    let trust_domain = json!({"trustDomain": "spiffe://company.test", "bundleEndpoint": spire.keys_url()});
    keycloak::identity_provider("spire", "spiffe", trust_domain).await;
    let subject = format!("spiffe://company.test/ns/{id}/sa/litellm");
    let registration = registration(
        id,
        Method::Federated {
            identity_provider: "spire".to_owned(),
            subject: subject.clone(),
        },
    );
    SERVER.register(&registration).await;
    let right = svid(&subject, &SERVER.issuer(), 300);

    let tools = page_at_real_server("spiffe", SERVER);
    let of_another_domain = format!("spiffe://another.test/ns/{id}/sa/litellm");
    // Of a key that the bundle does not have, by the same name.
    let stranger = Key::new("ES256", "current").await;
    for (name, wrong) in [
        ("of-another-key", jwt::sign(&stranger, &right)),
        (
            "for-another-server",
            spire.sign(&svid(&subject, "https://elsewhere.example.com", 300)),
        ),
        (
            "of-another-domain",
            spire.sign(&svid(&of_another_domain, &SERVER.issuer(), 300)),
        ),
    ] {
        world.secret(name, "jwt", &wrong).await;
        let mut tools = tools.clone();
        tools["metadata"]["name"] = json!(name);
        tools["spec"]["server"]["name"] = json!(name.replace('-', "_"));
        tools["spec"]["oauth2"]["clientAuthentication"]["clientAssertion"]["secretKeyRef"]["name"] =
            json!(name);
        let applied = world.apply(&tools).await.unwrap();
        let told = refusal_of(&world, &applied, "invalid_client", "invalid_client").await;
        assert!(
            told.contains("assertion (its issuer, subject and audience)"),
            "{told}"
        );
    }
    assert_eq!(granted_by_assertion(id).await, 0);

    world.secret("svid", "jwt", &spire.sign(&right)).await;
    world.apply(&tools).await.unwrap();
    let (mut sidecar, old) = arrived(&world).await;
    let issued = jwt::claims(&old);
    assert!(jwt::is_for(&issued, SERVER_URL), "{issued}");
    assert_eq!(
        issued["azp"], id,
        "no clientId is stated: the SVID names the client"
    );

    // SPIRE renews an SVID at half of its life: what it puts into the Secret is used at once.
    world
        .secret("svid", "jwt", &spire.sign(&svid(&subject, &SERVER.issuer(), 600)))
        .await;
    next(&mut sidecar, &old).await;
    assert_eq!(granted_by_assertion(id).await, 2);

    // And what it did not renew in time is told before the server would refuse it.
    world
        .secret("svid", "jwt", &spire.sign(&svid(&subject, &SERVER.issuer(), -60)))
        .await;
    until(
        "the end of the SVID",
        async || message(&world.status("tools").await, conditions::TOKEN_ISSUED),
        |told| told.contains("expired") && told.contains("another one is waited for"),
    )
    .await;
}

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound.html>: `sts:GetWebIdentityToken`.
#[tokio::test]
async fn a_jwt_of_aws_sts_says_which_role_the_client_is() {
    if !keycloak::is_there() {
        return;
    }
    let id = "assertions-aws";
    let world = world(id).await;
    let sts = Issuer::start("ES384", "sig", json!({})).await;
    let issuer = "https://a1d2b0fd-1177-4468-9351-2f0000000723.tokens.sts.global.api.aws";
    let account = json!({
        "issuer": issuer, "useJwksUrl": "true", "jwksUrl": sts.keys_url(), "validateSignature": "true",
        "authorizationUrl": format!("{issuer}/unused"), "tokenUrl": format!("{issuer}/unused"), "clientId": "unused",
        "supportsClientAssertions": "true", "supportsClientAssertionReuse": "true",
    });
    keycloak::identity_provider("aws", "oidc", account).await;
    let role = "arn:aws:iam::123456789012:role/litellm";
    let registration = registration(
        id,
        Method::Federated {
            identity_provider: "aws".to_owned(),
            subject: role.to_owned(),
        },
    );
    SERVER.register(&registration).await;
    let web_identity = |role: &str| {
        sts.sign(&json!({
            "iss": issuer, "sub": role, "aud": SERVER.issuer(), "iat": jwt::now(), "exp": jwt::now() + 300,
            "jti": format!("{role} at {}", jwt::now()),
            "https://sts.amazonaws.com/": {"aws_account": "123456789012", "source_region": "eu-central-1"},
        }))
    };
    world
        .secret(
            "aws",
            "jwt",
            &web_identity("arn:aws:iam::123456789012:role/another"),
        )
        .await;
    let tools = page_at_real_server("aws", SERVER);
    let applied = world.apply(&tools).await.unwrap();
    refusal_of(&world, &applied, "invalid_client", "invalid_client").await;

    world.secret("aws", "jwt", &web_identity(role)).await;
    let (_, token) = arrived(&world).await;
    let issued = jwt::claims(&token);
    assert!(jwt::is_for(&issued, SERVER_URL), "{issued}");
    assert_eq!(issued["azp"], id);
    assert_eq!(granted_by_assertion(id).await, 1);
}

/// Keycloak takes an assertion once unless its administrator says otherwise: as the client's authentication, and as the grant.
#[tokio::test]
async fn an_assertion_that_keycloak_takes_once_is_not_sent_again_and_its_successor_at_once() {
    if !keycloak::is_there() {
        return;
    }
    let issuer = Issuer::start("RS256", "sig", json!({})).await;
    let name = "https://issuer.of-assertions.test";
    let once = json!({
        "issuer": name, "useJwksUrl": "true", "jwksUrl": issuer.keys_url(), "validateSignature": "true",
        "authorizationUrl": format!("{name}/unused"), "tokenUrl": format!("{name}/unused"), "clientId": "unused",
        "supportsClientAssertions": "true", "supportsClientAssertionReuse": "false",
        "jwtAuthorizationGrantEnabled": "true", "jwtAuthorizationGrantAssertionReuseAllowed": "false",
    });
    keycloak::identity_provider("once", "oidc", once).await;
    for (word, is_grant) in [("client", false), ("grant", true)] {
        let id = format!("assertions-once-{word}");
        let world = world(&id).await;
        let subject = format!("subject-of-{id}");
        let (method, grant) = if is_grant {
            keycloak::trust_at("once", &subject).await;
            world.secret("client", "client-secret", "0nly-once-s3cret").await;
            (Method::SecretPost("0nly-once-s3cret".into()), Grant::JwtBearer)
        } else {
            let identity_provider = "once".to_owned();
            let subject = subject.clone();
            (
                Method::Federated {
                    identity_provider,
                    subject,
                },
                Grant::ClientCredentials,
            )
        };
        let client = Registration {
            grant,
            ..registration(&id, method)
        };
        SERVER.register(&client).await;
        if is_grant {
            keycloak::set_attribute(&id, "oauth2.jwt.authorization.grant.idp", "once").await;
        }
        // The token is renewed after four seconds, by the same assertion.
        keycloak::set_attribute(&id, "access.token.lifespan", "6").await;
        let assertion = |number: u32| {
            issuer.sign(&json!({
                "iss": name, "sub": subject, "aud": SERVER.issuer(), "jti": format!("{id}-{number}"),
                "iat": jwt::now(), "exp": jwt::now() + 280,
            }))
        };
        world.secret("assertion", "jwt", &assertion(1)).await;
        let reference = json!({"name": "assertion", "key": "jwt"});
        let (authentication, more) = if is_grant {
            let secret = json!({"name": "client", "key": "client-secret"});
            let authentication = json!({"method": "ClientSecretPost", "clientSecretRef": secret});
            (authentication, json!({"jwtBearer": {"assertionRef": reference}}))
        } else {
            let assertion = json!({"secretKeyRef": reference});
            (
                json!({"method": "ClientAssertion", "clientAssertion": assertion}),
                json!({}),
            )
        };
        let mut tools = resource("tools", "tools", SERVER.oauth2(&id, authentication));
        tools["spec"]["server"]["url"] = json!(SERVER_URL);
        merge(&mut tools["spec"]["oauth2"], more);
        world.apply(&tools).await.unwrap();

        let told = until(
            "that another assertion is waited for",
            async || world.status("tools").await,
            |status| message(status, conditions::TOKEN_ISSUED).contains("another one is waited for"),
        )
        .await;
        assert_eq!(told.token.unwrap().last_error.unwrap().reason, "AssertionUsed");
        let field = if is_grant {
            "jwtBearer.assertionRef"
        } else {
            "clientAssertion.secretKeyRef"
        };
        let told = message(&world.status("tools").await, conditions::TOKEN_ISSUED);
        assert!(told.contains(field), "{told}");
        let refusals = keycloak::refusals(&id).await;
        assert_eq!(refusals, 1, "it is refused once, and not sent again");
        // Not even when its token has ended.
        world
            .condition(
                "tools",
                conditions::TOKEN_ISSUED,
                "False",
                reasons::REQUEST_FAILED,
            )
            .await;
        assert_eq!(keycloak::refusals(&id).await, 1);

        // So that the successor is not used up too before it was looked at.
        keycloak::set_attribute(&id, "access.token.lifespan", "600").await;
        world.secret("assertion", "jwt", &assertion(2)).await;
        let (_, token) = arrived(&world).await;
        assert!(jwt::is_for(&jwt::claims(&token), SERVER_URL));
        assert_eq!(SERVER.granted(&id).await.len(), 2);
    }
}
