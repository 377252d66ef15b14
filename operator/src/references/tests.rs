use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;

/// An API server that has Secrets, and notes what it is asked.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    /// By namespace and name: resource version and value.
    secrets: BTreeMap<(String, String), (u64, String)>,
    /// Paths, with a mark for lists and watches.
    requests: Vec<String>,
    watches: Vec<mpsc::UnboundedSender<Bytes>>,
    /// Only single objects may be listed and watched, by their names.
    only_by_name: bool,
}

impl ApiServer {
    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: Request| {
            let server = server.clone();
            async move { server.answer(request.uri()) }
        };
        Client::new(Router::new().fallback(answer), "default")
    }

    fn answer(&self, uri: &Uri) -> Response {
        let mut stored = self.0.lock();
        let query = uri.query().unwrap_or_default();
        let selected = query
            .split('&')
            .find_map(|part| part.strip_prefix("fieldSelector=metadata.name%3D"));
        let path: Vec<&str> = uri.path().trim_start_matches("/api/v1/").split('/').collect();
        if let ["namespaces", namespace, "secrets", name] = path[..] {
            stored.requests.push(format!("get {namespace}/{name}"));
            return match stored.secret(namespace, name) {
                Some(secret) => secret.to_string().into_response(),
                None => failure(StatusCode::NOT_FOUND),
            };
        }
        let kind = if query.contains("watch=true") {
            "watch"
        } else {
            "list"
        };
        stored
            .requests
            .push(format!("{kind} {}", selected.unwrap_or("all")));
        if stored.only_by_name && selected.is_none() {
            return failure(StatusCode::FORBIDDEN);
        }
        if kind == "watch" {
            let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
            stored.watches.push(sender);
            let lines = futures::stream::unfold(receiver, |mut receiver| async move {
                let line = receiver.recv().await?;
                Some((Ok::<_, std::convert::Infallible>(line), receiver))
            });
            return Body::from_stream(lines).into_response();
        }
        let keys: Vec<_> = stored.secrets.keys().cloned().collect();
        let found = keys
            .iter()
            .filter(|(_, name)| selected.is_none_or(|selected| selected == name));
        let items: Vec<_> = found
            .filter_map(|(namespace, name)| stored.secret(namespace, name))
            .collect();
        let list = json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
                          "items": items});
        list.to_string().into_response()
    }

    /// Writes a Secret, and tells all watches.
    fn put(&self, namespace: &str, name: &str, value: &str) {
        let mut stored = self.0.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let version = stored.secrets.get(&key).map_or(1, |(version, _)| version + 1);
        stored.secrets.insert(key, (version, value.to_owned()));
        let secret = stored.secret(namespace, name);
        stored.tell(&json!({"type": "MODIFIED", "object": secret}));
    }

    fn delete(&self, namespace: &str, name: &str) {
        let mut stored = self.0.lock();
        let secret = stored.secret(namespace, name);
        stored.secrets.remove(&(namespace.to_owned(), name.to_owned()));
        stored.tell(&json!({"type": "DELETED", "object": secret}));
    }

    fn count(&self, kind: &str) -> usize {
        let stored = self.0.lock();
        stored
            .requests
            .iter()
            .filter(|request| request.starts_with(kind))
            .count()
    }

    async fn until_watched(&self, watches: usize) {
        until(|| self.0.lock().watches.len() == watches).await;
    }
}

impl Stored {
    fn secret(&self, namespace: &str, name: &str) -> Option<Value> {
        let (version, value) = self.secrets.get(&(namespace.to_owned(), name.to_owned()))?;
        let metadata = json!({"namespace": namespace, "name": name, "resourceVersion": version.to_string()});
        let data = json!({"key": k8s_openapi::ByteString(value.clone().into_bytes())});
        Some(json!({"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data}))
    }

    fn tell(&self, event: &Value) {
        for watch in &self.watches {
            let _ = watch.send(format!("{event}\n").into());
        }
    }
}

fn failure(code: StatusCode) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
                        "reason": code.canonical_reason().unwrap_or_default().replace(' ', ""), "message": "no"});
    (code, status.to_string()).into_response()
}

/// Waits for a fact. The bound is for a test that would hang.
async fn until(is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits)
        .await
        .expect("it becomes so");
}

