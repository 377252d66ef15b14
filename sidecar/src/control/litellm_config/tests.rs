use super::*;

const SERVERS: &str = "\
x: &shared {auth: {oauth2: {client_secret: s3cret}}, timeout: 010}
mcp_servers:
  tools: {<<: *shared, url: https://tools.example.com/mcp}
  other: {url: https://other.example.com/mcp, auth: false}
";

fn rendered(auth_blocks: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("config.yaml");
    std::fs::write(&original, SERVERS).unwrap();
    let overlay = render(&Input {
        original: Some(&original),
        overlay: &folder.path().join("overlay.yaml"),
        routes: &[],
        outbound: "127.0.0.1:16481".parse().unwrap(),
        outbound_secret: &OutboundSecret::generate(),
        inbound: true,
        auth_blocks,
        static_headers: &StaticHeaders::resume(folder.path()),
        tool_prefix_separator: "-",
    });
    assert_eq!(overlay.problems, []);
    overlay.files[0].1.clone()
}

/// LiteLLM does not start with a server of such a name (`validate_mcp_server_name`, 1.80.17 and 1.110.2).
#[test]
fn a_server_whose_name_litellm_would_refuse_is_kept_from_it_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let with = |tool_prefix_separator, alias: &str| {
        let route = |server: &str| -> Route {
            let route = serde_json::json!({
                "server": server, "url": "https://crm.example.com/mcp", "resource": "of-crm",
                "transport": "StreamableHttp", "litellm": {"alias": alias},
            });
            serde_json::from_value(route).unwrap()
        };
        let overlay = render(&Input {
            original: None,
            overlay: &folder.path().join("overlay.yaml"),
            routes: &[route("crm_eu"), route("crm")],
            outbound: "127.0.0.1:16481".parse().unwrap(),
            outbound_secret: &OutboundSecret::generate(),
            inbound: true,
            auth_blocks: false,
            static_headers: &StaticHeaders::resume(folder.path()),
            tool_prefix_separator,
        });
        let servers: Vec<String> = overlay.servers.into_keys().collect();
        let told = overlay
            .problems
            .into_iter()
            .map(|problem| (problem.reason, problem.message));
        (servers, told.collect::<Vec<_>>())
    };
    let (servers, told) = with("_", "CRM");
    assert_eq!(servers, ["crm"]);
    let (reason, message) = &told[0];
    assert_eq!(reason, "ServerNameHoldsSeparator");
    assert!(
        message.contains("crm_eu") && message.contains("MCP_TOOL_PREFIX_SEPARATOR"),
        "{message}"
    );

    assert_eq!(with("__", "CRM").0, ["crm", "crm_eu"]);
    assert_eq!(with("", "CRM").0, [""; 0], "an empty one is in every name");
    let (servers, told) = with("RM", "CRM");
    assert_eq!(servers, ["crm", "crm_eu"]);
    assert_eq!(
        told[0].0, "LiteLlmSettingInvalid",
        "of an alias nothing but the alias is left out"
    );
}

#[test]
fn auth_blocks_are_kept_from_litellm_where_they_are_for_us() {
    let overlay = rendered(true);
    assert!(
        !overlay.contains("auth") && !overlay.contains("s3cret"),
        "{overlay}"
    );
    assert!(
        overlay.contains("010") && overlay.contains("https://other.example.com/mcp"),
        "{overlay}"
    );
    assert!(
        rendered(false).contains("s3cret"),
        "in a pod they mean nothing to us"
    );
}
