//! Set-ups that do not work at each provider, by answers in the shapes that it documents or that public reports show, and what
//! is said of each. The texts stand in `docs/broken-set-ups.md` too, and are compared with it.

use std::sync::Arc;

use mcp_auth_oauth::{
    AssertionAudience, AssertionSigner, Assertions, Client, ClientAuthentication, ClientSecret,
    ClientSecrets, Error, Grant, Registration, SigningKey, TokenRequest,
};
use serde_json::json;

use crate::server::{self, Server, json};

const PAGE: &str = include_str!("../../../docs/broken-set-ups.md");

/// Provider, what is wrong, status, code, words.
type Refusal = (&'static str, &'static str, u16, &'static str, &'static str);

const REFUSALS: &[Refusal] = &[
    (
        "Entra",
        "the tenant in `tokenUrl` is another's, or none",
        400,
        "invalid_request",
        "AADSTS90002: Tenant '11111111-1111-1111-1111-111111111111' not found. Check to make sure you have the correct \
         tenant ID and are signing into the correct cloud.",
    ),
    (
        "Entra",
        "`clientId` has an object ID",
        400,
        "unauthorized_client",
        "AADSTS700016: Application with identifier '22222222-2222-2222-2222-222222222222' was not found in the directory \
         'Company'.",
    ),
    (
        "Entra",
        "the *Secret ID* in place of the *Value*",
        401,
        "invalid_client",
        "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
         value, not the client secret ID, for a secret added to app '22222222-2222-2222-2222-222222222222'.",
    ),
    (
        "Entra",
        "the secret has ended",
        401,
        "invalid_client",
        "AADSTS7000222: The provided client secret keys for app '22222222-2222-2222-2222-222222222222' are expired.",
    ),
    (
        "Entra",
        "the secret does not arrive, as with a proxy that takes the header off",
        401,
        "invalid_client",
        "AADSTS7000218: The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
    ),
    (
        "Entra",
        "the certificate is not uploaded",
        401,
        "invalid_client",
        "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application.",
    ),
    (
        "Entra",
        "the federated credential has another subject",
        401,
        "invalid_client",
        "AADSTS700213: No matching federated identity record found for presented assertion subject \
         'system:serviceaccount:llm:default'.",
    ),
    (
        "Entra",
        "`scopes` without `/.default`",
        400,
        "invalid_scope",
        "AADSTS1002012: The provided value for scope api://tools is not valid. Client credential flows must have a scope \
         value with /.default suffixed to the resource identifier (application ID URI).",
    ),
    (
        "Entra",
        "`audience` is no application of the tenant",
        400,
        "invalid_resource",
        "AADSTS500011: The resource principal named api://tools was not found in the tenant named Company.",
    ),
    (
        "Entra",
        "no app role, and assignment is required",
        400,
        "invalid_grant",
        "AADSTS501051: Application '22222222-2222-2222-2222-222222222222'(litellm) is not assigned to a role for the \
         application 'api://tools'(tools).",
    ),
    (
        "Entra",
        "no admin consent, on behalf of users",
        400,
        "invalid_grant",
        "AADSTS65001: The user or administrator has not consented to use the application with ID \
         '22222222-2222-2222-2222-222222222222' named 'litellm'.",
    ),
    (
        "Entra",
        "the user's token is for another client",
        400,
        "invalid_grant",
        "AADSTS500131: Assertion audience does not match the Client app presenting the assertion.",
    ),
    (
        "Okta",
        "`issuer` is the org, and the client has a secret",
        400,
        "invalid_client",
        "Client Credentials requests to the Org Authorization Server must use the private_key_jwt \
         token_endpoint_auth_method.",
    ),
    (
        "Okta",
        "a scope that the app was not granted",
        400,
        "consent_required",
        "You are not allowed any of the requested scopes.",
    ),
    (
        "Okta",
        "a scope of another authorization server",
        400,
        "invalid_scope",
        "One or more scopes are not configured for the authorization server resource.",
    ),
    (
        "Okta",
        "no access policy for the client",
        400,
        "access_denied",
        "Policy evaluation failed for this request, please check the policy configurations.",
    ),
    (
        "Okta",
        "`tokenType` with an app that demands DPoP",
        400,
        "invalid_dpop_proof",
        "The DPoP proof JWT header is missing.",
    ),
    (
        "Okta",
        "an app of the type *Web*",
        401,
        "unauthorized_client",
        "The client is not authorized to use the provided grant type. Configured grant types: [authorization_code].",
    ),
    (
        "Auth0",
        "no `audience`",
        403,
        "access_denied",
        "No audience parameter was provided, and no default audience has been configured",
    ),
    (
        "Auth0",
        "`audience` is no API",
        403,
        "access_denied",
        "Service not found: https://tools.company.com/mcp/",
    ),
    (
        "Auth0",
        "the application is not authorized for the API",
        403,
        "access_denied",
        "Client is not authorized to access \"https://tools.company.com/mcp\". You need to create a \"client-grant\" \
         associated to this API. See: https://auth0.com/docs/api/v2#!/Client_Grants/post_client_grants",
    ),
    (
        "Auth0",
        "an application of the type *Single Page*",
        403,
        "unauthorized_client",
        "Grant type 'client_credentials' not allowed for the client.",
    ),
    (
        "Auth0",
        "the secret is wrong",
        401,
        "access_denied",
        "Unauthorized",
    ),
    (
        "Google",
        "a `subject` without domain-wide delegation",
        401,
        "unauthorized_client",
        "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the \
         scopes requested.",
    ),
    (
        "Google",
        "the key was deleted",
        400,
        "invalid_grant",
        "Invalid JWT Signature.",
    ),
    (
        "Google",
        "the clock is off",
        400,
        "invalid_grant",
        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp \
         values in the JWT claim.",
    ),
    (
        "Google",
        "the service account was deleted",
        400,
        "invalid_grant",
        "Invalid grant: account not found",
    ),
    (
        "Google, workload identity",
        "the pool's provider in `audience` is none, or disabled",
        400,
        "invalid_target",
        "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool or \
         provider is disabled or deleted or because it doesn't exist.",
    ),
    (
        "Google, workload identity",
        "`audience` in another form",
        400,
        "invalid_request",
        "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider. See \
         https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.",
    ),
    (
        "Google, workload identity",
        "the ServiceAccount token is for somebody else",
        400,
        "invalid_grant",
        "The audience in ID Token [https://kubernetes.default.svc] does not match the expected audience.",
    ),
    (
        "Google, workload identity",
        "the ServiceAccount token is over",
        400,
        "invalid_grant",
        "ID Token issued at 1764500000 is stale to sign-in.",
    ),
    (
        "Google, workload identity",
        "Google cannot read the cluster's keys",
        400,
        "invalid_grant",
        "Error connecting to the given credential's issuer.",
    ),
    (
        "Google, workload identity",
        "the attribute condition names another ServiceAccount",
        401,
        "unauthorized_client",
        "The given credential is rejected by the attribute condition.",
    ),
    (
        "Cognito",
        "a scope of another pool, or that the client has not",
        400,
        "invalid_scope",
        "",
    ),
    (
        "Cognito",
        "no custom scope is enabled for the client",
        400,
        "invalid_grant",
        "",
    ),
    (
        "Cognito",
        "the client has no secret, or another one",
        400,
        "invalid_client",
        "",
    ),
    (
        "Keycloak",
        "*Service accounts roles* is off",
        401,
        "unauthorized_client",
        "Client not enabled to retrieve service account",
    ),
    (
        "Keycloak",
        "*Client authentication* is off",
        401,
        "unauthorized_client",
        "Public client not allowed to retrieve service account",
    ),
    (
        "Keycloak",
        "the secret is wrong",
        401,
        "unauthorized_client",
        "Invalid client or Invalid client credentials",
    ),
    (
        "Keycloak",
        "*Standard Token Exchange* is off",
        400,
        "invalid_request",
        "Standard token exchange is not enabled for the requested client",
    ),
    (
        "Keycloak",
        "the user's token does not name the client",
        403,
        "access_denied",
        "Client is not within the token audience",
    ),
    (
        "Salesforce",
        "no *Run As* user",
        400,
        "invalid_grant",
        "no client credentials user enabled",
    ),
    (
        "Salesforce",
        "`tokenUrl` at login.salesforce.com",
        400,
        "invalid_grant",
        "request not supported on this domain",
    ),
    (
        "Salesforce",
        "the user is inactive",
        400,
        "inactive_user",
        "user is inactive",
    ),
    (
        "Salesforce",
        "the consumer key of another organization",
        400,
        "invalid_client_id",
        "client identifier invalid",
    ),
    (
        "ServiceNow",
        "the property for client credentials is not set, or the secret is wrong",
        401,
        "server_error",
        "access_denied",
    ),
    (
        "PingFederate",
        "the secret is wrong",
        401,
        "invalid_client",
        "Invalid client or client credentials.",
    ),
    (
        "PingFederate",
        "the client is not allowed the grant",
        400,
        "unauthorized_client",
        "",
    ),
    (
        "PingFederate",
        "no access token manager has that `resource`",
        400,
        "invalid_target",
        "The requested resource is invalid, unknown, or malformed.",
    ),
    (
        "Ory",
        "the client's `audience` has not this one",
        400,
        "invalid_request",
        "The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than \
         once, or is otherwise malformed. Requested audience 'https://tools.company.com/mcp' has not been whitelisted by \
         the OAuth 2.0 Client.",
    ),
    (
        "Ory",
        "the client's `grant_types` lack it",
        400,
        "unauthorized_client",
        "The client is not authorized to request a token using this method. The OAuth 2.0 Client is not allowed to use \
         authorization grant 'client_credentials'.",
    ),
    (
        "Ory",
        "another method than the client is registered for",
        401,
        "invalid_client",
        "Client authentication failed (e.g., unknown client, no client authentication included, or unsupported \
         authentication method). The OAuth 2.0 Client supports client authentication method 'client_secret_post', but \
         method 'client_secret_basic' was requested.",
    ),
    (
        "Zitadel",
        "the key has expired, was deleted, or is an application's",
        400,
        "server_error",
        "invalid signature (error fetching keys: ID=QUERY-SDf32 Message=Errors.AuthNKey.NotFound Parent=(sql: no rows in \
         result set))",
    ),
    (
        "Spring",
        "the client is not allowed the grant",
        400,
        "unauthorized_client",
        "",
    ),
    (
        "Spring",
        "a scope that the client has not",
        400,
        "invalid_scope",
        "",
    ),
    ("Spring", "the secret is wrong", 401, "invalid_client", ""),
];

