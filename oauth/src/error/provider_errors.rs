//! Provider errors: what identity providers say in words of their own, which tell more than the code, and what to check for each.
//! `docs/broken-set-ups.md` lists them. A server's words choose among these texts and are no part of them.

mod entra;

use oauth2::basic::BasicErrorResponseType as Basic;

use super::{ErrorCode, ErrorResponse};

/// An error that is known by its words.
pub(super) struct ProviderError {
    /// Part of the description, as it is repeated: with `'` for `"`.
    words: &'static str,
    /// With this code alone. `None`: no other provider uses these words.
    code: Option<&'static str>,
    /// What the hint is for: of another grant it would name fields that the resource has not. `None`: any.
    grant: Option<RequestedGrant>,
    /// Whether the client is not believed, where the code and the status say otherwise.
    refuses_client: Option<bool>,
    pub hint: &'static str,
}

/// What a token was requested by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RequestedGrant {
    ClientCredentials,
    /// An assertion that this client signs about itself.
    SignedAssertion,
    /// An assertion that another party has made.
    OtherAssertion,
    /// A token of the platform's, for the service's token.
    WorkloadExchange,
    /// A user's token, for a token of the user's.
    UserExchange,
    GitHubApp,
    /// No token: one is revoked.
    Revocation,
}

const fn known(words: &'static str, hint: &'static str) -> ProviderError {
    ProviderError {
        words,
        code: None,
        grant: None,
        refuses_client: None,
        hint,
    }
}

/// It is not the client that is refused, whatever the code and the status say: its other secret would bring the same.
const fn of_believed_client(words: &'static str, hint: &'static str) -> ProviderError {
    ProviderError {
        words,
        code: None,
        grant: None,
        refuses_client: Some(false),
        hint,
    }
}

