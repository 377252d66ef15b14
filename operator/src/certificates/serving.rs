//! The serving certificate in use: what the TLS listener presents, and the authority that clients trust it
//! by.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use mcp_auth_protocol::timeouts::HEARTBEAT;
use mcp_auth_resilience::exponential;
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::Instant;
use tracing::{info, warn};

use super::check::{certificate_expiry, is_trusted, serves, serving_key};
use super::fingerprint;
use super::folder::read_folder;
use super::material::CertificateMaterial;
use super::secret::{SecretName, renew_if_due};
use crate::liveness::Liveness;
use crate::metrics::Metrics;

/// How often the Secret is checked: replicas that find it deleted, or renewed by another one, use the same
/// certificates again after this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(20);
/// Longest time of one check, with all its calls.
const CHECK_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time that one attempt at the start may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait between two of them.
const LOAD_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// How long a new authority is published before a certificate of it is served: connected sidecars are told of
/// it with a heartbeat, and the API server trusts it by then.
const PUBLICATION: Duration = Duration::from_secs(60);
const _: () = assert!(PUBLICATION.as_secs() >= 3 * HEARTBEAT.as_secs());

/// How often files are read again: whoever mounts them tells nobody.
const FOLDER_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Where the certificates are, and for which names.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    /// DNS names and IP addresses that the API server and the sidecars call the operator by.
    pub names: Vec<String>,
}

/// Who makes and renews the certificates.
#[derive(Clone, Debug)]
pub enum Source {
    /// The operator, in a Secret of its own.
    Secret(SecretName),
    /// Somebody else, in files of this folder.
    Folder(PathBuf),
}

impl Config {
    /// What there is now, after making or renewing what is due where that is the operator's to do, and whether there was nothing
    /// before. `remembered` is what this replica uses.
    async fn current(
        &self,
        client: &Client,
        remembered: Option<&CertificateMaterial>,
    ) -> anyhow::Result<(CertificateMaterial, bool)> {
        match &self.source {
            Source::Secret(secret) => renew_if_due(client, secret, &self.names, remembered).await,
            Source::Folder(folder) => {
                let material = read_folder(folder, &self.names, remembered, Timestamp::now())?;
                Ok((material, false))
            }
        }
    }

    fn check_interval(&self) -> Duration {
        match self.source {
            Source::Secret(_) => CHECK_INTERVAL,
            Source::Folder(_) => FOLDER_CHECK_INTERVAL,
        }
    }
}

/// The certificates in use. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Certificates(Arc<RwLock<ServingCertificate>>);

struct ServingCertificate {
    /// What the Secret or the files hold.
    material: CertificateMaterial,
    key: Arc<CertifiedKey>,
    /// A certificate of an authority that clients have still to learn of, and since when that is published.
    upcoming: Option<(Arc<CertifiedKey>, Instant)>,
    /// There were none before.
    is_first: bool,
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

/// Whether the API server could not be asked, or refused: it may answer otherwise in a moment.
fn is_of_api_server(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<kube::Error>())
}

impl Certificates {
    /// Takes the certificates from where they are, after making or renewing what is due.
    pub async fn load(client: &Client, config: &Config) -> anyhow::Result<Self> {
        let (material, is_first) = config.current(client, None).await?;
        let serving = ServingCertificate::new(material, is_first)?;
        Ok(Self(Arc::new(RwLock::new(serving))))
    }

