//! What the status says of notices: what sidecars want to be known, and keeps nothing from work.

use super::pods::{annotated, synced_condition};
use super::*;

#[test]
fn a_notice_of_a_sidecar_hides_no_warning_of_injection() {
    let resource = resource("https://tools.example.com/mcp");
    for notice in ["ServerUnderOtherName", "ConfigurationDiffers"] {
        let pod = |name, warning: &str| {
            let annotations =
                serde_json::json!({"mcpauth.dev/injected": "1", "mcpauth.dev/warnings": warning});
            let mut sidecar = synced();
            sidecar.notices = vec![Problem::new(notice, "look at it").for_server("tools")];
            (annotated(name, 600, annotations), Some(sidecar.into()))
        };
        let mut scenario = good(&resource);
        scenario.pods = Some(vec![
            pod("litellm-0", "EgressProxy: HTTPS_PROXY does not apply"),
            pod("litellm-1", "LowPort: port 80"),
        ]);
        let (_, message) = synced_condition(&scenario);
        assert!(message.contains("look at it"), "{notice}: {message}");
        assert!(
            message.ends_with(
                "pod litellm-0 injected with a warning: EgressProxy: HTTPS_PROXY does not apply; also pod litellm-1 (LowPort)"
            ),
            "{notice}: {message}"
        );
    }
}

#[test]
fn what_a_sidecar_wants_to_be_known_is_told_while_the_server_is_reached() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let mut sidecar = synced();
    sidecar.notices = vec![
        Problem::new("StaticHeaderDropped", "of another").for_server("other"),
        Problem::new("ServerUnderOtherName", "mcp_servers.crm has its URL").for_server("tools"),
    ];
    let pod = pod("a", Some("mcpauth.dev/injected"));
    scenario.pods = Some(vec![(pod, Some(sidecar.into()))]);
    assert_eq!(ready(&scenario), pair("True", reasons::SIDECAR_NOTICE));
    let (_, message) = synced_condition(&scenario);
    assert!(
        message.contains("pod a report ServerUnderOtherName: mcp_servers.crm"),
        "{message}"
    );
}

#[test]
fn a_notice_of_the_whole_pod_hides_none_that_weighs_more() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let external = Problem::new("ClientsCountAsExternal", "set mcp_trusted_proxy_ranges");
    let renamed = Problem::new("ServerUnderOtherName", "mcp_servers.crm has its URL").for_server("tools");
    let of_pod = |name, notices| {
        let mut sidecar = synced();
        sidecar.notices = notices;
        (pod(name, Some("mcpauth.dev/injected")), Some(sidecar.into()))
    };
    scenario.pods = Some(vec![
        of_pod("a", vec![external.clone()]),
        of_pod("b", vec![external, renamed]),
    ]);
    let (_, message) = synced_condition(&scenario);
    assert!(
        message.contains("pod b report ServerUnderOtherName: mcp_servers.crm has its URL"),
        "{message}"
    );
    assert!(message.ends_with("; also ClientsCountAsExternal"), "{message}");
}

#[test]
fn a_cookie_that_never_arrives_is_told_and_leaves_the_resource_ready() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let mut sidecar = synced();
    sidecar.notices = vec![Problem::new("CookieNeverArrived", "no request carried sid").for_server("tools")];
    scenario.pods = Some(vec![(
        pod("a", Some("mcpauth.dev/injected")),
        Some(sidecar.into()),
    )]);
    assert_eq!(ready(&scenario), pair("True", reasons::READY));
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::SYNCED);
    assert!(
        message.ends_with("pod a report CookieNeverArrived: no request carried sid"),
        "{message}"
    );
}