impl ProviderError {
    /// Others may say the same with another code.
    const fn with(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    const fn of(self, grant: RequestedGrant) -> Self {
        Self {
            grant: Some(grant),
            ..self
        }
    }
}

const KNOWN: &[ProviderError] = &[
    // Okta: https://developer.okta.com/docs/api/openapi/okta-oauth/guides/overview/, and its help for machines.
    known(
        "not allowed any of the requested scopes",
        "grant the app these scopes (Okta API Scopes), or, if they are the MCP server's own, name its custom \
         authorization server in issuer (https://DOMAIN/oauth2/NAME) and not the org",
    ).with("consent_required"),
    known(
        "must use the private_key_jwt",
        "Okta's org authorization server takes no client secret: name a custom authorization server in issuer \
         (https://DOMAIN/oauth2/NAME), or set clientAuthentication.method: PrivateKeyJwt",
    ),
    known(
        "scopes are not configured for the authorization server",
        "each authorization server of Okta has scopes of its own: add these at the one that issuer names, Security, API, \
         tab Scopes, or correct scopes",
    ),
    known(
        "configured default scopes",
        "state scopes: this authorization server has no default for machines",
    ),
    known(
        "Policy evaluation failed",
        "no access policy of the authorization server lets this client have the token: Security, API, tab Access \
         Policies, a policy for this client with a rule whose grant is Client Credentials and whose scopes include \
         these",
    ).with("access_denied"),
    known(
        "DPoP proof JWT header is missing",
        "set tokenType: DPoP, or turn off at the app: Require Demonstrating Proof of Possession (DPoP) header in token \
         requests",
    ),
    of_believed_client(
        "not authorized to use the provided grant type",
        "allow this client the grant at the authorization server; at Okta an app integration of the type API Services \
         has Client Credentials",
    ).with("unauthorized_client"),
    known(
        "(AuthorizationServer)",
        "Okta has no authorization server of that name: issuer is the Issuer URI in Security, API, such as \
         https://DOMAIN/oauth2/default",
    ),
    // Auth0: https://auth0.com/docs/get-started/authentication-and-authorization-flow/client-credentials-flow
    known(
        "No audience parameter was provided",
        "state audience, the Identifier of an API; provider: Auth0 sends server.url as that",
    ),
    known(
        "Service not found: ",
        "audience is no API of this tenant: it is the Identifier of an API (Applications, APIs), to the letter, a slash \
         at the end included",
    ).with("access_denied"),
    known(
        "client-grant",
        "authorize this application for the API that audience names: Applications, APIs, the API, Machine To Machine \
         Applications",
    ),
    known(
        "not been granted scopes",
        "give the application these scopes of the API (Applications, APIs, the API, Machine To Machine Applications), or \
         request in scopes only what it has",
    ).with("access_denied"),
    of_believed_client(
        "not allowed for the client",
        "allow this client the grant: at Auth0 Applications, the application, Advanced Settings, Grant Types; an \
         application of the type Machine to Machine has Client Credentials",
    ).with("unauthorized_client"),
    // Google: https://developers.google.com/identity/protocols/oauth2/service-account#error-codes
    of_believed_client(
        "unauthorized to retrieve access tokens using this method",
        "Google lets a service account act for jwtBearer.subject by domain-wide delegation only: in the Admin console, \
         Security, API controls, list its numeric client ID with each of scopes; where no user is meant, leave \
         jwtBearer.subject out",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "Invalid JWT Signature",
        "the key in jwtBearer.keyRef is none of that service account, or was deleted or disabled there: make a new key \
         and write its file into the Secret",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "short-lived token",
        "set the operator's clock right: Google takes assertions whose iat and exp are about now",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "Invalid grant: account not found",
        "the service account in the key file (client_email) is not there any more, or disabled: make a key of one that \
         is",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "Invalid email or User ID",
        "jwtBearer.subject is no user of the domain: state a user's primary address, or leave it out",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "Invalid OAuth scope or ID token audience",
        "state in scopes the whole addresses that Google has for them, such as \
         https://www.googleapis.com/auth/cloud-platform",
    ),
    // Google's Security Token Service: https://cloud.google.com/iam/docs/troubleshooting-workload-identity-federation
    known(
        "target service indicated by the 'audience'",
        "audience names no provider of a workload identity pool that is there and enabled: it is \
         //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER, with the \
         project's number and not its ID",
    ).of(RequestedGrant::WorkloadExchange),
    known(
        "should be the full resource name of the Identity Provider",
        "audience is //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER, \
         with the project's number, and nothing before or behind it",
    ).of(RequestedGrant::WorkloadExchange),
    known(
        "does not match the expected audience",
        "the pool's provider expects the ServiceAccount token to be for somebody else: state one of its Allowed audiences \
         in workloadIdentity.audience, or leave that out where they are the default",
    ).of(RequestedGrant::WorkloadExchange),
    known(
        "stale to sign-in",
        "the ServiceAccount token was over when Google read it, though each request has a new one: set the clocks of the \
         API server and the operator right",
    ).of(RequestedGrant::WorkloadExchange),
    known(
        "connecting to the given credential's issuer",
        "Google cannot read the cluster's keys: its issuer has to be reachable by https from the internet, or upload its \
         key set to the pool's provider (gcloud iam workload-identity-pools providers update-oidc --jwk-json-path)",
    ).of(RequestedGrant::WorkloadExchange),
    known(
        "issuer in ID Token",
        "the issuer of the pool's provider has to be the cluster's, to the letter: kubectl get --raw \
         /.well-known/openid-configuration has it",
    ).of(RequestedGrant::WorkloadExchange),
    known(
        "rejected by the attribute condition",
        "the attribute condition of the pool's provider does not let this ServiceAccount through: compare it with \
         system:serviceaccount:NAMESPACE:NAME",
    ).of(RequestedGrant::WorkloadExchange),
    // Keycloak: services/src/main/java/org/keycloak/protocol/oidc/grants and .../tokenexchange of its source.
    of_believed_client(
        "not enabled to retrieve service account",
        "turn on Service accounts roles at the client in Keycloak, Settings, Capability config",
    ),
    of_believed_client(
        "Public client not allowed",
        "turn on Client authentication and Service accounts roles at the client in Keycloak, Settings, Capability config",
    ),
    known(
        "Standard token exchange is not enabled",
        "turn on Standard Token Exchange at the client in Keycloak, Settings, Capability config",
    ),
    known(
        "not within the token audience",
        "the user's token has to name this client in aud: give the client that the user signs in by an audience mapper \
         for it",
    ).of(RequestedGrant::UserExchange),
    // Salesforce: https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_flow_errors.htm
    known(
        "no client credentials user enabled",
        "choose the user that the app acts as: its policies, OAuth policies, Client Credentials Flow, Run As",
    ).of(RequestedGrant::ClientCredentials),
    known(
        "request not supported on this domain",
        "tokenUrl has to be at the organization's own domain (Setup, My Domain: \
         https://COMPANY.my.salesforce.com/services/oauth2/token), and not at login.salesforce.com or \
         test.salesforce.com",
    ),
    known(
        "hasn't approved this consumer",
        "pre-authorize the user of jwtBearer.subject: the app's policies, Admin approved users are pre-authorized, and a \
         permission set or profile of the user",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "not admin approved to access this app",
        "give the user of jwtBearer.subject a permission set or profile that the app's policies name",
    ).of(RequestedGrant::SignedAssertion),
    known(
        "user is inactive",
        "activate the user that the token is for, jwtBearer.subject or the app's Run As user, or name another",
    ).with("inactive_user"),
    known(
        "client identifier invalid",
        "clientId (with jwtBearer its issuer) is the Consumer Key of the app, which Salesforce knows some minutes after it \
         was made; a sandbox does not know those of production",
    ).with("invalid_client_id"),
    known(
        "audience is invalid",
        "jwtBearer.audience has to be what the authorization server calls itself: at Salesforce, where provider: Salesforce \
         sends it, https://login.salesforce.com (of a sandbox https://test.salesforce.com)",
    ).of(RequestedGrant::SignedAssertion),
    // Ory: https://www.ory.com/docs/oauth2-oidc/client-credentials
    known(
        "has not been whitelisted by the OAuth 2.0 Client",
        "add that audience to the client's audience at Ory, or state in audience one that it has",
    ),
    of_believed_client(
        "OAuth 2.0 Client is not allowed to use authorization grant",
        "add the grant to grant_types of the client at Ory",
    ).with("unauthorized_client"),
    known(
        "OAuth 2.0 Client is not allowed to request scope",
        "add that scope to the client's scope at Ory, or leave it out of scopes",
    ),
    of_believed_client(
        "OAuth 2.0 Client supports client authentication method",
        "the client is registered for another method: set clientAuthentication.method to what its \
         token_endpoint_auth_method says, or change that",
    ),
    // Zitadel: its error keys, as https://github.com/zitadel/zitadel has them in internal/static/i18n.
    known(
        "Errors.AuthNKey.NotFound",
        "Zitadel knows no such key: the one in jwtBearer.keyRef has to be a key of a service account, from its tab Keys, \
         that was not deleted and has not expired",
    ).of(RequestedGrant::SignedAssertion),
];

/// All that Auth0 says of a wrong secret, and of an application that it does not know.
const AUTH0: ProviderError = ProviderError {
    words: "Unauthorized",
    code: None,
    grant: None,
    refuses_client: Some(true),
    hint: "check clientId and the client secret, that both are of one application (Applications, Settings), and that issuer \
           names the tenant where it is",
};

/// ServiceNow says this of whatever it refuses. <https://www.servicenow.com/docs/>: client credentials.
const SERVICE_NOW: ProviderError = ProviderError {
    words: "access_denied",
    code: None,
    grant: None,
    refuses_client: Some(true),
    hint: "ServiceNow says this of all that it refuses: check clientId and the client secret, and that the registry entry \
           is active; with jwtBearer its subject, keyId and verifier map; with client credentials the system property \
           glide.oauth.inbound.client.credential.grant_type.enabled and the entry's OAuth Application User. The \
           instance's log says which",
};

impl ErrorResponse {
    /// What is known of these words.
    fn provider_error(&self) -> Option<&'static ProviderError> {
        let description = self.description.as_deref()?;
        let in_whole = [
            (&AUTH0, ErrorCode::AccessDenied),
            (&SERVICE_NOW, ErrorCode::ServerError),
        ];
        let in_whole = in_whole
            .into_iter()
            .find(|(known, code)| self.status == 401 && self.code == *code && description == known.words);
        if let Some((known, _)) = in_whole {
            return Some(known);
        }
        KNOWN.iter().find(|known| {
            let is_of_code = known.code.is_none_or(|code| code == self.code.as_str());
            is_of_code && description.contains(known.words)
        })
    }

