//! `certificates.certManager`: somebody else issues and rotates the operator's certificate. cert-manager, its cainjector
//! and the kubelet are stand-ins here; the Secret and the webhook configuration are real.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use mcp_auth_tests::replica::Replica;
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::seen;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::installation::{Installation, litellm, sidecar_of};

/// An issuer with an authority of its own.
struct CertManager {
    authority: String,
    authority_key: String,
}

/// What it writes into the Secret.
struct Issued {
    authority: String,
    chain: String,
    key: String,
}

impl CertManager {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        Self {
            authority,
            authority_key: key.serialize_pem(),
        }
    }

    /// A certificate with a key of its own, for what a Certificate asks for and for where this test listens.
    fn issue(&self, certificate: &Value) -> Issued {
        let names = certificate["spec"]["dnsNames"].as_array().unwrap();
        let mut names: Vec<String> = names
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        names.push("127.0.0.1".to_owned());
        let authority_key = KeyPair::from_pem(&self.authority_key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.authority, authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap()
            .pem();
        let key = key.serialize_pem();
        seen::note(&key);
        Issued {
            authority: self.authority.clone(),
            chain,
            key,
        }
    }
}

struct Cluster {
    installation: Installation,
    /// Where LiteLLM runs.
    litellm: World,
    mounted: PathBuf,
}

impl Cluster {
    async fn new(name: &str) -> Self {
        let litellm = World::new(&format!("{name}-litellm"), true).await;
        let values = json!({
            "certificates": {"certManager": {"enabled": true}},
            "watchNamespaces": [litellm.namespace],
        });
        let installation = Installation::new(name, values).await;
        let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
        litellm.apply(&resource("tools", "tools", given)).await.unwrap();
        let mounted = installation.folder.join("certificates");
        Self {
            installation,
            litellm,
            mounted,
        }
    }

    /// The Certificate of the chart.
    fn certificate(&self) -> &Value {
        self.installation
            .object("Certificate", &self.installation.operator_name())
    }

    /// Writes the Secret, as cert-manager does, and mounts it, as the kubelet does.
    async fn write_secret(&self, issued: &Issued) {
        let name = self.certificate()["spec"]["secretName"].as_str().unwrap();
        let data = json!({"tls.crt": issued.chain, "tls.key": issued.key, "ca.crt": issued.authority});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/tls", "stringData": data,
        });
        let secrets: Api<Secret> = self.installation.world.api();
        let params = PatchParams::apply("cert-manager").force();
        let secret = secrets
            .patch(name, &params, &Patch::Apply(&secret))
            .await
            .unwrap();
        mount(&self.mounted, &secret);
    }

    /// Writes the authority of the Secret into the webhooks of the configuration that is annotated, as the cainjector does.
    async fn inject_authority(&self, issued: &Issued) {
        let name = self.installation.full_name();
        let annotations =
            &self.installation.object("MutatingWebhookConfiguration", &name)["metadata"]["annotations"];
        let certificate = format!(
            "{}/{}",
            self.installation.world.namespace,
            self.certificate()["metadata"]["name"].as_str().unwrap()
        );
        assert_eq!(annotations["cert-manager.io/inject-ca-from"], certificate);
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.litellm.client.clone());
        let mut configuration = configurations.get(&name).await.unwrap();
        for webhook in configuration.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle = Some(ByteString(issued.authority.clone().into_bytes()));
        }
        configurations
            .replace(&name, &Default::default(), &configuration)
            .await
            .unwrap();
    }

    /// A pod of LiteLLM that the API server asks the webhook about; its sidecar if it has got one.
    async fn sidecar_of(&self, pod: &str) -> Option<String> {
        let pod: Pod = self.litellm.create(litellm(pod)).await.unwrap();
        self.litellm.delete::<Pod>(&pod.name_any()).await;
        sidecar_of(&pod)
    }

    /// Waits until the webhook answers the API server, and returns the sidecar that it gives.
    async fn until_injected(&self, what: &str) -> String {
        let injected = async || self.sidecar_of("litellm").await;
        until(what, injected, Option::is_some).await.unwrap()
    }

    async fn until_served(&self, replica: &Replica, issued: &Issued, what: &str) {
        let expected = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
        let served = async || served(&replica.address, issued).await;
        until(what, served, |served| served.as_ref() == Some(&expected)).await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.installation.log()).unwrap_or_default()
    }
}

