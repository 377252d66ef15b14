use super::*;

fn resource(namespace: &str, name: &str, generation: i64) -> McpServerAuth {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": namespace, "generation": generation},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap()
}

fn resource_ref(namespace: &str, name: &str) -> ResourceRef {
    ResourceRef {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn listed(namespace: &str, resources: &[McpServerAuth]) -> MergedStore {
    let mut store = MergedStore::new(vec![Some(namespace.into())]);
    store.apply(0, Event::Init);
    for resource in resources {
        store.apply(0, Event::InitApply(resource.clone()));
    }
    store.apply(0, Event::InitDone);
    store
}

fn error(code: u16) -> watcher::Error {
    let status = serde_json::from_value(serde_json::json!({
        "status": "Failure", "message": "no", "reason": "no", "code": code,
    }));
    watcher::Error::InitialListFailed(kube::Error::Api(status.unwrap()))
}

#[test]
fn a_list_of_one_namespace_leaves_the_others_alone() {
    let mut store = MergedStore::new(vec![Some("a".into()), Some("b".into())]);
    let resources = store.resources();
    let stored_in = |namespace| resources.in_namespace(namespace).map(|stored| stored.len());
    store.apply(0, Event::Init);
    assert!(store.apply(0, Event::InitApply(resource("a", "x", 1))).is_empty());
    assert_eq!(stored_in("a"), None, "there may be more");
    assert_eq!(
        store.apply(0, Event::InitDone),
        [ResourceEvent::Changed(resource_ref("a", "x"))],
        "b has not been listed"
    );
    assert_eq!((stored_in("a"), stored_in("b")), (Some(1), None));
    store.apply(1, Event::Init);
    store.apply(1, Event::InitApply(resource("b", "y", 1)));
    assert_eq!(
        store.apply(1, Event::InitDone),
        [
            ResourceEvent::Changed(resource_ref("b", "y")),
            ResourceEvent::Listed
        ]
    );
    assert_eq!((stored_in("a"), stored_in("b")), (Some(1), Some(1)));

    // The watch of b breaks; y is deleted before it lists again.
    store.apply(1, Event::Init);
    assert_eq!(stored_in("b"), Some(1), "nothing is lost while it lists");
    assert_eq!(
        store.apply(1, Event::InitDone),
        [
            ResourceEvent::Deleted(resource_ref("b", "y")),
            ResourceEvent::Listed
        ]
    );
    assert_eq!((stored_in("a"), stored_in("b")), (Some(1), Some(0)));
}

#[tokio::test]
async fn a_namespace_that_may_not_be_listed_is_unknown_and_holds_no_other_up() {
    let ok = |event| Ok::<_, watcher::Error>(event);
    let first = stream::iter([Err(error(403)), Err(error(403))]).chain(stream::pending());
    let (later, late_events) = futures::channel::mpsc::unbounded();
    let second = stream::iter([ok(Event::Init), ok(Event::InitApply(resource("b", "y", 1)))]);
    let (resources, mut watch) = Resources::from_watches(
        vec![Some("a".into()), Some("b".into())],
        vec![first.boxed(), second.chain(late_events).boxed()],
        Changes::default(),
    );
    later.unbounded_send(ok(Event::InitDone)).unwrap();
    assert_eq!(watch.next().await, ResourceEvent::Changed(resource_ref("b", "y")));
    assert_eq!(watch.next().await, ResourceEvent::Listed);
    assert!(
        resources.in_namespace("a").is_none(),
        "nobody knows what is there"
    );
    assert_eq!(resources.in_namespace("b").unwrap().len(), 1);
}

#[test]
fn nothing_counts_as_listed_where_nothing_may_be_listed() {
    let mut store = MergedStore::new(vec![None]);
    assert!(store.mark_forbidden(0).is_empty());
    assert!(store.resources().in_namespace("a").is_none());
}

#[test]
fn what_was_listed_stays_known_when_it_may_not_be_listed_any_more() {
    let mut store = listed("a", &[resource("a", "x", 1)]);
    store.mark_forbidden(0);
    assert_eq!(store.resources().in_namespace("a").unwrap().len(), 1);
}

#[test]
fn a_change_of_the_status_alone_is_no_event() {
    let mut store = listed("a", &[resource("a", "x", 1)]);
    assert!(store.apply(0, Event::Apply(resource("a", "x", 1))).is_empty());
    assert_eq!(store.apply(0, Event::Apply(resource("a", "x", 2))).len(), 1);
}

#[test]
fn a_status_that_says_that_nobody_serves_the_resource_is_an_event_once() {
    let mut store = listed("a", &[resource("a", "x", 1)]);
    let mut marked = resource("a", "x", 1);
    let condition = serde_json::json!({
        "type": "Ready", "status": "Unknown", "reason": "NotWatched", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    marked.status = Some(serde_json::from_value(serde_json::json!({"conditions": [condition]})).unwrap());
    assert_eq!(store.apply(0, Event::Apply(marked.clone())).len(), 1);
    assert!(store.apply(0, Event::Apply(marked)).is_empty());
    assert!(
        store.apply(0, Event::Apply(resource("a", "x", 1))).is_empty(),
        "corrected"
    );
}