    /// What to check, where the provider's own words tell it of a request by this grant.
    pub(crate) fn provider_hint(&self, requested: RequestedGrant) -> Option<&'static str> {
        let of_others = || {
            let known = self.provider_error()?;
            let is_of_grant = known.grant.is_none_or(|grant| grant == requested);
            is_of_grant.then_some(known.hint)
        };
        let of_entra = self.description.as_deref().and_then(entra::hint);
        of_entra.or_else(of_others)
    }

    /// Whether the client is not believed to be who it says. Keycloak says `unauthorized_client` where RFC 6749 says
    /// `invalid_client`, but by the status that is for this only.
    pub(crate) fn is_of_client(&self) -> bool {
        if let Some(refuses_client) = self.provider_error().and_then(|known| known.refuses_client) {
            return refuses_client;
        }
        match self.code {
            ErrorCode::Basic(Basic::InvalidClient) => true,
            ErrorCode::Basic(Basic::UnauthorizedClient) => self.status == 401,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, status: u16, description: &str) -> ErrorResponse {
        ErrorResponse {
            code: ErrorCode::from_standard(code).unwrap(),
            description: Some(description.to_owned()),
            status,
            retry_after: None,
            advice: None,
        }
    }

    #[test]
    fn who_is_believed_and_may_not_is_not_taken_for_a_wrong_secret() {
        let keycloak = said(
            "unauthorized_client",
            401,
            "Client not enabled to retrieve service account",
        );
        assert!(!keycloak.is_of_client());
        let wrong = said(
            "unauthorized_client",
            401,
            "Invalid client or Invalid client credentials",
        );
        assert!(wrong.is_of_client());
        assert!(said("access_denied", 401, "Unauthorized").is_of_client(), "Auth0");
        assert!(!said("access_denied", 401, "No").is_of_client());
        assert!(!said("access_denied", 403, "Service not found: x").is_of_client());
        assert!(
            said("server_error", 401, "access_denied").is_of_client(),
            "ServiceNow"
        );
        assert!(!said("server_error", 500, "access_denied").is_of_client());
    }
}
