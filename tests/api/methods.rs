//! Every way to authenticate and every grant, at each real authorization server that has it: resource and
//! Secret in, token in the sidecar out, and the server's own word for how it was asked.

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;
use kube::api::Api;
use mcp_auth_crds::{McpServerAuthStatus, conditions, reasons};
use mcp_auth_protocol::sync::Credential;
use mcp_auth_tests::authority;
use mcp_auth_tests::keys::{ALGORITHMS, Key};
use mcp_auth_tests::registration::{Grant, Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::{Granted, Server};
use mcp_auth_tests::sidecar::{Sidecar, credential, token, token_of};
use mcp_auth_tests::world::World;
use mcp_auth_tests::{jwt, keycloak, oauth, setting};
use serde_json::{Value, json};

/// What came of a resource.
struct Obtained {
    credential: Credential,
    claims: Value,
    status: McpServerAuthStatus,
}

/// A namespace where the authority of the servers is known.
async fn world(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world.trust().await;
    world
}

/// Registers the client, applies the resource, and waits until its token is issued and has reached a sidecar.
async fn obtain(
    world: &World,
    server: Server,
    registration: &Registration,
    authentication: Value,
    more: Value,
) -> Obtained {
    server.register(registration).await;
    apply(world, server, &registration.id, authentication, more).await;
    let obtained = arrived(world, "tools").await;
    assert!(
        jwt::is_for(&obtained.claims, &registration.resource),
        "the token is for the MCP server: {}",
        obtained.claims
    );
    assert_eq!(obtained.claims["iss"], server.issuer());
    let expected = Granted {
        method: server.name_of(&registration.method).to_owned(),
        grant: registration.grant.name().to_owned(),
    };
    let granted = server.granted(&registration.id).await;
    assert!(
        !granted.is_empty() && granted.iter().all(|it| *it == expected),
        "{server:?} was asked by {expected:?}: {granted:?}"
    );
    obtained
}

async fn apply(world: &World, server: Server, client: &str, authentication: Value, more: Value) {
    let mut tools = resource("tools", "tools", server.oauth2(client, authentication));
    merge(&mut tools, json!({"spec": {"oauth2": more}}));
    world.apply(&tools).await.unwrap();
}

async fn arrived(world: &World, name: &str) -> Obtained {
    let status = world
        .condition(name, conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| credential(snapshot, name).and_then(token_of).is_some())
        .await;
    let credential = credential(&snapshot, name).unwrap().clone();
    let claims = jwt::claims(&token_of(&credential).unwrap());
    Obtained {
        credential,
        claims,
        status,
    }
}

fn secret_ref() -> Value {
    json!({"name": "client", "key": "client-secret"})
}

#[tokio::test]
async fn a_client_secret_is_sent_in_the_header_or_in_the_form() {
    for server in Server::all() {
        // Characters that only arrive if they are form-urlencoded first (RFC 6749 section 2.3.1).
        let secret = format!("s3cret of {}: +%&=", server.name());
        for (word, method, registered) in [
            ("basic", "ClientSecretBasic", Method::SecretBasic(secret.clone())),
            ("post", "ClientSecretPost", Method::SecretPost(secret.clone())),
        ] {
            let id = format!("methods-{word}-{}", server.name());
            let world = world(&id).await;
            world.secret("client", "client-secret", &secret).await;
            let authentication = json!({"method": method, "clientSecretRef": secret_ref()});
            let registration = Registration::new(&id, registered);
            let obtained = obtain(&world, server, &registration, authentication, json!({})).await;
            let found = obtained.status.authorization_server.unwrap();
            assert_eq!(found.issuer, server.issuer());
            assert_eq!(found.token_endpoint, server.token_url());
        }
    }
}

#[tokio::test]
async fn an_assertion_is_signed_with_each_algorithm() {
    for server in Server::all() {
        for algorithm in ALGORITHMS.into_iter().filter(|algorithm| server.knows(algorithm)) {
            let word = algorithm.to_lowercase();
            let id = format!("methods-{word}-{}", server.name());
            let world = world(&id).await;
            let key = Key::new(algorithm, "first").await;
            world.secret("client", "key.pem", &key.private_pem).await;
            let authentication = json!({"method": "PrivateKeyJwt", "privateKeyJwt": {
                "keyRef": {"name": "client", "key": "key.pem"}, "keyId": "first", "algorithm": algorithm,
            }});
            let registration = Registration::new(&id, Method::PrivateKeyJwt(key));
            obtain(&world, server, &registration, authentication, json!({})).await;
            if server == Server::OidcProvider {
                let requests = oauth::requests(&id).await;
                let assertion = &requests[0]["clientAssertion"];
                assert_eq!(assertion["alg"], algorithm);
                assert_eq!(assertion["kid"], "first");
                assert_eq!((&assertion["iss"], &assertion["sub"]), (&json!(id), &json!(id)));
                assert!(assertion["jti"].is_string(), "{assertion}");
                assert!(
                    assertion["lifetime"].as_i64().unwrap() <= 300,
                    "an assertion is good for minutes at most: {assertion}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_metadata_say() {
    for server in Server::all() {
        let id = format!("methods-tls-{}", server.name());
        let world = world(&id).await;
        world.certificate("client", &server.certificate(&id)).await;
        let authentication = json!({"method": "TlsClientAuth", "certificateRef": {"name": "client"}});
        let subject = format!("CN={id}");
        let registration = Registration {
            certificate_bound: true,
            ..Registration::new(&id, Method::Tls { subject })
        };
        let obtained = obtain(&world, server, &registration, authentication, json!({})).await;
        assert!(
            obtained.claims["cnf"]["x5t#S256"].is_string(),
            "{}",
            obtained.claims
        );
        let told = obtained.status.token.unwrap().r#type;
        assert_eq!(told.as_deref(), Some("Bearer (certificate-bound)"));
    }
}

#[tokio::test]
async fn a_certificate_is_shown_by_another_method_too_and_the_token_is_bound_to_it() {
    let servers = Server::all().into_iter();
    for server in servers.filter(|server| server.binds_beside_other_methods()) {
        let id = format!("methods-secret-and-tls-{}", server.name());
        let world = world(&id).await;
        world.certificate("bound", &server.certificate(&id)).await;
        world
            .secret("client", "client-secret", "b0und-client-s3cret")
            .await;
        let authentication = json!({
            "method": "ClientSecretBasic",
            "clientSecretRef": secret_ref(),
            "certificateRef": {"name": "bound"},
        });
        let registration = Registration {
            certificate_bound: true,
            ..Registration::new(&id, Method::SecretBasic("b0und-client-s3cret".into()))
        };
        let obtained = obtain(&world, server, &registration, authentication, json!({})).await;
        assert!(
            obtained.claims["cnf"]["x5t#S256"].is_string(),
            "{}",
            obtained.claims
        );
    }
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_registered_is_enough() {
    // Keycloak takes certificates of an authority only.
    let servers = Server::all().into_iter();
    for server in servers.filter(|server| *server != Server::Keycloak) {
        let id = format!("methods-self-signed-{}", server.name());
        let world = world(&id).await;
        let own = match server {
            Server::Spring => authority::trusted_self_signed(),
            Server::OidcProvider | Server::Keycloak => authority::self_signed(&id),
        };
        world.certificate("client", &own).await;
        let authentication = json!({"method": "TlsClientAuth", "certificateRef": {"name": "client"}});
        let certificate = own.chain;
        let registration = Registration {
            certificate_bound: true,
            ..Registration::new(&id, Method::SelfSignedTls { certificate })
        };
        let obtained = obtain(&world, server, &registration, authentication, json!({})).await;
        assert!(
            obtained.claims["cnf"]["x5t#S256"].is_string(),
            "{}",
            obtained.claims
        );
    }
}

#[tokio::test]
async fn a_dpop_token_comes_with_the_key_that_it_is_bound_to() {
    for server in Server::all() {
        let id = format!("methods-dpop-{}", server.name());
        let world = world(&id).await;
        world
            .secret("client", "client-secret", "dp0p-client-s3cret")
            .await;
        let authentication = json!({"method": "ClientSecretBasic", "clientSecretRef": secret_ref()});
        let registration = Registration {
            dpop_bound: true,
            ..Registration::new(&id, Method::SecretBasic("dp0p-client-s3cret".into()))
        };
        let more = json!({"tokenType": "DPoP"});
        let obtained = obtain(&world, server, &registration, authentication, more).await;
        assert!(obtained.claims["cnf"]["jkt"].is_string(), "{}", obtained.claims);
        assert_eq!(obtained.status.token.unwrap().r#type.as_deref(), Some("DPoP"));
        let Credential::Bearer { proof_key, .. } = obtained.credential else {
            panic!("there is a token");
        };
        assert!(proof_key.is_some(), "proofs are signed where the request leaves");
    }
}

#[tokio::test]
async fn a_nonce_that_the_server_demands_is_taken_up() {
    let id = "methods-dpop-nonce";
    let world = world(id).await;
    world
        .secret("client", "client-secret", "n0nce-client-s3cret")
        .await;
    let registration = Registration {
        dpop_bound: true,
        ..Registration::new(id, Method::SecretBasic("n0nce-client-s3cret".into()))
    };
    oauth::register_with(&registration, json!({"nonce": true})).await;
    let authentication = json!({"method": "ClientSecretBasic", "clientSecretRef": secret_ref()});
    apply(
        &world,
        Server::OidcProvider,
        id,
        authentication,
        json!({"tokenType": "DPoP"}),
    )
    .await;
    arrived(&world, "tools").await;
    let requests = oauth::requests(id).await;
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert_eq!(requests[0]["error"], "use_dpop_nonce");
    assert_eq!(requests[1]["dpop"]["nonce"], true);
    assert_ne!(requests[0]["dpop"]["jti"], requests[1]["dpop"]["jti"]);
}

#[tokio::test]
async fn an_assertion_that_something_else_keeps_in_a_secret_is_the_grant() {
    for server in Server::with_jwt_bearer() {
        let id = format!("methods-jwt-bearer-{}", server.name());
        let world = world(&id).await;
        let assertion = token(&world, &server.issuer(), None).await;
        world.secret("assertion", "jwt", &assertion).await;
        let subject = format!("system:serviceaccount:{id}:default");
        assert_eq!(jwt::claims(&assertion)["sub"], subject);
        let (authentication, method) = match server {
            Server::OidcProvider => (json!({"method": "None"}), Method::None),
            Server::Keycloak => {
                keycloak::trust(&subject).await;
                world.secret("client", "client-secret", "jwt-b3arer-s3cret").await;
                let authentication = json!({"method": "ClientSecretPost", "clientSecretRef": secret_ref()});
                (authentication, Method::SecretPost("jwt-b3arer-s3cret".into()))
            }
            Server::Spring => unreachable!("it has no such grant"),
        };
        let registration = Registration {
            grant: Grant::JwtBearer,
            ..Registration::new(&id, method)
        };
        let more = json!({"jwtBearer": {"assertionRef": {"name": "assertion", "key": "jwt"}}});
        let obtained = obtain(&world, server, &registration, authentication, more).await;
        if server == Server::OidcProvider {
            assert_eq!(obtained.claims["sub"], subject);
        }
    }
}

/// One of the two namespaces that may use workload identity, with a ServiceAccount of the same name in each.
async fn workload_world(namespace: &str) -> World {
    let world = World::in_namespace(namespace).await;
    for account in ["default", "litellm"] {
        let account = json!({"metadata": {"name": account}});
        world.create::<ServiceAccount>(account).await.unwrap();
    }
    world.trust().await;
    world
}

fn by_account(account: &str, more: Value) -> Value {
    let mut workload = json!({"serviceAccountRef": {"name": account}});
    merge(&mut workload, more);
    json!({"method": "WorkloadIdentity", "workloadIdentity": workload})
}

// One test for all, since they need the two namespaces that are allowed to.
#[tokio::test]
async fn each_namespace_acts_as_its_own_service_accounts_and_none_as_another_s_or_the_operator_s() {
    let pod = json!({"app.kubernetes.io/name": "litellm"});
    let one = workload_world("workload-one").await;
    let two = workload_world("workload-two").await;
    for world in [&one, &two] {
        let subject = format!("system:serviceaccount:{}:litellm", world.namespace);
        let pod = world.pod("litellm-0", pod.clone()).await;
        let mut sidecar = Sidecar::in_pod(world, &pod).await;
        for (server, name, assertion, method, grant) in [
            (
                Server::OidcProvider,
                "grant",
                "JwtBearer",
                Method::None,
                Grant::JwtBearer,
            ),
            (
                Server::Keycloak,
                "client",
                "ClientAssertion",
                Method::Federated {
                    identity_provider: keycloak::CLUSTER.to_owned(),
                    subject: subject.clone(),
                },
                Grant::ClientCredentials,
            ),
        ] {
            if !Server::all().contains(&server) {
                continue;
            }
            let id = format!("{}-{}", world.namespace, server.name());
            let registration = Registration {
                grant,
                resource: format!("https://{name}.example.com/mcp"),
                ..Registration::new(&id, method)
            };
            server.register(&registration).await;
            let authentication = by_account("litellm", json!({"assertion": assertion}));
            let asked = resource(name, name, server.oauth2(&id, authentication));
            world.apply(&asked).await.unwrap();
            world
                .condition(name, conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
                .await;
            let snapshot = sidecar
                .until(|snapshot| credential(snapshot, name).and_then(token_of).is_some())
                .await;
            let claims = jwt::claims(&credential(&snapshot, name).and_then(token_of).unwrap());
            assert!(jwt::is_for(&claims, &registration.resource), "{claims}");
            let granted = server.granted(&id).await;
            assert_eq!(granted[0].grant, grant.name());
            assert_eq!(granted[0].method, server.name_of(&registration.method));
            if server == Server::OidcProvider {
                assert_eq!(claims["sub"], subject, "each as its own, by the same name");
                let requests = oauth::requests(&id).await;
                assert_eq!(requests[0]["assertion"]["aud"], json!([server.issuer()]));
            }
        }
    }

    // An account of the other namespace, or the operator's, is none of this one, however it is written.
    let operators =
        Api::<ServiceAccount>::namespaced(one.client.clone(), &setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"));
    let operators = operators.list(&Default::default()).await.unwrap();
    let operator = operators
        .iter()
        .map(ResourceExt::name_any)
        .find(|name| name != "default");
    let account = json!({"metadata": {"name": "only-of-two"}});
    two.create::<ServiceAccount>(account).await.unwrap();
    for (name, account) in [
        ("other", "only-of-two".to_owned()),
        ("operator", operator.unwrap()),
    ] {
        let id = format!("workload-one-{name}");
        let grant = Registration {
            grant: Grant::JwtBearer,
            ..Registration::new(&id, Method::None)
        };
        Server::OidcProvider.register(&grant).await;
        let authentication = by_account(&account, json!({"assertion": "JwtBearer"}));
        let asked = resource(name, name, Server::OidcProvider.oauth2(&id, authentication));
        one.apply(&asked).await.unwrap();
        let status = one
            .condition(name, conditions::TOKEN_ISSUED, "False", reasons::REQUEST_FAILED)
            .await;
        let said = mcp_auth_tests::world::message(&status, conditions::TOKEN_ISSUED);
        assert!(said.contains(&format!("no ServiceAccount {account}")), "{said}");
        assert_eq!(oauth::requests(&id).await.len(), 0, "nothing was sent");
    }
    let mut elsewhere = resource(
        "elsewhere",
        "elsewhere",
        Server::OidcProvider.oauth2("elsewhere", by_account("workload-two/litellm", json!({}))),
    );
    let refusal = one.apply(&elsewhere).await.unwrap_err().to_string();
    assert!(refusal.contains("serviceAccountRef.name"), "{refusal}");
    elsewhere["spec"]["oauth2"]["clientAuthentication"] = json!({"method": "WorkloadIdentity"});
    let refusal = one.apply(&elsewhere).await.unwrap_err().to_string();
    assert!(
        refusal.contains("needs workloadIdentity.serviceAccountRef"),
        "{refusal}"
    );

    // With a token that the API server accepts, the authorization server could act as the ServiceAccount.
    let id = "methods-workload-api-server";
    let registration = Registration {
        grant: Grant::JwtBearer,
        ..Registration::new(id, Method::None)
    };
    Server::OidcProvider.register(&registration).await;
    let to_api_server = json!({"assertion": "JwtBearer", "audience": "https://kubernetes.default.svc"});
    let asked = resource(
        "api-server",
        "api_server",
        Server::OidcProvider.oauth2(id, by_account("litellm", to_api_server)),
    );
    one.apply(&asked).await.unwrap();
    let status = one
        .condition(
            "api-server",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::REQUEST_FAILED,
        )
        .await;
    let said = mcp_auth_tests::world::message(&status, conditions::TOKEN_ISSUED);
    assert!(said.contains("is the API server's own"), "{said}");
    assert_eq!(oauth::requests(id).await.len(), 0, "nothing was sent");
}

#[tokio::test]
async fn a_namespace_that_may_not_use_workload_identity_is_told_so() {
    let world = world("methods-workload-elsewhere").await;
    apply(
        &world,
        Server::OidcProvider,
        "nobody",
        by_account("default", json!({})),
        json!({}),
    )
    .await;
    let status = world
        .condition("tools", conditions::READY, "False", reasons::NOT_ALLOWED)
        .await;
    let said = mcp_auth_tests::world::message(&status, conditions::READY);
    assert!(said.contains("workloadIdentity.namespaces"), "{said}");
}
