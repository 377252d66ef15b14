use mcp_auth_credentials::DesiredSource;
use mcp_auth_oauth::ClientAuthentication;

use super::*;
use crate::problem::merge;

const SEED: &str = r#"
mcp_servers:
  protected_tools:
    url: https://tools.company.com/mcp
    auth:
      oauth2:
        token_url: https://auth.company.com/oauth2/token
        client_id: litellm-proxy
        client_secret: ${SECRET}
      cookie_passthrough: {enabled: true, cookie_names: [session_id, user_id]}
"#;
const DEFAULTS: [(&str, &str); 3] = [
    ("MCP_OAUTH2_TOKEN_URL", "https://auth.company.com/token"),
    ("MCP_OAUTH2_CLIENT_ID", "litellm"),
    ("MCP_OAUTH2_CLIENT_SECRET", "d3fault"),
];

fn source(text: &str, variables: &[(&str, &str)]) -> Servers {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    read(&Sources {
        config: Some(path),
        resources: None,
        variables: variables.collect(),
    })
}

fn read_text(text: &str, variables: &[(&str, &str)]) -> Result<Servers, String> {
    source(text, variables)
        .for_start()
        .map_err(|error| error.to_string())
}

/// What is sent to the authorization server as the secret.
fn secret(server: &ProtectedServer) -> String {
    let source = server.desired(None).unwrap().source;
    let DesiredSource::OAuth2(configuration) = source else {
        panic!("it is OAuth2");
    };
    let ClientAuthentication::SecretBasic(secrets) = configuration.registration.authentication else {
        panic!("it is by secret");
    };
    secrets.first.secret().to_owned()
}

fn names(servers: &Servers) -> Vec<&str> {
    servers
        .protected
        .iter()
        .map(|server| server.resource.spec.server.name.as_str())
        .collect()
}

#[test]
fn the_configuration_of_the_seed_becomes_the_resource_that_it_would_be_on_kubernetes() {
    let servers = read_text(SEED, &[("SECRET", "s3cret")]).unwrap();
    let [server] = &servers.protected[..] else {
        panic!("one server");
    };
    let spec = &server.resource.spec;
    assert_eq!(
        (spec.server.name.as_str(), spec.server.url.as_str()),
        ("protected_tools", "https://tools.company.com/mcp")
    );
    let oauth2 = spec.oauth2.as_ref().unwrap();
    assert_eq!(
        oauth2.token_url.as_deref(),
        Some("https://auth.company.com/oauth2/token")
    );
    assert_eq!(oauth2.client_id.as_deref(), Some("litellm-proxy"));
    assert_eq!(spec.cookie_passthrough.cookie_names, ["session_id", "user_id"]);
    assert_eq!(secret(server), "s3cret");
    assert!(
        servers.secret_variables.contains("SECRET"),
        "it is for us and not for LiteLLM"
    );
    assert!(!format!("{servers:?}").contains("s3cret"));
}

#[test]
fn a_variable_that_litellm_uses_itself_stays_in_its_environment() {
    let text = format!("{SEED}model_list: [{{api_key: os.environ/SECRET}}]\n");
    let servers = read_text(&text, &[("SECRET", "s3cret")]).unwrap();
    assert!(!servers.secret_variables.contains("SECRET"));
    let other = format!("{SEED}model_list: [{{api_key: os.environ/SECRET_KEY}}]\n");
    assert!(
        read_text(&other, &[("SECRET", "s3cret")])
            .unwrap()
            .secret_variables
            .contains("SECRET")
    );
}

