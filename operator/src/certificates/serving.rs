//! The serving certificate in use: what the TLS listener presents, and the authority that clients trust it
//! by.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::warn;

use super::issue::CertificateMaterial;
use super::secret::{Config, renew_if_due};

/// How often the Secret is checked: replicas that find it deleted, or renewed by another one, use the same
/// certificates again after this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The certificates in use. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Certificates(Arc<RwLock<ServingCertificate>>);

struct ServingCertificate {
    /// PEM certificates of the authority.
    authority: String,
    key: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().key.clone())
    }
}

impl Certificates {
    /// Takes the certificates from the Secret, after making or renewing what is due.
    pub async fn load(client: &Client, config: &Config) -> anyhow::Result<Self> {
        let material = renew_if_due(client, config).await?;
        Ok(Self(Arc::new(RwLock::new(ServingCertificate::new(&material)?))))
    }

    /// PEM certificates that clients trust the operator by.
    pub fn authority(&self) -> String {
        self.0.read().authority.clone()
    }

    /// Renews what becomes due, for as long as the operator runs.
    pub async fn keep_renewed(self, client: Client, config: Config) {
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        loop {
            ticks.tick().await;
            let renewed = renew_if_due(&client, &config).await;
            match renewed.and_then(|material| ServingCertificate::new(&material)) {
                Ok(certificate) => *self.0.write() = certificate,
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "the certificates could not be checked"
                ),
            }
        }
    }
}

impl ServingCertificate {
    fn new(material: &CertificateMaterial) -> anyhow::Result<Self> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(material.serving.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(material.serving_key.as_bytes())?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
        Ok(Self {
            authority: material.authority.clone(),
            key: Arc::new(CertifiedKey::new(chain, key)),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client of an API server that accepts connections and never answers.
    async fn client_of_a_silent_api_server() -> (Client, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = kube::Config::new(url.parse().unwrap());
        // The client's own timeouts, which must not stand in for ours.
        (config.connect_timeout, config.read_timeout, config.write_timeout) = (None, None, None);
        (Client::try_from(config).unwrap(), listener)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_is_an_error_and_not_an_endless_wait() {
        let (client, _listener) = client_of_a_silent_api_server().await;
        let config = Config {
            namespace: "mcp-auth".into(),
            secret: "mcp-auth-operator-tls".into(),
            names: vec!["127.0.0.1".into()],
        };
        let waits = tokio::time::timeout(Duration::from_secs(3600), Certificates::load(&client, &config));
        let error = waits.await.expect("it gives up by itself").unwrap_err();
        assert!(
            format!("{error:#}").contains("did not answer within"),
            "{error:#}"
        );
    }
}
