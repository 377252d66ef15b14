//! Token digest: equal for registrations that would bring the very same token, secrets included.

use std::time::Duration;

use ring::digest::{Context, SHA256};
use secrecy::ExposeSecret;

use super::{
    ClientAssertionType, ClientAuthentication, ClientSecrets, Grant, Registration, ServerLocation,
    ZeroExpiresIn,
};
use crate::jose::assertion::{AssertionAudience, AssertionSigner, Assertions};
use crate::{SigningKey, TokenCheckMode, TokenType};

/// Of what a token request is made of and its token compared with. It is not told what.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TokenDigest([u8; 32]);

/// Each part with its length, so that no two lists of parts are one text.
struct Parts(Context);

impl TokenDigest {
    /// `None`: the token is its client's alone. That is so where it is bound to a key or a certificate, where it is requested of a
    /// server that an MCP server names, and where it is asked for by an assertion that is made by somebody else each time.
    /// `deadline` is that of one request.
    pub fn of(registration: &Registration, deadline: Duration) -> Option<Self> {
        let Registration {
            server,
            client_id,
            authentication,
            certificate,
            grant,
            token_type,
            // Of users' tokens.
            token_exchange: _,
            scopes,
            audience,
            resource,
            extra_parameters,
            secret_parameters,
            check,
            zero_expires_in,
            ca_bundle,
            egress_proxy,
            allow_insecure_http,
            allow_private_addresses,
            // The same in the whole process.
            destinations: _,
        } = registration;
        if certificate.is_some() || *token_type == TokenType::DPoP {
            return None;
        }
        let mut parts = Parts(Context::new(&SHA256));
        match server {
            ServerLocation::Endpoints {
                token_url,
                revocation_url,
            } => parts
                .add("token_url", token_url)
                .add_some(revocation_url.as_deref()),
            ServerLocation::Issuer(issuer) => parts.add("issuer", issuer),
            ServerLocation::ProtectedResource { .. } => return None,
        };
        parts.add_some(client_id.as_ref().map(|id| id.as_str()));
        parts.add_authentication(authentication)?.add_grant(grant)?;
        parts.add_list(scopes.iter().map(|scope| scope.as_str()));
        parts.add_some(audience.as_deref()).add_some(resource.as_deref());
        parts.add_list(
            extra_parameters
                .iter()
                .flat_map(|(name, value)| [name.as_str(), value]),
        );
        let secret_parameters = secret_parameters.iter();
        parts.add_list(secret_parameters.flat_map(|(name, value)| [name.as_str(), value.expose_secret()]));
        parts.add(
            "mode",
            match check.mode {
                TokenCheckMode::Enforce => "enforce",
                TokenCheckMode::Report => "report",
                TokenCheckMode::Off => "off",
            },
        );
        parts.add_list(check.accepted_audiences.iter().map(String::as_str));
        parts.add_list(check.accepted_issuers.iter().map(String::as_str));
        parts.add(
            "zero_expires_in",
            match zero_expires_in {
                ZeroExpiresIn::Expired => "expired",
                ZeroExpiresIn::Unlimited => "unlimited",
            },
        );
        // By another way the same server may not be reached, and that is told to whom it concerns.
        parts.add_some(ca_bundle.as_deref());
        let proxy = egress_proxy.iter().flat_map(|proxy| proxy.identifying_parts());
        parts.add_list(proxy.collect::<Vec<_>>().iter().map(String::as_str));
        for allowed in [*allow_insecure_http, *allow_private_addresses] {
            parts.add("allowed", if allowed { "yes" } else { "no" });
        }
        // Whoever requests has the others wait for as long as it does itself.
        parts.add("deadline", &deadline.as_millis().to_string());
        let digest = parts.0.finish();
        Some(Self(digest.as_ref().try_into().ok()?))
    }
}

impl Parts {
    fn add(&mut self, name: &str, value: &str) -> &mut Self {
        for text in [name, value] {
            self.0.update(&(text.len() as u64).to_be_bytes());
            self.0.update(text.as_bytes());
        }
        self
    }

    fn add_some(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.add("some", value),
            None => self.add("none", ""),
        }
    }

    fn add_list<'a>(&mut self, values: impl IntoIterator<Item = &'a str>) -> &mut Self {
        for value in values {
            self.add("item", value);
        }
        self.add("end", "")
    }

    fn add_authentication(&mut self, authentication: &ClientAuthentication) -> Option<&mut Self> {
        Some(match authentication {
            ClientAuthentication::None => self.add("method", "none"),
            ClientAuthentication::SecretBasic(secrets) => self.add("method", "basic").add_secrets(secrets),
            ClientAuthentication::SecretPost(secrets) => self.add("method", "post").add_secrets(secrets),
            ClientAuthentication::PrivateKeyJwt { key, audience } => self
                .add("method", "private_key_jwt")
                .add_key(key)
                .add_audience(audience),
            ClientAuthentication::Assertion(assertions, kind) => {
                let kind = match kind {
                    ClientAssertionType::JwtBearer => "assertion",
                    ClientAssertionType::JwtSpiffe => "spiffe",
                };
                self.add("method", kind).add_assertions(assertions)?
            }
            ClientAuthentication::Tls(_) => return None,
        })
    }

    fn add_grant(&mut self, grant: &Grant) -> Option<&mut Self> {
        Some(match grant {
            Grant::ClientCredentials => self.add("grant", "client_credentials"),
            Grant::JwtBearer(assertions) => self.add("grant", "jwt-bearer").add_assertions(assertions)?,
            Grant::TokenExchange(assertions) => {
                self.add("grant", "token-exchange").add_assertions(assertions)?
            }
            Grant::GitHubApp(app) => {
                self.add("grant", "github")
                    .add("app", &app.app_id.to_string())
                    .add_key(&app.key);
                self.add_list(app.repositories.iter().map(String::as_str));
                let permissions = app.permissions.iter();
                self.add_list(permissions.flat_map(|(name, access)| [name.as_str(), access]))
            }
        })
    }

    fn add_secrets(&mut self, secrets: &ClientSecrets) -> &mut Self {
        let alternate = secrets.alternate.as_ref().map(|secret| secret.secret().as_str());
        self.add("secret", secrets.first.secret()).add_some(alternate)
    }

    fn add_assertions(&mut self, assertions: &Assertions) -> Option<&mut Self> {
        Some(match assertions {
            Assertions::Given(assertion) => self.add("given", assertion.expose_secret()),
            Assertions::Signed(signer) => {
                let AssertionSigner {
                    key,
                    issuer,
                    subject,
                    audience,
                    claims,
                } = &**signer;
                self.add("issuer", issuer)
                    .add("subject", subject)
                    .add_key(key)
                    .add_audience(audience);
                self.add_list(claims.iter().flat_map(|(name, value)| [name.as_str(), value]))
            }
            Assertions::From(_) => return None,
        })
    }

    fn add_audience(&mut self, audience: &AssertionAudience) -> &mut Self {
        match audience {
            AssertionAudience::Issuer => self.add("audience", "issuer"),
            AssertionAudience::TokenEndpoint => self.add("audience", "token_endpoint"),
            AssertionAudience::Stated(stated) => self.add("stated", stated),
        }
    }

    /// By its public half, which no other key has.
    fn add_key(&mut self, key: &SigningKey) -> &mut Self {
        let certificate = key.certificate().map(|thumbprints| thumbprints.sha256.as_str());
        self.add("key", &key.public_thumbprint())
            .add("algorithm", key.algorithm().as_str());
        self.add_some(key.key_id()).add_some(certificate)
    }
}

#[cfg(test)]
mod tests;
