use super::*;

#[test]
fn a_server_that_sidecars_do_not_reach_is_a_step_of_its_own_with_its_way_out() {
    let told = |status: &str, reason: &str, message: &str| {
        let mut facts = healthy();
        set_resource(&mut facts, "ServerReachable", status, reason, message);
        let findings = report(&facts).findings;
        findings.into_iter().find(|finding| finding.check == "MCP server")
    };
    for state in mcp_auth_protocol::reachability::Reachability::ALL {
        let advice = mcp_auth_operator::reachability_advice(state);
        if advice.is_empty() {
            continue;
        }
        let message =
            format!("litellm-0 cannot reach https://tools.example.com/mcp since noon: it is so. {advice}");
        let finding = told("False", state.reason(), &message).unwrap();
        assert_eq!(finding.outcome, Outcome::Fault);
        assert_eq!(finding.way_out.as_deref(), Some(advice));
        assert!(finding.message.starts_with(state.reason()), "{finding:?}");
        assert!(
            finding.message.ends_with("it is so"),
            "the way out once: {finding:?}"
        );
    }
    let newer = told("False", "SomethingNewer", "it is away").unwrap();
    assert_eq!(newer.outcome, Outcome::Fault);
    assert!(newer.way_out.unwrap().contains("a newer operator"));
    let waiting = told(
        "Unknown",
        "NotContacted",
        "no sidecar has spoken to the MCP server yet",
    );
    assert_eq!(waiting, None, "nothing is known yet");
}
