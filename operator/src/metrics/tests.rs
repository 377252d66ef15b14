use std::collections::BTreeSet;

use mcp_auth_credentials::{ClientUsage, TokenUsage};
use mcp_auth_oauth::IssuedToday;

use super::*;

fn state() -> ResourceState {
    ResourceState {
        ready: true,
        token_issued_at: Some(1),
        token_expires_at: Some(1),
        client_certificate_expires_at: Some(1),
        credentials: [("client-secret", (1, 4))].into(),
        pods_not_injected: [(NOT_REVIEWED, 2)].into(),
        pods_with_warnings: [("UnknownAnnotation", 3)].into(),
        pods_skipped: [("NotLiteLlm", 4)].into(),
        workloads_refused: [("LiteLlmTls", 5)].into(),
        ..ResourceState::default()
    }
}

fn usage() -> TokenUsage {
    TokenUsage {
        today: IssuedToday {
            day: "2026-11-30".parse().unwrap(),
            issued: 7,
            forecast: 38,
        },
        quota: Some(30),
        client: Some(ClientUsage {
            issued: 9,
            forecast: 50,
            resources: 2,
            largest: [("tools".to_owned(), 38), ("mail".to_owned(), 12)].into(),
            issued_to_former: 0,
        }),
        is_partial: false,
        said_before: None,
    }
}

#[test]
fn what_is_over_or_deleted_leaves_no_series() {
    let metrics = Metrics::default();
    let resource_ref = ResourceRef {
        namespace: "llm".into(),
        name: "tools".into(),
    };
    metrics.set_resource(&resource_ref, &state());
    let not_injected = r#"pods_not_injected{namespace="llm",name="tools",reason="NotReviewed"} 2"#;
    assert!(metrics.encode().contains(not_injected), "{}", metrics.encode());
    let warned = r#"pods_with_warnings{namespace="llm",name="tools",reason="UnknownAnnotation"} 3"#;
    assert!(metrics.encode().contains(warned), "{}", metrics.encode());
    for series in [
        r#"pods_skipped{namespace="llm",name="tools",reason="NotLiteLlm"} 4"#,
        r#"workloads_refused{namespace="llm",name="tools",reason="LiteLlmTls"} 5"#,
    ] {
        assert!(metrics.encode().contains(series), "{}", metrics.encode());
    }
    metrics.set_resource(&resource_ref, &ResourceState::default());
    let text = metrics.encode();
    assert!(
        !text.contains("NotReviewed")
            && !text.contains("UnknownAnnotation")
            && !text.contains("NotLiteLlm")
            && !text.contains("LiteLlmTls")
            && !text.contains("token_issued_timestamp_seconds{"),
        "{text}"
    );
    metrics.set_usage(&resource_ref, Some(usage()));
    let forecast = r#"tokens_forecast_today{namespace="llm",name="tools"} 38"#;
    assert!(metrics.encode().contains(forecast), "{}", metrics.encode());
    let of_client = r#"client_tokens_forecast_today{namespace="llm",name="tools"} 50"#;
    assert!(metrics.encode().contains(of_client), "{}", metrics.encode());
    // While other resources' tokens may be missing, fewer are no news.
    let partial = |forecast| TokenUsage {
        client: usage().client.map(|client| ClientUsage { forecast, ..client }),
        is_partial: true,
        ..usage()
    };
    metrics.set_usage(&resource_ref, Some(partial(29)));
    assert!(metrics.encode().contains(of_client), "{}", metrics.encode());
    metrics.set_usage(&resource_ref, Some(partial(31)));
    let more = r#"client_tokens_forecast_today{namespace="llm",name="tools"} 31"#;
    assert!(metrics.encode().contains(more), "{}", metrics.encode());
    metrics.set_usage(&resource_ref, Some(usage()));
    let unlimited = TokenUsage {
        quota: None,
        ..usage()
    };
    metrics.set_usage(&resource_ref, Some(unlimited));
    assert!(!metrics.encode().contains(of_client), "{}", metrics.encode());
    metrics.set_usage(&resource_ref, Some(usage()));
    metrics.forget(&resource_ref);
    assert!(
        !metrics.encode().contains(r#"name="tools""#),
        "{}",
        metrics.encode()
    );
}

#[test]
fn the_documentation_lists_exactly_the_metrics_that_there_are() {
    let document = include_str!("../../../docs/metrics.md");
    let documented: BTreeSet<_> = document
        .lines()
        .filter_map(|line| {
            let mut cells = line
                .strip_prefix("| `mcpauth_operator_")?
                .split('|')
                .map(str::trim);
            let name = format!("mcpauth_operator_{}", cells.next()?.trim_end_matches('`'));
            Some((name, cells.next()?.to_owned()))
        })
        .collect();
    // Metrics without any series are not exposed.
    let metrics = Metrics::default();
    let resource_ref = ResourceRef {
        namespace: "llm".into(),
        name: "tools".into(),
    };
    metrics.reviewed("Injected");
    metrics.sync_refused("NoToken");
    metrics.reconcile_failed("Status");
    metrics.set_resource(&resource_ref, &state());
    metrics.set_certificates(Some(1), Some(1));
    metrics.token_requested(&resource_ref, 1);
    metrics.token_refused(&resource_ref);
    metrics.set_circuit_open(&resource_ref, false);
    metrics.set_clock_offset(&resource_ref, 0);
    metrics.set_usage(&resource_ref, Some(usage()));
    metrics.exchanged(ExchangeOutcome::Issued);
    let text = metrics.encode();
    let exposed: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            kind => (name.to_owned(), kind.to_owned()),
        })
        .collect();
    assert!(exposed.len() > 8, "{text}");
    assert_eq!(documented, exposed);
}