/// Grants by an assertion are those of Google, Salesforce's first and Zitadel.
fn by_assertion(provider: &str) -> bool {
    ["Google", "Zitadel"].contains(&provider)
}

async fn refused(
    registration: impl FnOnce(Registration) -> Registration,
    refusal: &Refusal,
) -> (Error, usize) {
    let (_, _, status, code, words) = refusal;
    let mut body = json!({"error": code});
    if !words.is_empty() {
        body["error_description"] = json!(words);
    }
    let server = Server::answering([json(&format!("{status} Status"), &body.to_string())]).await;
    server::install_provider();
    let secret = ClientAuthentication::SecretPost("s3cret-of-a-stranger".into());
    let registration = registration(server.registration(secret));
    let client = Client::new(registration).unwrap();
    let error = client.request_token(&TokenRequest::default()).await.unwrap_err();
    (error, server.connections())
}

fn signed(registration: Registration) -> Registration {
    let pair = rcgen::KeyPair::generate().unwrap();
    let signer = AssertionSigner {
        key: SigningKey::parse(&pair.serialize_pem(), None, None).unwrap(),
        issuer: "tools@p.iam.gserviceaccount.com".into(),
        subject: "anna@company.com".into(),
        audience: AssertionAudience::default(),
        claims: [].into(),
    };
    Registration {
        client_id: None,
        authentication: ClientAuthentication::None,
        grant: Grant::JwtBearer(Assertions::Signed(Arc::new(signer))),
        ..registration
    }
}

