//! Tokens of users' own (RFC 8693): one user's is never another's, and never the service's.

use k8s_openapi::api::core::v1::Pod;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::sync::Credential;
use mcp_auth_tests::registration::{Grant, Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer, credential, exchange, token_of};
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::World;
use mcp_auth_tests::{jwt, oauth, setting};
use serde_json::{Value, json};

const SECRET: &str = "exchanger-client-s3cret";

fn litellm() -> Value {
    json!({"app.kubernetes.io/name": "litellm"})
}

/// A client that may exchange, its resource, and a pod that is served.
async fn start(server: Server, id: &str) -> (World, Pod) {
    start_with(server, id, json!({}), reasons::ISSUED).await
}

/// The same with more in `spec.oauth2`, and `TokenIssued` with another reason.
async fn start_with(server: Server, id: &str, more: Value, reason: &str) -> (World, Pod) {
    let world = World::new(id, false).await;
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    let registration = Registration {
        grant: Grant::TokenExchange,
        ..Registration::new(id, Method::SecretBasic(SECRET.into()))
    };
    server.register(&registration).await;
    let authentication =
        json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}});
    let mut spec = server.oauth2(id, authentication);
    merge(
        &mut spec,
        json!({"oauth2": {"tokenExchange": {"subjectCookie": "session"}}}),
    );
    merge(&mut spec["oauth2"], more);
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reason)
        .await;
    let pod = world.pod("litellm-0", litellm()).await;
    (world, pod)
}

fn id_of(credential: &Credential) -> String {
    let Credential::Bearer { id, .. } = credential else {
        panic!("an exchange gives a token");
    };
    id.clone()
}

async fn exchanges(server: Server, id: &str) -> usize {
    let granted = server.granted(id).await;
    let wanted = Grant::TokenExchange.name();
    granted.iter().filter(|it| it.grant == wanted).count()
}

#[tokio::test]
async fn two_users_have_a_token_of_their_own_each_and_none_has_the_service_s() {
    for server in Server::all() {
        let id = format!("exchange-users-{}", server.name());
        let (world, pod) = start(server, &id).await;
        let mut sidecar = Sidecar::in_pod(&world, &pod).await;
        let snapshot = sidecar
            .until(|snapshot| bearer(snapshot, "tools").is_some())
            .await;
        let service = bearer(&snapshot, "tools").unwrap();

        let mut tokens = vec![service];
        for user in ["alice", "bob"] {
            let subject = server.user_token(user, &id).await;
            let credential = exchange(&world, &pod, "tools", &subject, None).await.unwrap();
            let token = token_of(&credential).unwrap();
            assert!(jwt::is_for(&jwt::claims(&token), "https://tools.example.com/mcp"));
            if server == Server::OidcProvider {
                assert_eq!(jwt::claims(&token)["sub"], user);
            }
            let again = exchange(&world, &pod, "tools", &subject, None).await.unwrap();
            assert_eq!(token_of(&again).as_deref(), Some(&*token), "kept for this user");
            tokens.push(token);
        }
        let subjects = tokens.iter().map(|token| jwt::claims(token)["sub"].to_string());
        let subjects: std::collections::BTreeSet<_> = subjects.collect();
        assert_eq!(subjects.len(), 3, "{subjects:?}");
        assert_eq!(exchanges(server, &id).await, 2, "one request for each user");
    }
}

#[tokio::test]
async fn a_user_s_token_that_the_mcp_server_refused_is_asked_for_anew() {
    let id = "exchange-refused";
    let (world, pod) = start(Server::OidcProvider, id).await;
    let [alice, bob] = [
        oauth::user_token("alice", id).await,
        oauth::user_token("bob", id).await,
    ];
    let old = exchange(&world, &pod, "tools", &alice, None).await.unwrap();
    let other = exchange(&world, &pod, "tools", &bob, None).await.unwrap();
    let new = exchange(&world, &pod, "tools", &alice, Some(&id_of(&old)))
        .await
        .unwrap();
    assert_ne!(token_of(&new), token_of(&old));
    let still = exchange(&world, &pod, "tools", &bob, None).await.unwrap();
    assert_eq!(token_of(&still), token_of(&other), "the other user keeps theirs");
}