#[test]
fn the_variables_of_the_seed_hold_for_every_server_that_states_nothing_of_its_own() {
    let text = "mcp_servers:
  plain: {url: https://a.example.com/mcp}
  with_cookies: {url: https://b.example.com/mcp, auth: {cookie_passthrough: {enabled: true, cookie_names: [sid]}}}
  left_alone: {url: https://c.example.com/mcp, auth: false}
  by_litellm: {url: https://d.example.com/mcp, auth_type: bearer_token, authentication_token: t}
  by_command: {command: npx, args: [server]}
";
    let servers = read_text(text, &DEFAULTS).unwrap();
    assert_eq!(names(&servers), ["plain", "with_cookies"]);
    assert!(servers.protected.iter().all(|server| secret(server) == "d3fault"));
    assert_eq!(
        servers.protected[1].resource.spec.cookie_passthrough.cookie_names,
        ["sid"]
    );
    assert!(
        read_text("mcp_servers: {plain: {url: https://a.example.com/mcp}}", &[])
            .unwrap()
            .protected
            .is_empty()
    );
}

#[test]
fn a_block_of_its_own_takes_nothing_from_the_variables() {
    let servers = read_text(SEED, &[&DEFAULTS[..], &[("SECRET", "s3cret")]].concat()).unwrap();
    assert_eq!(secret(&servers.protected[0]), "s3cret");
    assert_eq!(
        servers.protected[0]
            .resource
            .spec
            .oauth2
            .as_ref()
            .unwrap()
            .client_id
            .as_deref(),
        Some("litellm-proxy")
    );
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let with_auth = |url: &str, auth: &str| format!("mcp_servers: {{tools: {{url: '{url}', auth: {auth}}}}}");
    let https = "https://tools.example.com/mcp";
    let oauth2 = |more: &str| format!("{{oauth2: {{client_id: a, client_secret: s3cret, {more}}}}}");
    for (text, expected) in [
        (SEED.to_owned(), "mcp_servers.protected_tools.auth.oauth2.client_secret refers to ${SECRET}, which is not set"),
        (with_auth(https, "{cookie_passthrough: {}}"), "mcp_servers.tools.auth says nothing of oauth2"),
        (with_auth(https, &oauth2("scopes: []")), "needs exactly one of token_url and issuer"),
        (with_auth(https, &oauth2("token_url: 'http://auth.example.com/t'")), "auth.oauth2.token_url is plain http"),
        (with_auth("http://tools.example.com", &oauth2("issuer: 'https://a.example.com'")), "mcp_servers.tools.url is plain http"),
        (with_auth("tools", &oauth2("issuer: 'https://a.example.com'")), "mcp_servers.tools.url must be an absolute"),
        (
            with_auth(https, &oauth2("issuer: 'https://a.example.com', client_authentication: s3cret")),
            "client_authentication must be client_secret_basic or client_secret_post",
        ),
        (
            with_auth(https, "{oauth2: {client_id: a, client_secret: b, issuer: 'https://a'}, cookie_passthrough: {enabled: true}}"),
            "cookie_names: must name the cookies",
        ),
        (
            with_auth(https, "{oauth2: {client_id: a, client_secret: b, issuer: 'https://a'}, cookie_passthrough: {enabled: true, cookie_names: [token]}}"),
            "LiteLLM's own UI session",
        ),
        (
            with_auth(https, "{oauth2: {client_id: a, client_secret: b, issuer: 'https://a'}, cookie_passthrough: {enabled: true, cookie_names: ['sess*']}}"),
            "no patterns",
        ),
        ("mcp_servers: {tools: {command: npx, auth: {oauth2: {client_id: a, client_secret: b}}}}".to_owned(), "needs a server with a url"),
        ("mcp_servers: {'my tools': {url: 'https://a', auth: {oauth2: {client_id: a, client_secret: b, issuer: 'https://a'}}}}".to_owned(), "letters, digits and _"),
    ] {
        let message = read_text(&text, &[]).map(|_| ()).unwrap_err();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn plain_http_is_allowed_on_this_machine_and_where_a_block_says_so() {
    let oauth2 = "oauth2: {client_id: a, client_secret: b, token_url: 'http://127.0.0.1:9000/token'}";
    let text = format!("mcp_servers: {{tools: {{url: 'http://localhost:8000/mcp', auth: {{{oauth2}}}}}}}");
    assert_eq!(read_text(&text, &[]).unwrap().protected.len(), 1);
    let text = format!(
        "mcp_servers: {{tools: {{url: 'http://tools:8000/mcp', auth: {{allow_insecure_http: true, {oauth2}}}}}}}"
    );
    assert_eq!(read_text(&text, &[]).unwrap().protected.len(), 1);
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let error = read(&Sources {
        config: Some("/does/not/exist.yaml".into()),
        resources: None,
        variables: Variables::default(),
    })
    .for_start()
    .unwrap_err();
    assert!(
        error.to_string().contains("/does/not/exist.yaml does not exist"),
        "{error}"
    );
}

#[test]
fn one_block_that_cannot_be_used_holds_back_no_other_server_and_its_secrets_stay_from_litellm() {
    let other =
        "  other: {url: https://other.example.com/mcp, auth: {oauth: {client_secret: '${OTHER_SECRET}'}}}\n";
    let servers = read_text(&format!("{SEED}{other}"), &[("SECRET", "s3cret")]).unwrap();
    assert_eq!(names(&servers), ["protected_tools"]);
    let [problem] = &servers.problems[..] else {
        panic!("one problem: {:?}", servers.problems);
    };
    assert!(
        problem
            .message
            .contains("mcp_servers.other.auth: unknown field `oauth`"),
        "{problem:?}"
    );
    for name in ["OTHER_SECRET", "OTHER_SECRET_FILE", "SECRET"] {
        assert!(servers.secret_variables.contains(name), "{name}");
    }
}

#[test]
fn variables_that_are_half_set_let_nothing_start() {
    let message = read_text(SEED, &[("SECRET", "s3cret"), DEFAULTS[0]]).unwrap_err();
    assert!(message.contains("MCP_OAUTH2_CLIENT_SECRET"), "{message}");
}

#[test]
fn what_was_served_before_serves_on_where_its_source_cannot_be_used_any_more() {
    let plain = "  plain: {url: https://a.example.com/mcp}\n";
    let secret_variable = [&DEFAULTS[..], &[("SECRET", "s3cret")]].concat();
    let before = source(&format!("{SEED}{plain}"), &secret_variable);
    assert_eq!(names(&before), ["protected_tools", "plain"]);
    let merged = |text: &str, variables: &[(&str, &str)]| {
        let read = source(text, variables);
        let servers = merge(&before.protected, read.protected, &read.problems);
        let mut names: Vec<String> = servers.iter().map(|server| server.name().to_owned()).collect();
        names.sort();
        names
    };
    let both = ["plain", "protected_tools"];
    let broken = SEED.replace("oauth2:", "oauth:");
    assert_eq!(merged(&format!("{broken}{plain}"), &secret_variable), both);
    assert_eq!(merged("mcp_servers: [", &secret_variable), both);
    // The file of the variables' secret is gone for a moment.
    let gone = [
        DEFAULTS[0],
        DEFAULTS[1],
        ("MCP_OAUTH2_CLIENT_SECRET_FILE", "/does/not/exist"),
    ];
    let gone = [&gone[..], &[("SECRET", "s3cret")]].concat();
    assert_eq!(merged(&format!("{SEED}{plain}"), &gone), both);
    // What was taken out is gone, whatever else is wrong.
    assert_eq!(merged(&broken, &secret_variable), ["protected_tools"]);
    assert_eq!(merged("mcp_servers: {}", &secret_variable), Vec::<String>::new());
}

#[test]
fn a_resource_goes_before_the_variables_and_before_a_block_which_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("tools.yaml"),
        r#"
apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {name: tools}
spec:
  server: {name: tools, url: https://tools.example.com/mcp}
  oauth2:
    tokenUrl: https://auth.example.com/token
    clientId: litellm
    clientAuthentication: {method: ClientSecretBasic, clientSecretRef: {name: s, key: k}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: from-the-resource}}
"#,
    )
    .unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("config.yaml");
    let read_with = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let variables = DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        read(&Sources {
            config: Some(config.clone()),
            resources: Some((folder.path().to_owned(), Admission::new())),
            variables: variables.into_iter().collect(),
        })
    };
    let url = "url: https://tools.example.com/mcp";
    let servers = read_with(&format!("mcp_servers: {{tools: {{{url}}}, other: {{{url}}}}}"));
    assert_eq!(names(&servers), ["other", "tools"]);
    assert_eq!(secret(&servers.protected[0]), "d3fault");
    assert_eq!(secret(&servers.protected[1]), "from-the-resource");
    for block in [
        "false",
        "{cookie_passthrough: {enabled: true, cookie_names: [sid]}}",
    ] {
        let servers = read_with(&format!("mcp_servers: {{tools: {{{url}, auth: {block}}}}}"));
        assert_eq!(secret(&servers.protected[0]), "from-the-resource");
        let [problem] = &servers.problems[..] else {
            panic!("one problem: {:?}", servers.problems);
        };
        assert!(
            problem.message.contains(
                "mcp_servers.tools.auth and McpServerAuth tools are both for this server, and the resource"
            ),
            "{problem:?}"
        );
    }
    // Without its resource it gets no token of another client.
    let whole = std::fs::read_to_string(folder.path().join("tools.yaml")).unwrap();
    std::fs::write(
        folder.path().join("tools.yaml"),
        whole.replace("clientId", "clientID"),
    )
    .unwrap();
    let servers = read_with(&format!("mcp_servers: {{tools: {{{url}}}, other: {{{url}}}}}"));
    assert_eq!(names(&servers), ["other"]);
    assert!(
        servers
            .ignored
            .join("")
            .contains("mcp_servers.tools gets no other token")
    );
}