#[tokio::test]
async fn what_a_stranger_sets_up_wrong_at_each_provider_is_told_with_its_way_out() {
    let mut page = String::new();
    for refusal in REFUSALS {
        let (provider, wrong, status, code, words) = refusal;
        let (error, _) = match by_assertion(provider) {
            true => refused(signed, refusal).await,
            false => refused(|registration| registration, refusal).await,
        };
        assert!(
            error.is_permanent(),
            "{provider}, {wrong}: it is no fault that passes"
        );
        let message = error.message();
        let answer = match words.is_empty() {
            true => (*code).to_owned(),
            false => format!("{code} ({})", words.replace('"', "'")),
        };
        let told = format!("the authorization server answered {answer}: ");
        let hint = message.strip_prefix(&told);
        let hint = hint.unwrap_or_else(|| panic!("{message} is not of {answer}"));
        let shown = match words.char_indices().nth(90) {
            Some((cut, _)) => format!("{}...", &words[..cut].trim_end()),
            None => (*words).to_owned(),
        };
        let shown = format!("{status} `{code}` {shown}");
        page += &format!("| {provider} | {wrong} | {} | {hint} |\n", shown.trim_end());
    }
    assert!(
        PAGE.contains(&page),
        "docs/broken-set-ups.md has other texts than these:\n{page}"
    );
}

/// An alternate secret would be refused for the same reason, and a log full of wrong secrets leads nobody to a setting.
#[tokio::test]
async fn the_alternate_secret_is_tried_where_the_client_is_not_believed_in_whatever_words_and_nowhere_else() {
    let with_two = |registration: Registration| Registration {
        authentication: ClientAuthentication::SecretPost(ClientSecrets {
            first: ClientSecret::new("first-s3cret".into()),
            alternate: Some(ClientSecret::new("second-s3cret".into())),
        }),
        ..registration
    };
    for (provider, wrong, is_of_client) in [
        ("Auth0", "the secret is wrong", true),
        (
            "ServiceNow",
            "the property for client credentials is not set, or the secret is wrong",
            true,
        ),
        ("Keycloak", "the secret is wrong", true),
        ("Entra", "the secret has ended", true),
        ("Cognito", "the client has no secret, or another one", true),
        ("Keycloak", "*Service accounts roles* is off", false),
        ("Okta", "an app of the type *Web*", false),
        ("Auth0", "no `audience`", false),
    ] {
        let refusal = REFUSALS
            .iter()
            .find(|refusal| (refusal.0, refusal.1) == (provider, wrong));
        let (error, requests) = refused(with_two, refusal.unwrap()).await;
        assert_eq!(requests, if is_of_client { 2 } else { 1 }, "{provider}, {wrong}");
        assert_eq!(
            matches!(error, Error::BothSecretsRefused(_)),
            is_of_client,
            "{provider}, {wrong}"
        );
    }
}
