//! What holds for the chart's objects whatever the values are, and no schema says: names that refer to one another.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Case, object_id};

/// Longest label value, and longest name of a Service.
const MAX_NAME_BYTES: usize = 63;
const CLUSTER_SCOPED: [&str; 4] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
];

/// What does not fit together among the objects that a case renders.
pub fn inconsistencies(case: &Case, objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |holds: bool, problem: String| {
        if !holds {
            found.push(problem);
        }
    };
    let ids: Vec<String> = objects.iter().map(object_id).collect();
    let unique: BTreeSet<&String> = ids.iter().collect();
    check(
        unique.len() == ids.len(),
        format!("an object is there twice: {ids:?}"),
    );

    for (object, id) in objects.iter().zip(&ids) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        check(!name.is_empty(), format!("{id} has no name"));
        check(
            name.len() <= MAX_NAME_BYTES,
            format!("{id} has a name of {} bytes", name.len()),
        );
        check(
            metadata["namespace"].is_string() != CLUSTER_SCOPED.contains(&kind),
            format!("{id} has the namespace {}", metadata["namespace"]),
        );
        check(
            metadata["labels"]["app.kubernetes.io/instance"] == case.release.as_str(),
            format!("{id} does not say which release it is of"),
        );
    }

    let deployment = of_kind(objects, "Deployment")
        .next()
        .expect("there is a Deployment");
    let template = &deployment["spec"]["template"];
    let pod_labels = &template["metadata"]["labels"];
    let container = &template["spec"]["containers"][0];
    let selects_the_pods = |selector: &Value| {
        selector.as_object().is_some_and(|labels| {
            !labels.is_empty() && labels.iter().all(|(key, value)| pod_labels[key] == *value)
        })
    };
    check(
        selects_the_pods(&deployment["spec"]["selector"]["matchLabels"]),
        "the Deployment does not select its own pods".to_owned(),
    );
    check(
        pod_labels["mcpauth.dev/inject"] == "false",
        "the operator's own pods would wait for its webhook".to_owned(),
    );
    let port_names: Vec<&Value> = list(&container["ports"])
        .iter()
        .map(|port| &port["name"])
        .collect();
    for service in of_kind(objects, "Service") {
        check(
            selects_the_pods(&service["spec"]["selector"]),
            format!("{} selects no pods", object_id(service)),
        );
        for port in list(&service["spec"]["ports"]) {
            check(
                port_names.contains(&&port["targetPort"]),
                format!("{} leads to a port that no pod has", object_id(service)),
            );
        }
    }
    for kind in ["PodDisruptionBudget", "NetworkPolicy", "PodMonitor"] {
        for object in of_kind(objects, kind) {
            let spec = &object["spec"];
            let selector = if kind == "NetworkPolicy" {
                &spec["podSelector"]
            } else {
                &spec["selector"]
            };
            // What belongs to `helm test` is for its pods, and never for the operator's.
            let is_of_test = object["metadata"]["annotations"]["helm.sh/hook"] == "test";
            check(
                selects_the_pods(&selector["matchLabels"]) != is_of_test,
                format!("{} does not select the pods that it is for", object_id(object)),
            );
        }
    }
    for monitor in of_kind(objects, "ServiceMonitor") {
        let selected = of_kind(objects, "Service").filter(|service| {
            let labels = monitor["spec"]["selector"]["matchLabels"].as_object();
            labels.is_some_and(|labels| {
                labels
                    .iter()
                    .all(|(key, value)| service["metadata"]["labels"][key] == *value)
            })
        });
        check(
            selected.count() == 1,
            "the ServiceMonitor does not select one Service".to_owned(),
        );
    }

    let volumes: Vec<&Value> = list(&template["spec"]["volumes"])
        .iter()
        .map(|volume| &volume["name"])
        .collect();
    for (what, items, key) in [
        ("environment variable", &container["env"], "name"),
        ("mount path", &container["volumeMounts"], "mountPath"),
        ("volume", &template["spec"]["volumes"], "name"),
        ("container port", &container["ports"], "containerPort"),
    ] {
        let names: Vec<String> = list(items).iter().map(|item| item[key].to_string()).collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        check(
            unique.len() == names.len(),
            format!("a {what} is there twice: {names:?}"),
        );
    }
    for mount in list(&container["volumeMounts"]) {
        check(
            volumes.contains(&&mount["name"]),
            format!("the volume {} is not there", mount["name"]),
        );
    }

    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in of_kind(objects, kind) {
            let role = &binding["roleRef"];
            let bound = objects.iter().any(|object| {
                object["kind"] == role["kind"]
                    && object["metadata"]["name"] == role["name"]
                    && object["metadata"]["namespace"] == binding["metadata"]["namespace"]
            });
            check(
                bound,
                format!("{} binds a role that is not there", object_id(binding)),
            );
            let subject = &binding["subjects"][0];
            // What `helm test` may do, its own ServiceAccount may do and nobody else.
            let account = match binding["metadata"]["annotations"]["helm.sh/hook"] == "test" {
                true => of_kind(objects, "Pod")
                    .map(|pod| &pod["spec"]["serviceAccountName"])
                    .next(),
                false => Some(&template["spec"]["serviceAccountName"]),
            };
            check(
                account == Some(&subject["name"])
                    && subject["namespace"] == deployment["metadata"]["namespace"],
                format!("{} gives its rights to somebody else", object_id(binding)),
            );
        }
    }
    for webhook in
        of_kind(objects, "MutatingWebhookConfiguration").flat_map(|object| list(&object["webhooks"]))
    {
        let target = &webhook["clientConfig"]["service"];
        let is_there = of_kind(objects, "Service").any(|service| {
            service["metadata"]["name"] == target["name"]
                && service["metadata"]["namespace"] == target["namespace"]
                && list(&service["spec"]["ports"])
                    .iter()
                    .any(|port| port["port"] == target["port"])
        });
        check(
            is_there,
            format!(
                "the webhook {} is led to a Service that is not there",
                webhook["name"]
            ),
        );
    }
    found
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
