//! Revocation (RFC 7009): a token that nobody needs any more is told to the server that issued it.

use secrecy::{ExposeSecret, SecretString};

use crate::call::Call;
use crate::client::Client;
use crate::request::Form;
use crate::{Error, response};

impl Client {
    /// Revokes a token (RFC 7009). `Ok(false)`: the server offers no revocation, or none for such tokens.
    pub async fn revoke(&self, access_token: &SecretString) -> Result<bool, Error> {
        let server = self.server().await?;
        let Some(endpoint) = server.revocation() else {
            return Ok(false);
        };
        let call = Call {
            endpoint,
            endpoints: &server,
            form: Form::revocation(access_token),
            quote: self.quote.clone().and_sent(access_token.expose_secret()),
            proven: false,
        };
        let (revoked, _) = self.call(call).await?.read(response::read_revocation)?;
        Ok(revoked)
    }
}
