//! Settings of sidecars that a chart of a later version has written, as a replica of before finds them when its container
//! starts again in the middle of `helm upgrade`.

use std::path::PathBuf;

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Program};
use mcp_auth_tests::setting;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use crate::fleet::configure;

#[tokio::test]
async fn a_replica_that_starts_with_settings_of_a_later_chart_serves_and_says_what_it_leaves_out() {
    let name = "settings-later";
    let world = World::new(name, false).await;
    configure(&world, name, json!({})).await;
    let folder = PathBuf::from(setting("MCPAUTH_TEST_WORK")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let text = std::fs::read_to_string(setting("MCPAUTH_TEST_SIDECAR_SETTINGS")).unwrap();
    let mut settings: Value = serde_json::from_str(&text).unwrap();
    settings["drainSecond"] = json!(9);
    settings["audit"]["rotation"] = json!({"days": 3});
    let file = folder.join("sidecar.json");
    std::fs::write(&file, settings.to_string()).unwrap();

    let operator = Operator {
        namespace: setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"),
        watched_namespace: world.namespace.clone(),
        lease: name.into(),
        certificate_secret: "mcp-auth-operator-tls".into(),
        url: None,
        program: Some(Program {
            path: setting("MCPAUTH_TEST_OPERATOR_PROGRAM"),
            sidecar_settings: file.to_str().unwrap().to_owned(),
        }),
        arguments: vec![ANY_ADDRESS.into()],
    };
    let log = folder.join("operator.log");
    let replica = operator.start(name, None, Some(&log)).await;
    replica.until_leads().await;
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let metrics = replica.get("/metrics").await.unwrap();
    assert!(
        metrics
            .lines()
            .any(|line| line == "mcpauth_operator_unknown_settings 2"),
        "{metrics}"
    );
    let log = std::fs::read_to_string(&log).unwrap();
    let told: Vec<_> = log
        .lines()
        .filter(|line| line.contains("a setting of sidecars is left out"))
        .collect();
    assert_eq!(told.len(), 2, "{log}");
    assert!(
        log.contains("drainSecond") && log.contains("drainSeconds") && log.contains("audit.rotation"),
        "{told:#?}"
    );
}
