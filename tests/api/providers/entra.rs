//! A stand-in of Microsoft Entra's token endpoint, and what needs more than the client's own credentials: tokens on behalf of
//! users, and workload identity by the real API server's keys. Numbers and words are those of
//! <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>; what it verifies is in *certificate credentials*,
//! *OAuth 2.0 client credentials flow*, *on-behalf-of flow* and *workload identity federation* there.

use k8s_openapi::api::core::v1::ServiceAccount;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::documents::read;
use mcp_auth_tests::jwt;
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::resource::merge;
use mcp_auth_tests::sidecar::{Sidecar, bearer, exchange, token_of};
use mcp_auth_tests::web::{Request, Web};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use super::registered::{Credentials, Federated, Registered};
use super::stand_in::{Answer, Provider, issued, providers, refused};
use super::{refusal_of, start_stand_in};

pub const TENANT: &str = "00000000-0000-0000-0000-000000000000";
/// The MCP server's application.
pub const APPLICATION: &str = "22222222-2222-2222-2222-222222222222";
pub const ISSUER_PATH: &str = "/00000000-0000-0000-0000-000000000000/v2.0";
pub const TOKEN_PATH: &str = "/00000000-0000-0000-0000-000000000000/oauth2/v2.0/token";

/// One of those that may use workload identity.
const NAMESPACE: &str = "workload-entra";
const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// What the token endpoint says.
pub fn answer(registered: &Registered, url: &str, request: &Request) -> Answer {
    let bad = |code: &str, words: &str| refused("400 Bad Request", code, words);
    if request.form.contains_key("resource") {
        let words = "AADSTS901002: The 'resource' request parameter is not supported.";
        return bad("invalid_request", words);
    }
    if let Err(refusal) = authenticate(registered, url, request) {
        return refusal;
    }
    let scope = request.parameter("scope");
    let subject = match request.parameter("grant_type") {
        "client_credentials" => registered.client_id.clone(),
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => match user(registered, request) {
            Ok(user) => user,
            Err(refusal) => return refusal,
        },
        other => {
            let words = format!("AADSTS70003: The app requested an unsupported grant type '{other}'.");
            return bad("unsupported_grant_type", &words);
        }
    };
    match scope.strip_suffix("/.default") {
        Some(application) if application == format!("api://{APPLICATION}") => issued(
            json!({
                "iss": format!("https://sts.windows.net/{TENANT}/"), "aud": application, "sub": subject,
                "appid": registered.client_id,
            }),
            Some(3599),
        ),
        Some(application) => {
            let words = format!(
                "AADSTS500011: The resource principal named {application} was not found in the tenant named company."
            );
            bad("invalid_resource", &words)
        }
        None => bad(
            "invalid_scope",
            "AADSTS1002012: The provided value for scope is not valid. Client credential flows must have a scope value \
             with /.default suffixed to the resource identifier.",
        ),
    }
}

/// Who the client is: by secret, by an assertion that its certificate's key signed, or by a federated credential.
fn authenticate(registered: &Registered, url: &str, request: &Request) -> Result<(), Answer> {
    let invalid = |words: &str| Err(refused("401 Unauthorized", "invalid_client", words));
    let client = request.parameter("client_id");
    if client != registered.client_id {
        let words =
            format!("AADSTS700016: Application with identifier '{client}' was not found in the directory.");
        return Err(refused("400 Bad Request", "unauthorized_client", &words));
    }
    let assertion = request.parameter("client_assertion");
    if assertion.is_empty() {
        return match request.parameter("client_secret") {
            "" => invalid(
                "AADSTS7000216: 'client_assertion', 'client_secret' or 'request' is required for the \
                 'client_credentials' grant type.",
            ),
            _ if registered.has_secret(request) => Ok(()),
            _ => invalid(
                "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the \
                 client secret value, not the client secret ID.",
            ),
        };
    }
    if request.parameter("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    {
        return invalid("AADSTS50027: JWT token is invalid or malformed.");
    }
    match &registered.federated {
        Some(federated) => by_federated_credential(federated, assertion),
        None => by_certificate(registered, url, assertion),
    }
}

