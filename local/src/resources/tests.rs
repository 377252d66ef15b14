use std::fs;

use mcp_auth_credentials::DesiredSource;
use tempfile::TempDir;

use super::*;
use crate::problem::merge;

const SERVER: &str = "
apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {name: NAME, namespace: llm}
spec:
  server: {name: tools, url: https://tools.example.com/mcp}
";
const BY_SECRET: &str = "
  oauth2:
    tokenUrl: https://auth.example.com/token
    clientId: litellm
    clientAuthentication:
      method: ClientSecretBasic
      clientSecretRef: {name: tools-oauth, key: client-secret}
";
const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: tools-oauth, namespace: llm}
stringData: {client-secret: s3cret}
";

fn resource(name: &str, spec: &str) -> String {
    SERVER.replace("NAME", name) + spec
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn read_files(files: &[(&str, &str)]) -> Result<Resources, String> {
    let read = read(folder(files).path(), &Admission::new());
    match read.problems.is_empty() {
        true => Ok(read),
        false => Err(messages(&read)),
    }
}

fn messages(read: &Resources) -> String {
    let messages: Vec<&str> = read.problems.iter().map(|problem| &*problem.message).collect();
    messages.join("\n")
}

#[test]
fn the_yaml_of_kubernetes_is_taken_with_its_secret_in_one_file() {
    let all = [resource("tools", BY_SECRET), SECRET.to_owned()].join("---");
    let read = read_files(&[("all.yaml", &all)]).unwrap();
    let [server] = &read.servers[..] else {
        panic!("one server");
    };
    assert_eq!(server.name(), "tools");
    assert!(server.resource.metadata.namespace.is_none());
    assert!(read.ignored.is_empty(), "{:?}", read.ignored);
    assert!(!format!("{read:?}").contains("s3cret"));
}

#[test]
fn secrets_are_folders_too_as_kubelet_mounts_them() {
    let tools = resource("tools", BY_SECRET);
    let folder = folder(&[
        ("tools.yaml", &tools),
        ("secrets/tools-oauth/..2026_11_29/client-secret", "s3cret\n"),
        ("secrets/README", "no object"),
    ]);
    let object = folder.path().join("secrets/tools-oauth");
    std::os::unix::fs::symlink("..2026_11_29", object.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/client-secret", object.join("client-secret")).unwrap();
    let before = read(folder.path(), &Admission::new());
    assert_eq!(before.servers.len(), 1);

    let unchanged = read(folder.path(), &Admission::new());
    assert!(before.servers == unchanged.servers);
    fs::write(object.join("..2026_11_29/client-secret"), "rotated").unwrap();
    let rotated = read(folder.path(), &Admission::new());
    assert!(before.servers != rotated.servers, "the changed value is seen");
}

#[test]
fn every_way_to_a_credential_that_needs_no_cluster_is_taken() {
    let bearer = "  bearerToken: {secretKeyRef: {name: tools-oauth, key: client-secret}}\n";
    let exchange = "    tokenExchange: {subjectHeader: X-User-Token}\n    tokenType: DPoP\n";
    let key = "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\ndata: {tls.key: VALUE}\n";
    let pem = include_str!("../../../oauth/src/jose/signing_key/testdata/ec.pem");
    let rsa = include_str!("../../../oauth/src/jose/signing_key/testdata/rsa.pkcs1.pem");
    let key = [
        key.replace("VALUE", &base64_of(pem)),
        key.replace("name: key", "name: app")
            .replace("VALUE", &base64_of(rsa)),
    ]
    .join("---\n");
    let app = "  githubApp: {appId: 1, installationId: 2, keyRef: {name: app, key: tls.key}}\n";
    let jwt = "
  oauth2:
    issuer: https://auth.example.com
    clientId: litellm
    clientAuthentication: {method: PrivateKeyJwt, privateKeyJwt: {keyRef: {name: key, key: tls.key}}}
";
    for (spec, is_oauth2) in [
        (bearer.to_owned(), false),
        (format!("{BY_SECRET}{exchange}"), true),
        (jwt.to_owned(), true),
        (app.to_owned(), true),
    ] {
        let tools = resource("tools", &spec);
        let read = read_files(&[("a.yaml", &tools), ("b.yml", SECRET), ("c.yaml", &key)]).unwrap();
        let desired = read.servers[0].desired(None).unwrap();
        assert_eq!(matches!(desired.source, DesiredSource::OAuth2(_)), is_oauth2);
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn what_says_nothing_here_is_told_and_disturbs_nothing() {
    let selects = format!(
        "{}  podSelector: {{}}\n  restart: Automatic\n",
        resource("tools", BY_SECRET)
    );
    let read = read_files(&[
        ("a.yaml", &selects),
        ("b.yaml", SECRET),
        (
            "c.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: litellm}\n---\n",
        ),
        ("notes.txt", "{"),
    ])
    .unwrap();
    assert_eq!(read.servers.len(), 1);
    let told = read.ignored.join("\n");
    assert!(told.contains("c.yaml: a Deployment says nothing"), "{told}");
    assert!(told.contains("spec.podSelector chooses pods"), "{told}");
    assert!(told.contains("spec.restart restarts workloads"), "{told}");
}

#[test]
fn a_list_of_kubectl_get_is_its_items() {
    let items = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: tools-oauth}, \
                 data: {client-secret: czNjcmV0}}\n";
    let read = read_files(&[("a.yaml", &resource("tools", BY_SECRET)), ("b.yaml", items)]).unwrap();
    assert_eq!(read.servers.len(), 1);
}

#[test]
fn what_is_wrong_is_named_with_its_file_and_never_quoted() {
    let tools = resource("tools", BY_SECRET);
    let other = resource("other", BY_SECRET);
    let workload = "
  oauth2:
    issuer: https://auth.example.com
    clientAuthentication: {method: WorkloadIdentity, workloadIdentity: {serviceAccountRef: {name: litellm}}}
";
    let managed = "
  oauth2:
    issuer: https://auth.example.com
    clientId: litellm
    clientAuthentication: {method: PrivateKeyJwt, privateKeyJwt: {managed: {}}}
";
    let not_text = SECRET.replace("s3cret}", "[s3cret]}");
    let not_base64 = SECRET.replace("stringData", "data").replace("s3cret", "s3cret!");
    let elsewhere = SECRET.replace("namespace: llm", "namespace: other");
    let old = tools.replace("v1alpha1", "v1");
    let typo = tools.replace("clientId", "clientID");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("a.yaml", &tools)],
            "a.yaml: McpServerAuth tools: Secret tools-oauth, named by \
          spec.oauth2.clientAuthentication.clientSecretRef, does not exist in this namespace: create it as a manifest in",
        ),
        (&[("a.yaml", &tools)], "/secrets/tools-oauth/client-secret"),
        (
            &[("a.yaml", &tools), ("secrets/tools-oauth/secret", "s3cret")],
            "has no key \"client-secret\": it has the keys secret",
        ),
        (
            &[("a.yaml", &typo), ("b.yaml", SECRET)],
            "a.yaml: McpServerAuth tools is invalid: spec.oauth2.clientID: unknown field",
        ),
        (
            &[("a.yaml", &resource("tools", workload))],
            "method WorkloadIdentity needs a cluster",
        ),
        (
            &[("a.yaml", &resource("tools", managed))],
            "privateKeyJwt.managed needs a cluster",
        ),
        (
            &[("a.yaml", &tools), ("b.yaml", SECRET), ("c.yaml", &other)],
            "McpServerAuth other is for server \"tools\", for which tools is there already",
        ),
        (
            &[("a.yaml", &tools), ("b.yaml", SECRET), ("c.yaml", &tools)],
            "McpServerAuth tools is there twice, in ",
        ),
        (
            &[("b.yaml", SECRET), ("secrets/tools-oauth/k", "s3cret")],
            "Secret tools-oauth is there twice, in ",
        ),
        (
            &[("b.yaml", &not_text)],
            "b.yaml: Secret tools-oauth: stringData.client-secret must be a text",
        ),
        (
            &[("b.yaml", &not_base64)],
            "b.yaml: Secret tools-oauth: data.client-secret must be Base64",
        ),
        (
            &[("a.yaml", &tools), ("b.yaml", &elsewhere)],
            "b.yaml: Secret tools-oauth is in namespace other, and what was read before it in llm",
        ),
        (
            &[("a.yaml", &old)],
            "a.yaml: \"mcpauth.dev/v1 McpServerAuth\" is not served: write apiVersion: mcpauth.dev/v1alpha1",
        ),
        (&[("a.yaml", "a: [s3cret")], "a.yaml is not YAML: see line "),
        (
            &[("a.yaml", "s3cret: 1")],
            "a.yaml is not YAML of Kubernetes: a document has no apiVersion",
        ),
        (&[("notes.txt", "s3cret")], "holds no McpServerAuth"),
    ];
    for (files, expected) in cases {
        let message = read_files(files).unwrap_err();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
    let missing = read(Path::new("/does/not/exist"), &Admission::new());
    assert!(
        messages(&missing).contains("/does/not/exist cannot be read"),
        "{missing:?}"
    );
}

