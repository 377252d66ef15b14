//! What a command looks at: the `McpServerAuth` resources of one namespace or of all, and their pods'
//! metadata.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams, ObjectList};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_operator::{PodMeta, SERVING_PODS};
use serde::de::DeserializeOwned;

use crate::args::ScopeArgs;
use crate::cluster::Cluster;
use crate::error::CliError;

/// Objects of one answer, and the most answers of one list.
const PAGE_SIZE: u32 = 500;
const MAX_PAGES: usize = 1000;

/// Which namespaces a command looks at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    Namespace(String),
    All,
}

#[derive(Debug, Default)]
pub struct Inventory {
    pub resources: Vec<Arc<McpServerAuth>>,
    pub unreadable: Vec<Unreadable>,
    /// Pods that have not ended; none where they may not be listed.
    pub pods: Option<Vec<PodMeta>>,
}

/// A resource that this program cannot read: another version of mcp-auth wrote its definition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable {
    pub namespace: String,
    pub name: String,
    pub problem: String,
}

impl Scope {
    pub fn new(args: &ScopeArgs, cluster: &Cluster) -> Self {
        match (&args.namespace, args.all_namespaces) {
            (Some(namespace), _) => Self::Namespace(namespace.clone()),
            (None, true) => Self::All,
            (None, false) => Self::Namespace(cluster.default_namespace.clone()),
        }
    }

    /// As messages name it.
    pub fn describe(&self) -> String {
        match self {
            Self::Namespace(namespace) => format!("the namespace {namespace}"),
            Self::All => "all namespaces".to_owned(),
        }
    }

    pub fn api<K>(&self, cluster: &Cluster) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Namespace(namespace) => Api::namespaced(cluster.client.clone(), namespace),
            Self::All => Api::all(cluster.client.clone()),
        }
    }

    fn dynamic_api(&self, cluster: &Cluster, kind: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::Namespace(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, kind),
            Self::All => Api::all_with(cluster.client.clone(), kind),
        }
    }
}

impl Inventory {
    pub async fn load(cluster: &Cluster, scope: &Scope) -> Result<Self, CliError> {
        let mut inventory = Self::load_resources(cluster, scope).await?;
        inventory.pods = match list_pods(cluster, scope).await {
            Ok(pods) => Some(pods),
            Err(CliError::Forbidden { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(inventory)
    }

    /// Without the pods.
    pub async fn load_resources(cluster: &Cluster, scope: &Scope) -> Result<Self, CliError> {
        let action = format!("list McpServerAuth resources in {}", scope.describe());
        let kind = ApiResource::erase::<McpServerAuth>(&());
        // One resource that another version wrote must not hide all the others.
        let objects = list_all(cluster, &action, &scope.dynamic_api(cluster, &kind)).await?;
        let mut inventory = Self::default();
        for object in objects {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            match object.try_parse::<McpServerAuth>() {
                Ok(resource) => inventory.resources.push(Arc::new(resource)),
                Err(error) => inventory.unreadable.push(Unreadable {
                    namespace,
                    name,
                    problem: error.to_string(),
                }),
            }
        }
        Ok(inventory)
    }

    /// The resources of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<McpServerAuth>> {
        let resources = self.resources.iter();
        resources
            .filter(|resource| resource.metadata.namespace.as_deref() == Some(namespace))
            .cloned()
            .collect()
    }
}

async fn list_pods(cluster: &Cluster, scope: &Scope) -> Result<Vec<PodMeta>, CliError> {
    let action = format!("list pods in {}", scope.describe());
    let api = scope.api::<Pod>(cluster);
    let params = ListParams::default().fields(SERVING_PODS);
    let pages = Pages {
        cluster,
        action: &action,
        params,
    };
    pages
        .collect(async |params| api.list_metadata(&params).await)
        .await
}

async fn list_all<K>(cluster: &Cluster, action: &str, api: &Api<K>) -> Result<Vec<K>, CliError>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let pages = Pages {
        cluster,
        action,
        params: ListParams::default(),
    };
    pages.collect(async |params| api.list(&params).await).await
}

/// A list that is asked for page by page.
struct Pages<'a> {
    cluster: &'a Cluster,
    action: &'a str,
    params: ListParams,
}

impl Pages<'_> {
    async fn collect<K: Clone>(
        self,
        list: impl AsyncFn(ListParams) -> kube::Result<ObjectList<K>>,
    ) -> Result<Vec<K>, CliError> {
        let mut params = self.params.limit(PAGE_SIZE);
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.cluster.answer(self.action, list(params.clone())).await?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        Ok(items)
    }
}

/// What made a pod, as kubectl names it; a Deployment and not its ReplicaSet.
pub fn workload(pod: &PodMeta) -> Option<String> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))?;
    let hash = pod.labels().get("pod-template-hash");
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
    Some(match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) => format!("deployment/{deployment}"),
        (kind, _) => format!("{}/{}", kind.to_lowercase(), owner.name),
    })
}

/// Metadata of a pod.
pub fn pod_meta(pod: &Pod) -> PodMeta {
    PartialObjectMeta {
        types: None,
        metadata: pod.metadata.clone(),
        _phantom: std::marker::PhantomData,
    }
}