fn by_certificate(registered: &Registered, url: &str, assertion: &str) -> Result<(), Answer> {
    let invalid = |words: &str| Err(refused("401 Unauthorized", "invalid_client", words));
    let header = jwt::header(assertion);
    if !registered.has_certificate(&header) {
        return invalid(
            "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on \
             application. [Reason - The key was not found.]",
        );
    }
    let is_taken = ["RS256", "PS256"]
        .iter()
        .any(|algorithm| header["alg"] == *algorithm);
    let Some(claims) = registered.signed(assertion).filter(|_| is_taken) else {
        return invalid("AADSTS700027: Client assertion failed signature validation.");
    };
    let audiences = [format!("{url}{TOKEN_PATH}"), format!("{url}{ISSUER_PATH}")];
    if !audiences.iter().any(|audience| claims["aud"] == **audience) {
        return invalid("AADSTS700023: Client assertion audience claim does not match Realm issuer.");
    }
    if !registered.is_client(&claims["iss"]) || claims["sub"] != claims["iss"] {
        return invalid(
            "AADSTS700021: Client assertion application identifier doesn't match 'client_id' parameter.",
        );
    }
    match claims["jti"].is_string() {
        true => Ok(()),
        false => invalid("AADSTS50027: JWT token is invalid or malformed."),
    }
}

fn by_federated_credential(federated: &Federated, assertion: &str) -> Result<(), Answer> {
    let claims = jwt::claims(assertion);
    let unmatched = |number: &str, what: &str, value: &Value| {
        let words = format!(
            "AADSTS{number}: No matching federated identity record found for presented assertion {what} {value}."
        );
        Err(refused("401 Unauthorized", "invalid_client", &words))
    };
    if claims["iss"] != federated.issuer {
        return unmatched("700211", "issuer", &claims["iss"]);
    }
    if !jwt::is_for(&claims, &federated.audience) {
        return unmatched("700212", "audience", &claims["aud"]);
    }
    if claims["sub"] != federated.subject {
        return unmatched("700213", "subject", &claims["sub"]);
    }
    let kid = &jwt::header(assertion)["kid"];
    let key = federated.keys.iter().find(|key| key["kid"] == *kid);
    match key.is_some_and(|key| jwt::verify(assertion, key).is_ok()) {
        true => Ok(()),
        false => Err(refused(
            "401 Unauthorized",
            "invalid_client",
            "AADSTS5000223: The signature of the assertion is invalid.",
        )),
    }
}

/// The user of the token that a request is on behalf of.
fn user(registered: &Registered, request: &Request) -> Result<String, Answer> {
    let bad = |code: &str, words: &str| Err(refused("400 Bad Request", code, words));
    if request.parameter("requested_token_use") != "on_behalf_of" {
        let words =
            "AADSTS900144: The request body must contain the following parameter: 'requested_token_use'.";
        return bad("invalid_request", words);
    }
    let assertion = request.parameter("assertion");
    let verified = registered
        .user_token_key
        .as_ref()
        .and_then(|key| jwt::verify(assertion, key).ok());
    let Some(claims) = verified else {
        return bad(
            "invalid_grant",
            "AADSTS50013: Assertion failed signature validation.",
        );
    };
    if !registered.is_client(&claims["aud"]) {
        let words =
            "AADSTS500131: Assertion audience does not match the Client app presenting the assertion.";
        return bad("invalid_grant", words);
    }
    Ok(claims["sub"].as_str().unwrap_or_default().to_owned())
}

fn entra() -> Provider {
    providers().swap_remove(0)
}

/// The resource of this index on the page, with its Secrets, at a stand-in where its client is registered.
async fn page_at_stand_in(
    world: &World,
    index: usize,
    credentials: &Credentials,
    change: impl FnOnce(&mut Registered),
) -> (Web, Value) {
    let mut tools = read("docs/providers/entra.md").yaml().swap_remove(index);
    tools["metadata"]["name"] = json!("tools");
    tools["spec"]["server"]["name"] = json!("tools");
    let oauth2 = &mut tools["spec"]["oauth2"];
    credentials.write(world, oauth2).await;
    let mut registered = Registered::new(oauth2, credentials).await;
    change(&mut registered);
    let web = start_stand_in(&entra(), registered, oauth2).await;
    (web, tools)
}