#[tokio::test]
async fn a_subject_that_is_not_exchanged_gets_an_error_with_the_code_and_no_token() {
    for server in Server::all() {
        let id = format!("exchange-unknown-{}", server.name());
        let (world, pod) = start(server, &id).await;
        let refused = exchange(&world, &pod, "tools", "n0body-knows-this-subject", None).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.status, &*refused.problem.reason),
            (502, "ExchangeFailed")
        );
        let said = &refused.problem.message;
        let codes = ["invalid_request", "invalid_token", "invalid_grant"];
        assert!(codes.iter().any(|code| said.contains(code)), "{said}");
        assert!(!said.contains("n0body-knows-this-subject"), "{said}");
        // One user's fault is nobody else's.
        let subject = server.user_token("alice", &id).await;
        exchange(&world, &pod, "tools", &subject, None).await.unwrap();
        world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
    }
}

#[tokio::test]
async fn only_servers_of_the_pod_and_with_token_exchange_are_answered_for() {
    let id = "exchange-entitlement";
    let (world, pod) = start(Server::OidcProvider, id).await;
    let subject = oauth::user_token("alice", id).await;
    let stranger = world.pod("other-0", json!({"team": "blue"})).await;
    let refused = exchange(&world, &stranger, "tools", &subject, None)
        .await
        .unwrap_err();
    assert_eq!((refused.status, &*refused.problem.reason), (403, "NotEntitled"));
    let refused = exchange(&world, &pod, "unheard_of", &subject, None)
        .await
        .unwrap_err();
    assert_eq!((refused.status, &*refused.problem.reason), (403, "NotEntitled"));

    let given = json!({"bearerToken": {"secretKeyRef": {"name": "given", "key": "token"}}});
    world.secret("given", "token", "g1ven-to-the-service").await;
    world.apply(&resource("plain", "plain", given)).await.unwrap();
    world
        .condition("plain", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let refused = exchange(&world, &pod, "plain", &subject, None).await.unwrap_err();
    assert_eq!((refused.status, &*refused.problem.reason), (404, "NoExchange"));
}

#[tokio::test]
async fn where_only_users_have_tokens_each_gets_theirs_and_the_service_asks_for_none() {
    for server in Server::all() {
        let id = format!("exchange-only-{}", server.name());
        let users_only = json!({"serviceToken": "None"});
        let (world, pod) = start_with(server, &id, users_only, reasons::USER_TOKENS_ONLY).await;
        let mut sidecar = Sidecar::in_pod(&world, &pod).await;
        let snapshot = sidecar.until(|snapshot| unavailable(snapshot).is_some()).await;
        let (reason, message) = unavailable(&snapshot).unwrap();
        assert_eq!(reason, reasons::USER_TOKENS_ONLY);
        assert!(message.contains("spec.oauth2.serviceToken is None"), "{message}");

        let status = world.status("tools").await;
        let told = mcp_auth_tests::world::message(&status, conditions::TOKEN_ISSUED);
        assert!(
            told.contains(&format!("the metadata of {} were read", server.issuer()))
                && told.contains("no token was requested")
                && !told.contains("speak against"),
            "{told}"
        );
        assert_eq!(server.granted(&id).await, [], "nothing was asked for yet");

        let subject = server.user_token("alice", &id).await;
        let credential = exchange(&world, &pod, "tools", &subject, None).await.unwrap();
        let claims = jwt::claims(&token_of(&credential).unwrap());
        assert!(jwt::is_for(&claims, "https://tools.example.com/mcp"));
        let granted = server.granted(&id).await;
        assert!(
            granted.iter().all(|it| it.grant == Grant::TokenExchange.name()),
            "{granted:?}"
        );
    }
}

#[tokio::test]
async fn where_only_users_have_tokens_what_is_wrong_with_the_server_is_told_before_the_first_user() {
    let world = World::new("exchange-only-broken", false).await;
    world.secret("client", "client-secret", SECRET).await;
    let web = Web::start().await;
    let spec = json!({"oauth2": {
        "issuer": web.url, "allowInsecureHttp": true, "clientId": "litellm",
        "clientAuthentication": {
            "method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"},
        },
        "tokenExchange": {"subjectCookie": "session"}, "serviceToken": "None",
    }});
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::DISCOVERY_FAILED,
        )
        .await;
    let told = mcp_auth_tests::world::message(&status, conditions::TOKEN_ISSUED);
    assert!(told.contains("no user's token can be exchanged"), "{told}");

    // It appears, and has not the grant.
    let metadata = json!({
        "issuer": web.url, "token_endpoint": format!("{}/token", web.url),
        "grant_types_supported": ["client_credentials"],
    });
    web.json("/.well-known/oauth-authorization-server", &metadata);
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "True",
            reasons::USER_TOKENS_ONLY,
        )
        .await;
    let told = mcp_auth_tests::world::message(&status, conditions::TOKEN_ISSUED);
    assert!(
        told.contains("grant_types_supported has client_credentials, and not urn:ietf"),
        "{told}"
    );
    let asked = web.requested_paths();
    assert!(
        asked.iter().all(|path| path.starts_with("/.well-known/")),
        "{asked:?}"
    );
}

