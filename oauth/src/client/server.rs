//! The authorization server that a client asks: as its registration states it, or as it is discovered and judged.

use std::sync::Arc;

use tokio::sync::watch;
use url::Url;

use super::Client;
use crate::discovery::endpoints::Endpoints;
use crate::{DiscoveryError, Error, ServerMetadata};

impl Client {
    /// Tells of each server that is discovered, also where it is as it was. `None`: the registration states its endpoints.
    pub(crate) fn subscribe_discovered(&self) -> Option<watch::Receiver<Option<Arc<ServerMetadata>>>> {
        self.discovery.as_ref().map(|discovery| discovery.subscribe())
    }

    /// Looks the authorization server up, unless it was found within the hour, and judges its token endpoint. Sends no
    /// secret.
    pub async fn discover(&self) -> Result<(), Error> {
        self.server().await.map(drop)
    }

    /// The same, and the identity provider of this client's exchanges.
    pub(crate) async fn discover_for_users(&self) -> Result<(), Error> {
        self.discover().await?;
        match &self.identity_provider {
            Some(identity_provider) => identity_provider
                .discover()
                .await
                .map_err(|error| Error::IdentityProvider(Box::new(error))),
            None => Ok(()),
        }
    }

    /// The identity provider of this client's exchanges as it was discovered last. `None`: there is none, nothing is
    /// discovered yet, or the registration states its endpoint.
    pub fn discovered_identity_provider(&self) -> Option<Arc<ServerMetadata>> {
        self.identity_provider.as_ref()?.discovered_server()
    }

    pub(crate) fn subscribe_identity_provider(&self) -> Option<watch::Receiver<Option<Arc<ServerMetadata>>>> {
        self.identity_provider.as_ref()?.subscribe_discovered()
    }

    /// The server to ask: as the registration states it, or as it is discovered.
    pub(crate) async fn server(&self) -> Result<Arc<Endpoints>, Error> {
        match (&self.stated, &self.discovery) {
            (Some(endpoints), _) => Ok(Arc::clone(endpoints)),
            (None, Some(discovery)) => {
                let metadata = discovery.server().await?;
                let endpoints = Endpoints::discovered(metadata, self.registration.allow_insecure_http)
                    .and_then(|endpoints| {
                        let token_endpoint = endpoints.token_for(self.certificate.is_some());
                        self.allow_discovered(&endpoints, "token_endpoint", token_endpoint)?;
                        Ok(endpoints)
                    });
                if endpoints.is_err() {
                    // Who runs that server may mend its metadata within the hour.
                    discovery.invalidate_unless_fresh().await;
                }
                Ok(Arc::new(endpoints?))
            }
            (None, None) => Err(Error::InvalidUrl {
                problem: "is not set, and nothing says where to discover it",
            }),
        }
    }

    /// Judges an endpoint that metadata name by the administrator's policy, before an assertion is made for it. One that
    /// the registration states was judged with the resource.
    pub(crate) fn allow_discovered(
        &self,
        endpoints: &Endpoints,
        field: &'static str,
        url: &Url,
    ) -> Result<(), Error> {
        let Some(metadata) = endpoints.metadata() else {
            return Ok(());
        };
        self.registration
            .destinations
            .check(url)
            .map_err(|error| DiscoveryError::endpoint_not_allowed(&metadata.issuer, field, error).into())
    }
}