    /// The same, once the API server answers: an operator that starts while it is away waits, and is no better off for
    /// being started anew. What no waiting mends is an error.
    pub async fn load_when_possible(client: &Client, config: &Config) -> anyhow::Result<Self> {
        let mut failures = 0;
        loop {
            let loaded = tokio::time::timeout(LOAD_TIMEOUT, Self::load(client, config)).await;
            let error = match loaded {
                Ok(Ok(certificates)) => return Ok(certificates),
                Ok(Err(error)) if !is_of_api_server(&error) => return Err(error),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no answer within {} s", LOAD_TIMEOUT.as_secs()),
            };
            let wait = exponential(LOAD_BACKOFF.0, failures, LOAD_BACKOFF.1);
            failures = failures.saturating_add(1);
            warn!(
                error,
                seconds = wait.as_secs(),
                "the API server does not answer, or not as it should; trying again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// PEM certificates that clients trust the operator by.
    pub fn authority(&self) -> String {
        self.0.read().material.authority.clone()
    }

    /// Whether there were none when this replica started: it is the first of an installation.
    pub fn are_first(&self) -> bool {
        self.0.read().is_first
    }

    pub fn has_authority(&self, authority: &str) -> bool {
        self.0.read().material.authority == authority
    }

    /// By which sidecars of this namespace fingerprint values in their audit logs. Each namespace has its own, so
    /// that no pod can try guesses against the fingerprints of another namespace.
    pub fn fingerprint_key(&self, namespace: &str) -> String {
        fingerprint::key_of(&self.0.read().material.fingerprint_key, namespace)
    }

    /// Whether a client that knows the authorities of this PEM bundle takes what is served for all of the names.
    pub fn is_trusted_by(&self, bundle: &str, names: &[String]) -> bool {
        is_trusted(&self.0.read().key, bundle, names, Timestamp::now())
    }

    fn set_metrics(&self, metrics: &Metrics) {
        let serving = self.0.read();
        let [authority, leaf] = [&serving.material.authority, &serving.material.serving]
            .map(|pem| certificate_expiry(pem).map(Timestamp::as_second));
        metrics.set_certificates(authority, leaf);
    }

    /// Renews what becomes due, or takes what somebody else renewed, for as long as the operator runs.
    pub async fn keep_renewed(self, client: Client, config: Config, liveness: Liveness, metrics: Metrics) {
        let mut ticks = tokio::time::interval(config.check_interval());
        loop {
            ticks.tick().await;
            liveness.beat("certificates");
            self.set_metrics(&metrics);
            let remembered = self.0.read().material.clone();
            let renewing = config.current(&client, Some(&remembered));
            let renewed = tokio::time::timeout(CHECK_TIMEOUT, renewing).await;
            let renewed = renewed.unwrap_or_else(|_| Err(anyhow::anyhow!("it took too long")));
            let replaced = renewed.and_then(|(material, _)| {
                let now = (Timestamp::now(), Instant::now());
                self.0.write().replace(material, &config.names, now)
            });
            match replaced {
                Ok(()) => {}
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "the certificates could not be checked"
                ),
            }
        }
    }
}

#[cfg(test)]
impl Certificates {
    /// Of an authority of its own, as of a new installation.
    pub fn self_made() -> Self {
        let names = ["127.0.0.1".to_owned()];
        let material = super::issue::new_authority(&names, Timestamp::now()).unwrap();
        Self(Arc::new(RwLock::new(
            ServingCertificate::new(material, false).unwrap(),
        )))
    }
}

impl ServingCertificate {
    fn new(material: CertificateMaterial, is_first: bool) -> anyhow::Result<Self> {
        Ok(Self {
            key: Arc::new(serving_key(&material)?),
            material,
            upcoming: None,
            is_first,
        })
    }

    /// Publishes the authorities at once, and serves the certificate as soon as those trust it who knew the
    /// authorities before.
    fn replace(
        &mut self,
        material: CertificateMaterial,
        names: &[String],
        (time, now): (Timestamp, Instant),
    ) -> anyhow::Result<()> {
        let key = Arc::new(serving_key(&material)?);
        let before = std::mem::replace(&mut self.material, material);
        if key.cert == self.key.cert {
            self.upcoming = None;
            return Ok(());
        }
        let published_since = match &self.upcoming {
            Some((upcoming, since)) if upcoming.cert == key.cert => *since,
            _ => now,
        };
        let known_before = CertificateMaterial {
            authority: before.authority,
            ..self.material.clone()
        };
        let is_new_authority = self.upcoming.is_some() || !serves(&known_before, names, time);
        if is_new_authority && now < published_since + PUBLICATION {
            self.upcoming = Some((key, published_since));
        } else {
            info!("a new serving certificate is in use");
            self.key = key;
            self.upcoming = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::issue::{new_authority, new_serving, next_material};
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
            source: Source::Secret(SecretName {
                namespace: "mcp-auth".into(),
                name: "mcp-auth-operator-tls".into(),
            }),
            names: vec!["127.0.0.1".into()],
        };
        let waits = tokio::time::timeout(Duration::from_secs(3600), Certificates::load(&client, &config));
        let error = waits.await.expect("it gives up by itself").unwrap_err();
        assert!(
            format!("{error:#}").contains("did not answer within"),
            "{error:#}"
        );
    }

    #[test]
    fn a_new_authority_is_published_before_it_is_served() {
        let names = vec!["127.0.0.1".to_owned()];
        let time = Timestamp::now();
        let began = Instant::now();
        let [old, new] = [(); 2].map(|()| new_authority(&names, time).unwrap());
        let mut serving = ServingCertificate::new(old.clone(), false).unwrap();
        let (old_leaf, new_leaf) = (serving.key.cert.clone(), serving_key(&new).unwrap().cert);
        let both = next_material(Some(&new), Some(&old), &names, time).unwrap();
        for (seconds, leaf) in [(0, &old_leaf), (20, &old_leaf), (40, &old_leaf), (60, &new_leaf)] {
            let now = began + Duration::from_secs(seconds);
            serving.replace(both.clone(), &names, (time, now)).unwrap();
            assert!(serving.material.authority == both.authority);
            assert!(serving.key.cert == *leaf, "after {seconds} s");
        }
        // A new certificate of an authority that is known needs no such time.
        let renewed = new_serving(&both, &names, time).unwrap();
        serving.replace(renewed.clone(), &names, (time, began)).unwrap();
        assert!(serving.key.cert == serving_key(&renewed).unwrap().cert);
    }
}
