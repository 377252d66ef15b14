//! `helm test`: the five success criteria against the release, in a pod with the rights that the chart gives it.

use mcp_auth_tests::wait::{KUBECTL_LIMIT, until};

use crate::client::{client, url};
use crate::command::{Said, helm, kubectl, run};
use crate::ground::{OPERATOR_NAMESPACE, RELEASE, finally, ground, install, install_with};

async fn helm_test() -> Said {
    let arguments = [
        "test",
        RELEASE,
        "--namespace",
        OPERATOR_NAMESPACE,
        "--logs",
        "--timeout=300s",
    ];
    helm(&arguments).await
}

/// Outcome and title of each criterion, as they are printed.
fn criteria(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| {
        let (outcome, title) = line.split_once("   ")?;
        let title = title.trim();
        let is_numbered = title
            .split_once(". ")
            .is_some_and(|(number, _)| number.parse::<u8>().is_ok());
        is_numbered.then(|| (outcome.trim().to_owned(), title.to_owned()))
    });
    lines.collect()
}

async fn scale_tools(replicas: u8) {
    let replicas_flag = format!("--replicas={replicas}");
    kubectl(&["scale", "deploy/tools", &replicas_flag]).await.ok();
    match replicas {
        0 => {
            let pods = ["get", "pods", "--selector=app=tools", "--output=name"];
            until(
                "the MCP server is away",
                async || kubectl(&pods).await.ok(),
                |names: &String| names.is_empty(),
            )
            .await;
            // A sidecar learns of it from the next call of a user.
            client(&url("litellm"), &["call", "--server", "tools"]).await;
            let unreachable = [
                "wait",
                "msa/tools",
                "--for=condition=ServerReachable=False",
                KUBECTL_LIMIT,
            ];
            kubectl(&unreachable).await.ok();
        }
        _ => {
            kubectl(&["rollout", "status", "deploy/tools", KUBECTL_LIMIT])
                .await
                .ok();
        }
    }
}

#[tokio::test]
async fn helm_test_answers_the_five_criteria_and_fails_when_an_mcp_server_is_away() {
    ground().await;
    // The ground may have been made anew by another test, without LiteLLM's key.
    install().await;
    let said = helm_test().await;
    assert!(said.success, "{}{}", said.out, said.err);
    let outcomes: Vec<String> = criteria(&said.out)
        .into_iter()
        .map(|(outcome, _)| outcome)
        .collect();
    // A key of LiteLLM shows the other half of the fourth.
    assert_eq!(outcomes, ["ok", "ok", "ok", "not checked", "ok"], "{}", said.out);
    let way_out = "not checked: whether what users send arrives: give a key of LiteLLM";
    assert!(said.out.contains(way_out), "{}", said.out);

    install_with(&[
        "--set",
        "helmTest.namespaces={e2e},helmTest.litellmKeySecret.name=litellm,helmTest.litellmKeySecret.key=masterkey",
    ])
    .await;
    let said = helm_test().await;
    assert!(said.success, "{}{}", said.out, said.err);
    let met = criteria(&said.out);
    let titles: Vec<&str> = met.iter().map(|(_, title)| title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "1. LiteLLM is unmodified",
            "2. OAuth2 works",
            "3. The configuration loads",
            "4. Headers are built and arrive",
            "5. MCP client and servers take them",
        ],
        "{}",
        said.out
    );
    assert!(met.iter().all(|(outcome, _)| outcome == "ok"), "{}", said.out);
    // Through LiteLLM itself, by both transports.
    for part in [
        "e2e/tools: a tools/list through LiteLLM in ",
        "e2e/legacy: a tools/list through LiteLLM in ",
        "went to the server with the token and the allowed cookies session_id, theme, and without the other cookie; the server answers 20",
        "without a token it answers 401",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }

    let broken = async {
        scale_tools(0).await;
        let said = helm_test().await;
        assert!(!said.success, "{}{}", said.out, said.err);
        let told = format!("{}{}", said.out, said.err);
        let outcomes: Vec<String> = criteria(&told).into_iter().map(|(outcome, _)| outcome).collect();
        assert_eq!(outcomes, ["ok", "ok", "ok", "FAULT", "FAULT"], "{told}");
    };
    finally(broken, scale_tools(1)).await;
    install().await;

    // Its rights are gone with the test.
    let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}-mcp-auth-test");
    let may = [
        "auth",
        "can-i",
        "list",
        "pods",
        "--all-namespaces",
        "--as",
        &account,
    ];
    assert_eq!(run("kubectl", &may, "").await.out.trim(), "no");
}
