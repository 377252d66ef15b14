//! The control plane, and a namespace of its own for each test.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::authority::{self, Certificate};
use crate::resource::merge;
use crate::seen;
use crate::wait::until;

pub struct World {
    pub client: Client,
    pub namespace: String,
}

impl World {
    /// A namespace that exists, or that the caller makes.
    pub async fn in_namespace(namespace: &str) -> Self {
        // Another test of the process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default()
            .await
            .expect("KUBECONFIG leads to the API server");
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// Makes a namespace with this name, opted in to injection or not.
    pub async fn new(namespace: &str, injection: bool) -> Self {
        let world = Self::in_namespace(namespace).await;
        let labels = if injection {
            json!({"mcpauth.dev/injection": "enabled"})
        } else {
            json!({})
        };
        let object = json!({"metadata": {"name": namespace, "labels": labels}});
        let object: Namespace = serde_json::from_value(object).expect("a namespace");
        Api::all(world.client.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("the namespace is new");
        // Without a controller manager no other program makes it.
        let account = world
            .create::<ServiceAccount>(json!({"metadata": {"name": "default"}}))
            .await;
        if let Err(error) = account {
            assert!(error.to_string().contains("already exists"), "{error}");
        }
        world
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn create<K>(&self, object: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + serde::Serialize,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).expect("the object has the shape of its kind");
        self.api().create(&PostParams::default(), &object).await
    }

    /// As `kubectl apply` does it.
    pub async fn apply(&self, resource: &Value) -> kube::Result<McpServerAuth> {
        let name = resource["metadata"]["name"].as_str().expect("a name");
        let params = PatchParams::apply("kubectl").force();
        self.api().patch(name, &params, &Patch::Apply(resource)).await
    }

    /// Changes a resource, as `kubectl patch --type merge` does it.
    pub async fn patch(&self, name: &str, change: &Value) -> kube::Result<McpServerAuth> {
        self.api()
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
    }

    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        seen::note(value);
        self.apply_secret(name, json!({"stringData": {key: value}})).await;
    }

    /// A Secret of type `kubernetes.io/tls`, as cert-manager keeps it.
    pub async fn certificate(&self, name: &str, certificate: &Certificate) {
        let data = json!({"tls.crt": certificate.chain, "tls.key": certificate.key});
        self.apply_secret(name, json!({"type": "kubernetes.io/tls", "stringData": data}))
            .await;
    }

    /// A Secret of type `kubernetes.io/basic-auth`.
    pub async fn basic_auth(&self, name: &str, username: &str, password: &str) {
        seen::note(password);
        let data = json!({"username": username, "password": password});
        self.apply_secret(
            name,
            json!({"type": "kubernetes.io/basic-auth", "stringData": data}),
        )
        .await;
    }

    /// The authority of the real servers, where [`crate::servers::Server::oauth2`] looks for it.
    pub async fn trust(&self) {
        let bundle = json!({"metadata": {"name": "authority"}, "data": {"ca.crt": authority::bundle()}});
        self.create::<ConfigMap>(bundle).await.expect("it is new");
    }

    /// A Secret as a whole: what another of this name had besides is gone.
    pub async fn apply_secret(&self, name: &str, rest: Value) {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        merge(&mut secret, rest);
        let params = PatchParams::apply("kubectl").force();
        let api: Api<Secret> = self.api();
        api.patch(name, &params, &Patch::Apply(&secret))
            .await
            .expect("the Secret can be applied");
    }

    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let at_once = DeleteParams::default().grace_period(0);
        self.api::<K>()
            .delete(name, &at_once)
            .await
            .expect("it was there");
    }

    /// A pod that no kubelet runs, with the labels of LiteLLM.
    pub async fn pod(&self, name: &str, labels: Value) -> Pod {
        let pod = json!({
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": {"mcpauth.dev/injected": "by the test"},
            },
            "spec": {
                "serviceAccountName": "default",
                "containers": [{"name": "litellm", "image": "litellm"}],
            },
        });
        self.create(pod).await.expect("the pod can be created")
    }

    /// URL of the MCP server that a resource of this namespace has under this name.
    pub async fn server_url(&self, server: &str) -> Option<String> {
        let resources = self.api::<McpServerAuth>().list(&ListParams::default()).await;
        let resources = resources.expect("resources can be listed").items.into_iter();
        let mut servers = resources.map(|resource| resource.spec.server);
        servers
            .find(|candidate| candidate.name == server)
            .map(|candidate| candidate.url)
    }

    pub async fn status(&self, name: &str) -> McpServerAuthStatus {
        let found = self
            .api::<McpServerAuth>()
            .get(name)
            .await
            .expect("the resource is there");
        found.status.unwrap_or_default()
    }

    /// Waits until the condition has this status and reason, and returns the whole status.
    pub async fn condition(
        &self,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
    ) -> McpServerAuthStatus {
        let wanted = |found: &McpServerAuthStatus| {
            found
                .conditions
                .iter()
                .any(|c| (&*c.type_, &*c.status, &*c.reason) == (type_, status, reason))
        };
        until(
            &format!("{name}: {type_}={status} {reason}"),
            async || self.status(name).await,
            wanted,
        )
        .await
    }

    /// Reasons and notes of the events about a resource.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let fields = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = self
            .api::<Event>()
            .list(&fields)
            .await
            .expect("events can be listed");
        events
            .into_iter()
            .map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect()
    }
}

/// The message of a condition.
pub fn message(status: &McpServerAuthStatus, type_: &str) -> String {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_);
    condition
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}