fn resource_ref(namespace: &str, name: &str) -> ResourceRef {
    ResourceRef {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn reference(name: &str) -> Reference {
    Reference {
        field: "spec.bearerToken.secretKeyRef",
        kind: Kind::Secret,
        name: name.into(),
        key: "key".into(),
    }
}

fn value(references: &References, namespace: &str, name: &str) -> Option<String> {
    match references.get(namespace, &reference(name)) {
        Lookup::Found(data) => Some(String::from_utf8(data["key"].expose_secret().to_vec()).unwrap()),
        Lookup::NotFound => Some("not found".into()),
        Lookup::Unknown | Lookup::Forbidden { .. } | Lookup::NotConsented => None,
    }
}

#[tokio::test]
async fn hundreds_of_secrets_take_one_watch_and_each_is_read_once_and_when_it_changes() {
    let server = ApiServer::default();
    let objects: Vec<_> = (0..200)
        .map(|number| (format!("team-{}", number % 10), format!("secret-{number}")))
        .collect();
    for (namespace, name) in &objects {
        server.put(namespace, name, "first");
    }
    server.put("team-0", "of-somebody-else", "unread");
    let (references, mut changed) = References::new(server.client(), &[], None, false, Liveness::default());
    for (namespace, name) in &objects {
        references.set(&resource_ref(namespace, name), &[reference(name)]);
    }
    until(|| {
        objects
            .iter()
            .all(|(namespace, name)| value(&references, namespace, name).as_deref() == Some("first"))
    })
    .await;
    server.until_watched(1).await;
    assert_eq!((server.count("watch"), server.count("list")), (1, 1));
    assert_eq!(server.count("get"), objects.len());

    while changed.try_recv().is_ok() {}
    server.put("team-0", "of-somebody-else", "still unread");
    server.put("team-3", "secret-3", "second");
    assert_eq!(changed.recv().await, Some(resource_ref("team-3", "secret-3")));
    assert_eq!(
        value(&references, "team-3", "secret-3").as_deref(),
        Some("second")
    );
    server.delete("team-3", "secret-3");
    until(|| value(&references, "team-3", "secret-3").as_deref() == Some("not found")).await;
    server.put("team-3", "secret-3", "third");
    until(|| value(&references, "team-3", "secret-3").as_deref() == Some("third")).await;
    assert_eq!(server.count("get"), objects.len() + 3);
    assert_eq!(server.count("get team-0/of-somebody-else"), 0);
}

#[tokio::test]
async fn where_only_names_may_be_watched_each_is_watched_by_its_name() {
    let server = ApiServer::default();
    server.0.lock().only_by_name = true;
    server.put("apps", "one", "first");
    let (references, _changed) = References::new(
        server.client(),
        &["apps".to_owned()],
        None,
        false,
        Liveness::default(),
    );
    references.set(&resource_ref("apps", "a"), &[reference("one")]);
    server.until_watched(1).await;
    server.put("apps", "one", "second");
    until(|| value(&references, "apps", "one").as_deref() == Some("second")).await;
    references.set(&resource_ref("apps", "b"), &[reference("two")]);
    until(|| value(&references, "apps", "two").as_deref() == Some("not found")).await;
    assert_eq!((server.count("list one"), server.count("list two")), (1, 1));
}

#[tokio::test]
async fn an_object_is_forgotten_with_the_last_resource_that_refers_to_it() {
    let server = ApiServer::default();
    server.put("apps", "shared", "first");
    let (references, _changed) = References::new(server.client(), &[], None, false, Liveness::default());
    let (a, b) = (resource_ref("apps", "a"), resource_ref("apps", "b"));
    for resource in [&a, &b] {
        references.set(resource, &[reference("shared")]);
    }
    until(|| value(&references, "apps", "shared").as_deref() == Some("first")).await;
    references.set(&a, &[]);
    assert_eq!(value(&references, "apps", "shared").as_deref(), Some("first"));
    references.set(&b, &[]);
    assert!(value(&references, "apps", "shared").is_none());
    let watched = references.watched.lock();
    assert!(watched.objects.is_empty() && watched.by_resource.is_empty() && watched.scopes.is_empty());
}

#[test]
fn the_command_binds_the_role_to_the_operators_account_in_the_namespace_of_the_secret() {
    let grant = SecretsGrant {
        cluster_role: "mcp-auth-operator-secrets".into(),
        account: ("mcp-auth-system".into(), "mcp-auth-operator".into()),
    };
    assert_eq!(
        &*grant.command("llm"),
        "kubectl create rolebinding mcp-auth-operator-secrets --clusterrole=mcp-auth-operator-secrets \
         --serviceaccount=mcp-auth-system:mcp-auth-operator --namespace=llm"
    );
}
