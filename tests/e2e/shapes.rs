//! LiteLLM in every shape gets the sidecar, finds its tools and serves its users.

use futures::future::join_all;
use mcp_auth_tests::wait::until;
use serde_json::{Value, json};

use crate::client::{client, url, whoami};
use crate::command::kubectl;
use crate::ground::{CRUMB, ground, injected, pods};
use crate::litellm::{self, SHAPES};

/// Requests that the MCP server has recorded, by the method they called.
async fn recorded(method: &str) -> Vec<Value> {
    let log = kubectl(&["logs", "deploy/tools", "--tail=-1"]).await.ok();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["rpc"] == method).collect()
}

async fn tools(shape: &str) -> Vec<String> {
    let listed = client(&url(shape), &["tools"]).await;
    let names = listed["tools"]
        .as_array()
        .unwrap_or_else(|| panic!("{shape} lists tools: {listed}"));
    names
        .iter()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect()
}

async fn serves_two_users(shape: &str, server: &str) {
    let litellm = url(shape);
    let users = ["ada", "bob"];
    let calls = users.map(async |user| {
        let cookies = format!(
            "session_id={CRUMB}{user}-session; theme={CRUMB}{user}-theme; \
             tracking={CRUMB}{user}-tracked; token={CRUMB}{user}-ui"
        );
        whoami(&litellm, server, &cookies).await
    });
    for (user, answer) in users.iter().zip(join_all(calls).await) {
        let own =
            json!({"session_id": format!("{CRUMB}{user}-session"), "theme": format!("{CRUMB}{user}-theme")});
        assert_eq!(
            answer["cookies"], own,
            "{shape}, {server}: {user}'s own allowed cookies"
        );
        assert_eq!(answer["service"], "litellm", "{shape}, {server}");
        assert_eq!(
            answer["leaked"],
            json!([]),
            "{shape}, {server}: nothing else of {user}'s"
        );
    }
}

#[tokio::test]
async fn every_shape_finds_its_tools_by_itself_and_serves_each_user_with_their_own_cookies() {
    let world = ground().await;
    // The first LiteLLM has users of other tests; what the others do at their start is theirs alone.
    let others: Vec<&str> = SHAPES.into_iter().filter(|name| *name != "litellm").collect();
    // Those of a run before this one have nothing to discover any more.
    for name in &others {
        let deployment = format!("deploy/{name}");
        kubectl(&["delete", &deployment, "--ignore-not-found"]).await.ok();
    }
    let before = recorded("tools/list").await.len();
    litellm::deploy(&others).await;
    for shape in SHAPES {
        let pods = pods(shape).await;
        assert!(
            !pods.is_empty() && pods.iter().all(injected),
            "{shape} has the sidecar"
        );
    }

    // Nobody has called any of them yet.
    let discovered = until(
        "every LiteLLM has listed the tools of both servers",
        async || recorded("tools/list").await.split_off(before),
        |calls| calls.len() >= 2 * others.len(),
    )
    .await;
    for call in &discovered {
        assert_eq!(call["client"], "litellm", "discovery is authenticated: {call}");
        assert_eq!(
            call["with_cookie"], false,
            "discovery carries no user's cookie: {call}"
        );
    }

    for shape in SHAPES {
        let tools = tools(shape).await;
        for tool in ["tools-whoami", "legacy-whoami", "open-hello"] {
            assert!(
                tools.iter().any(|name| name == tool),
                "{shape} lists {tool}: {tools:?}"
            );
        }
        serves_two_users(shape, "tools").await;
    }
    for shape in ["litellm", "gateway"] {
        serves_two_users(shape, "legacy").await;
    }
    let open = client(
        &url("plain"),
        &["call", "--through", "mcp", "--server", "open", "--tool", "hello"],
    )
    .await;
    assert_eq!(open["answer"], "hello", "a server that is not ours still serves");
    until(
        "the callback beside the configuration was called",
        async || kubectl(&["logs", "deploy/folder", "--container=proxy"]).await.out,
        |log| log.contains("the callback of the folder was called"),
    )
    .await;
    for resource in ["tools", "legacy"] {
        world.condition(resource, "Ready", "True", "Ready").await;
    }
}