/// Writes the files into a new folder, and turns a link to it: who reads sees the old ones or the new ones.
fn mount(folder: &Path, secret: &Secret) {
    let version = secret.resource_version().unwrap();
    let data = folder.join(format!("..{version}"));
    std::fs::create_dir_all(&data).unwrap();
    for (name, value) in secret.data.iter().flatten() {
        std::fs::write(data.join(name), &value.0).unwrap();
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let new = folder.join("..data_tmp");
    std::os::unix::fs::symlink(format!("..{version}"), &new).unwrap();
    std::fs::rename(new, folder.join("..data")).unwrap();
}

/// The certificate that a client gets which trusts this authority alone.
async fn served(address: &str, issued: &Issued) -> Option<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(issued.authority.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address: SocketAddr = address.parse().unwrap();
    let stream = TcpStream::connect(address).await.ok()?;
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let (_, connection) = stream.get_ref();
    connection
        .peer_certificates()?
        .first()
        .cloned()
        .map(CertificateDer::into_owned)
}

#[tokio::test]
async fn what_cert_manager_rotates_is_served_without_a_restart_and_the_operator_writes_no_secret() {
    let cluster = Cluster::new("certificates").await;
    let issuer = CertManager::new("first authority");
    let first = issuer.issue(cluster.certificate());
    cluster.write_secret(&first).await;
    let folder = cluster.mounted.to_str().unwrap().to_owned();
    let mut replica = cluster
        .installation
        .start(&["--certificate-folder", &folder])
        .await;

    // The cainjector comes later than the operator, which says what it waits for.
    let told = async || cluster.log().contains("cainjector");
    until("the operator to say what it waits for", told, |told| *told).await;
    assert!(
        replica.get("/readyz").await.is_none(),
        "the API server does not trust it"
    );
    cluster.inject_authority(&first).await;
    replica.until_ready().await;
    cluster
        .until_served(&replica, &first, "the first certificate")
        .await;
    cluster.until_injected("the webhook to answer").await;

    let second = issuer.issue(cluster.certificate());
    cluster.write_secret(&second).await;
    cluster
        .until_served(&replica, &second, "the renewed certificate")
        .await;

    // What fits together in no way is not served, and said.
    let broken = Issued {
        key: first.key.clone(),
        ..issuer.issue(cluster.certificate())
    };
    cluster.write_secret(&broken).await;
    let told = async || {
        cluster
            .log()
            .contains("no certificate in PEM and its private key")
    };
    until("the operator to say what is wrong", told, |told| *told).await;
    cluster.until_served(&replica, &second, "what was good").await;

    // Another authority: sidecars that know the first one are told of it before its certificate is served.
    let third = CertManager::new("second authority").issue(cluster.certificate());
    cluster.write_secret(&third).await;
    cluster.inject_authority(&third).await;
    cluster
        .until_served(&replica, &third, "the certificate of the new authority")
        .await;
    let sidecar = cluster
        .until_injected("the webhook to answer by the new authority")
        .await;
    for authority in [&first.authority, &third.authority] {
        let line = authority.lines().nth(1).unwrap();
        assert!(
            sidecar.contains(line),
            "a new sidecar knows the old authority and the new one"
        );
    }

    assert!(replica.is_running(), "it is the same process");
    let secrets: Api<Secret> = cluster.installation.world.api();
    let names: Vec<String> = secrets
        .list(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(
        names,
        [cluster.certificate()["spec"]["secretName"].as_str().unwrap()]
    );
    assert!(replica.terminate().await, "it ended in order");
}

#[tokio::test]
async fn a_secret_that_no_client_could_trust_ends_the_start_with_the_reason() {
    let cluster = Cluster::new("certificates-acme").await;
    let issued = CertManager::new("authority").issue(cluster.certificate());
    // As an issuer by ACME leaves it.
    let without_authority = Issued {
        authority: String::new(),
        ..issued
    };
    cluster.write_secret(&without_authority).await;
    let folder = cluster.mounted.to_str().unwrap().to_owned();
    let mut replica = cluster
        .installation
        .start(&["--certificate-folder", &folder])
        .await;
    assert!(!replica.ended_well().await, "it does not start");
    let log = cluster.log();
    assert!(
        log.contains("ca.crt holds no certificate of an authority in PEM")
            && log.contains("neither ACME nor SelfSigned"),
        "{log}"
    );
}