/// Reason and message of a server that the service has no token for.
fn unavailable(snapshot: &mcp_auth_protocol::sync::Snapshot) -> Option<(String, String)> {
    match credential(snapshot, "tools")? {
        Credential::Unavailable { reason, message, .. } => Some((reason.clone(), message.clone())),
        Credential::Bearer { .. } => None,
    }
}

/// Two issuers: the one that users sign in at, and the one that the MCP server trusts. Both are the same real server.
#[tokio::test]
async fn a_user_s_token_is_had_by_a_grant_of_the_identity_provider() {
    let id = "exchange-id-jag";
    let world = World::new(id, false).await;
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    let registration = Registration::new(id, Method::SecretBasic(SECRET.into()));
    let grants = [Grant::ClientCredentials, Grant::TokenExchange, Grant::JwtBearer].map(Grant::name);
    oauth::register_with(
        &registration,
        json!({"grants": grants, "scope": "tools:call tools:read"}),
    )
    .await;
    let authentication =
        json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}});
    let mut spec = Server::OidcProvider.oauth2(id, authentication);
    let identity_provider = setting("MCPAUTH_TEST_OAUTH");
    merge(
        &mut spec,
        json!({"oauth2": {
            "allowInsecureHttp": true,
            "tokenExchange": {
                "profile": "IdJag",
                "subjectHeader": "Authorization",
                "subjectTokenType": "urn:ietf:params:oauth:token-type:access_token",
                "scopes": ["tools:call"],
                "identityProvider": {"issuer": identity_provider},
            },
        }}),
    );
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;

    let subject = oauth::user_token("alice", id).await;
    let credential = exchange(&world, &pod, "tools", &subject, None).await.unwrap();
    let claims = jwt::claims(&token_of(&credential).unwrap());
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["iss"], Server::OidcProvider.issuer());
    assert_eq!(claims["scope"], "tools:call");
    assert!(jwt::is_for(&claims, "https://tools.example.com/mcp"));
    let requests = oauth::requests(id).await;
    let of = |grant: Grant| {
        requests
            .iter()
            .filter(move |request| request["grant"] == grant.name())
    };
    let [first] = of(Grant::TokenExchange).collect::<Vec<_>>()[..] else {
        panic!("one request to the identity provider: {requests:?}")
    };
    assert_eq!(
        first["requestedTokenType"],
        "urn:ietf:params:oauth:token-type:id-jag"
    );
    assert_eq!(first["audience"], Server::OidcProvider.issuer());
    assert_eq!(first["resource"], "https://tools.example.com/mcp");
    let [second] = of(Grant::JwtBearer).collect::<Vec<_>>()[..] else {
        panic!("one request to the authorization server: {requests:?}")
    };
    assert_eq!(second["assertion"]["iss"], identity_provider);
    assert_eq!(
        (&second["scope"], &second["audience"]),
        (&Value::Null, &Value::Null)
    );

    let error = exchange(&world, &pod, "tools", "n0-token-of-this-server", None).await;
    let error = format!("{:?}", error.unwrap_err());
    assert!(error.contains("at the identity provider"), "{error}");
}
