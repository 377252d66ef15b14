use std::path::Path;

use mcp_auth_crds::McpServerAuth;

use super::*;

fn import_text(text: &str) -> Import {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    import_file(&path)
}

fn import_file(path: &Path) -> Import {
    let mut budget = Budget::default();
    let config = config::read(path, &mut budget).unwrap();
    import(&config, Some("llm"), &mut budget).unwrap()
}

/// The resources of an import, as the types read them.
fn resources(import: &Import) -> Vec<McpServerAuth> {
    let documents = import.documents.iter();
    let resources = documents.filter(|document| document.contains("kind: McpServerAuth"));
    resources
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

#[test]
fn a_configuration_becomes_resources_secrets_and_warnings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let import = import_file(&folder.join("litellm.yaml"));
    assert_eq!(resources(&import).len(), 4);
    insta::assert_snapshot!("objects", import.documents.join("---\n"));
    insta::assert_snapshot!("warnings", import.warnings.join("\n"));
}

#[test]
fn no_secret_of_the_configuration_is_carried_over() {
    let import = import_text(
        "mcp_servers:\n  a: {url: 'https://a.example.com', auth_type: oauth2, client_id: x, client_secret: s3cret-1}\n  \
         b: {url: 'https://b.example.com', auth_type: bearer_token, authentication_token: s3cret-2}\n  \
         c: {url: 'https://c.example.com', auth_type: api_key, auth_value: s3cret-3}\n",
    );
    let all = format!("{:?}", import);
    assert_eq!(resources(&import).len(), 2);
    assert!(!all.contains("s3cret"), "{all}");
}

#[test]
fn two_servers_whose_names_differ_in_letters_that_kubernetes_lacks_get_two_names() {
    let entry = "{url: 'https://a.example.com', auth_type: bearer_token, auth_value: x}";
    let import = import_text(&format!(
        "mcp_servers:\n  My_Tools: {entry}\n  my_tools: {entry}\n"
    ));
    let names: Vec<_> = resources(&import)
        .into_iter()
        .map(|resource| resource.metadata.name.unwrap())
        .collect();
    assert_eq!(names, ["my-tools", "my-tools-2"]);
}

#[test]
fn a_configuration_without_servers_imports_nothing() {
    assert!(import_text("model_list: []\n").documents.is_empty());
    assert!(import_text("").documents.is_empty());
}