#[test]
fn a_file_or_an_object_that_cannot_be_used_holds_back_no_others() {
    let tools = resource("tools", BY_SECRET);
    let named = |name: &str| tools.replace("name: tools", &format!("name: {name}"));
    let files = folder(&[
        ("a.yaml", "a: [s3cret"),
        ("b.yaml", &named("typo").replace("clientId", "clientID")),
        ("c.yaml", &[named("tools"), SECRET.to_owned()].join("---")),
        ("d.yaml", &named("lost").replace("tools-oauth", "lost-oauth")),
        ("e.yaml", "a document without a kind: 1\n"),
        ("secrets/more/key", "m0re"),
        ("f.yaml", &SECRET.replace("tools-oauth", "more")),
    ]);
    let read = read(files.path(), &Admission::new());
    let servers: Vec<(&str, bool)> = read
        .servers
        .iter()
        .map(|server| (server.name(), server.is_usable()))
        .collect();
    // The one without its Secret is there, so that calls to it are refused and not sent without a token.
    assert_eq!(servers, [("tools", true), ("lost", false)]);
    let told = messages(&read);
    for expected in [
        "a.yaml is not YAML: see line",
        "b.yaml: McpServerAuth typo is invalid: spec.oauth2.clientID: unknown field",
        "d.yaml: McpServerAuth lost: Secret lost-oauth",
        "e.yaml is not YAML of Kubernetes",
        "Secret more is there twice, in ",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert_eq!(read.problems.len(), 5, "{told}");
}

#[test]
fn what_was_served_before_serves_on_until_its_resource_is_taken_out() {
    let tools = resource("tools", BY_SECRET);
    let folder = folder(&[("a.yaml", &tools), ("b.yaml", SECRET)]);
    let path = |name: &str| folder.path().join(name);
    let before = read(folder.path(), &Admission::new()).servers;
    assert_eq!(before.len(), 1);
    let merged = || {
        let read = read(folder.path(), &Admission::new());
        merge(&before, read.servers, &read.problems)
    };
    for text in [
        "a: [".to_owned(),
        tools.replace("clientId", "clientID"),
        tools.replace("tools-oauth", "lost-oauth"),
    ] {
        fs::write(path("a.yaml"), text).unwrap();
        assert_eq!(merged(), before);
    }
    // The Secret is gone for a moment, or cannot be read.
    fs::write(path("a.yaml"), &tools).unwrap();
    fs::write(path("b.yaml"), "a: [").unwrap();
    assert_eq!(merged(), before);
    // Another resource for the same server waits for this one, though it is read first.
    fs::write(path("b.yaml"), SECRET).unwrap();
    fs::write(path("_.yaml"), resource("first", BY_SECRET)).unwrap();
    assert_eq!(merged(), before);
    fs::remove_file(path("a.yaml")).unwrap();
    assert_eq!(merged()[0].resource_name(), "first");
    fs::remove_file(path("_.yaml")).unwrap();
    assert!(merged().is_empty());
}