#[tokio::test]
async fn a_token_on_behalf_of_a_user_is_for_tokens_of_this_client_alone() {
    let world = World::new("providers-entra-obo", false).await;
    let credentials = Credentials::new("the-client").await;
    let tenant = Key::new("RS256", "of-the-tenant").await;
    let tenant_key = tenant.jwk().await;
    let (_web, tools) = page_at_stand_in(&world, 1, &credentials, |registered| {
        registered.user_token_key = Some(tenant_key);
    })
    .await;
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    let client = &tools["spec"]["oauth2"]["clientId"];
    let service = jwt::claims(&bearer(&snapshot, "tools").unwrap());
    assert_eq!(service["sub"], *client, "discovery has the client's own");

    let token = |key: &Key, audience: &Value| {
        let claims = json!({
            "iss": format!("https://sts.windows.net/{TENANT}/"), "sub": "alice", "aud": audience,
            "iat": jwt::now(), "exp": jwt::now() + 600,
        });
        jwt::sign(key, &claims)
    };
    let exchanged = exchange(&world, &pod, "tools", &token(&tenant, client), None).await;
    let claims = jwt::claims(&token_of(&exchanged.unwrap()).unwrap());
    assert_eq!(
        (&claims["sub"], &claims["appid"], &claims["aud"]),
        (&json!("alice"), client, &json!(format!("api://{APPLICATION}")))
    );
    let stranger = Key::new("RS256", "of-the-tenant").await;
    let front_end = json!("44444444-4444-4444-4444-444444444444");
    for (subject, number) in [
        (token(&tenant, &front_end), "AADSTS500131"),
        (token(&stranger, client), "AADSTS50013"),
    ] {
        let refused = exchange(&world, &pod, "tools", &subject, None).await.unwrap_err();
        let told = refused.problem.message;
        assert!(
            told.contains("invalid_grant")
                && told.contains(number)
                && told.contains("not one for this client"),
            "{told}"
        );
        assert!(!told.contains(&subject), "{told}");
    }
}

/// The issuer and the keys of the real API server, as it publishes them.
async fn cluster(world: &World) -> (String, Vec<Value>) {
    let get = async |path: &str| -> Value {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        world.client.request(request).await.unwrap()
    };
    let issuer = get("/.well-known/openid-configuration").await["issuer"].clone();
    let keys = get("/openid/v1/jwks").await["keys"].as_array().cloned();
    (issuer.as_str().unwrap().to_owned(), keys.unwrap())
}

#[tokio::test]
async fn a_service_account_is_the_client_where_a_federated_credential_names_it() {
    let world = World::in_namespace(NAMESPACE).await;
    for account in ["default", "another", "litellm"] {
        let account = json!({"metadata": {"name": account}});
        world.create::<ServiceAccount>(account).await.unwrap();
    }
    let (issuer, keys) = cluster(&world).await;
    let credentials = Credentials::new("nobody").await;
    let (_web, mut tools) = page_at_stand_in(&world, 0, &credentials, |registered| {
        registered.federated = Some(Federated {
            issuer,
            subject: format!("system:serviceaccount:{NAMESPACE}:litellm"),
            audience: EXCHANGE_AUDIENCE.to_owned(),
            keys,
        });
    })
    .await;
    let by_account = |account: &str, more: Value| {
        let mut workload = json!({"serviceAccountRef": {"name": account}});
        merge(&mut workload, more);
        json!({"method": "WorkloadIdentity", "workloadIdentity": workload})
    };
    for (authentication, number) in [
        (by_account("another", json!({})), "AADSTS700213"),
        (
            by_account("litellm", json!({"audience": "api://Another"})),
            "AADSTS700212",
        ),
    ] {
        tools["spec"]["oauth2"]["clientAuthentication"] = authentication;
        let applied = world.apply(&tools).await.unwrap();
        let told = refusal_of(&world, &applied, "invalid_client", number).await;
        assert!(told.contains("system:serviceaccount:"), "{told}");
    }
    tools["spec"]["oauth2"]["clientAuthentication"] = by_account("litellm", json!({}));
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    let claims = jwt::claims(&bearer(&snapshot, "tools").unwrap());
    assert_eq!(claims["appid"], tools["spec"]["oauth2"]["clientId"]);
}
