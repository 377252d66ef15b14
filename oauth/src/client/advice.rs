//! Advice: from a refused request to what to check first, where the request says more than the server's code.

use oauth2::basic::BasicErrorResponseType as Basic;
use url::form_urlencoded::byte_serialize;

use crate::discovery::endpoints::Endpoints;
use crate::error::RequestedGrant;
use crate::jose::assertion::Assertions;
use crate::token_request::client_auth;
use crate::{
    Advice, ClientAuthentication, Error, ErrorCode, ErrorResponse, Grant, Registration, ScopeOrigin,
};

/// Adds advice to an error answer.
pub(super) fn add(
    error: Error,
    registration: &Registration,
    server: &Endpoints,
    by_token_exchange: bool,
) -> Error {
    match error {
        Error::Rejected(mut rejection) => {
            rejection.advice = advice(&rejection, registration, server, by_token_exchange);
            Error::Rejected(rejection)
        }
        Error::BothSecretsRefused(mut rejection) => {
            rejection.advice = of_provider(&rejection, registration, by_token_exchange);
            Error::BothSecretsRefused(rejection)
        }
        other => other,
    }
}

/// Adds what the provider's own words say of a refused revocation.
pub(super) fn add_to_revocation(error: Error) -> Error {
    let of_provider = |rejection: &ErrorResponse| {
        rejection
            .provider_hint(RequestedGrant::Revocation)
            .map(Advice::OfProvider)
    };
    match error {
        Error::Rejected(mut rejection) => {
            rejection.advice = of_provider(&rejection);
            Error::Rejected(rejection)
        }
        Error::BothSecretsRefused(mut rejection) => {
            rejection.advice = of_provider(&rejection);
            Error::BothSecretsRefused(rejection)
        }
        other => other,
    }
}

fn advice(
    rejection: &ErrorResponse,
    registration: &Registration,
    server: &Endpoints,
    by_token_exchange: bool,
) -> Option<Advice> {
    if let Some(known) = of_provider(rejection, registration, by_token_exchange) {
        return Some(known);
    }
    if rejection.is_of_client() {
        return match &registration.authentication {
            ClientAuthentication::SecretBasic(_) if is_encoded(registration) => Some(Advice::EncodedBasic),
            ClientAuthentication::PrivateKeyJwt { .. } => Some(Advice::AssertionAudience),
            _ => None,
        };
    }
    match (&rejection.code, &registration.grant) {
        (ErrorCode::Basic(Basic::InvalidScope), _) if registration.scopes.is_empty() => {
            let metadata = server.metadata().filter(|metadata| !metadata.scopes.is_empty())?;
            Some(match metadata.scope_origin {
                ScopeOrigin::Challenge => Advice::ScopesOfChallenge,
                ScopeOrigin::Metadata => Advice::ScopesOfMetadata,
            })
        }
        (ErrorCode::Basic(Basic::InvalidGrant), Grant::JwtBearer(Assertions::Given(_)))
            if !by_token_exchange =>
        {
            Some(Advice::AssertionOfSecret)
        }
        (ErrorCode::Basic(Basic::InvalidGrant), Grant::ClientCredentials) if !by_token_exchange => {
            Some(Advice::ClientWithoutAssertion)
        }
        _ => None,
    }
}

fn of_provider(
    rejection: &ErrorResponse,
    registration: &Registration,
    by_token_exchange: bool,
) -> Option<Advice> {
    let requested = match &registration.grant {
        _ if by_token_exchange => RequestedGrant::UserExchange,
        Grant::ClientCredentials => RequestedGrant::ClientCredentials,
        Grant::JwtBearer(Assertions::Signed(_)) => RequestedGrant::SignedAssertion,
        Grant::JwtBearer(_) => RequestedGrant::OtherAssertion,
        Grant::TokenExchange(_) => RequestedGrant::WorkloadExchange,
        Grant::GitHubApp(_) => RequestedGrant::GitHubApp,
    };
    rejection.provider_hint(requested).map(Advice::OfProvider)
}

/// Whether what the Authorization header holds differs from what a server reads that does not decode it.
fn is_encoded(registration: &Registration) -> bool {
    let differs = |text: &str| byte_serialize(text.as_bytes()).collect::<String>() != text;
    let secrets = client_auth::secrets(registration);
    registration.client_id.as_ref().is_some_and(|id| differs(id))
        || secrets.is_some_and(|secrets| differs(secrets.first.secret()))
}
