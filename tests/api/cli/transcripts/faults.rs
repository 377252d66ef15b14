//! The commands besides `doctor` in set-ups of which `doctor` is shown too, and with files that cannot be used.

use super::transcript;
use crate::cli::{file, path};

/// While the set-ups are there.
pub async fn other_commands() -> String {
    let values = file("values.yaml", include_str!("../manifests/values.yaml"));
    let refused = file("refused.yaml", include_str!("../manifests/refused.yaml"));
    let broken = file("broken.yaml", "kind: Deployment\nspec: {template: {\n");
    let unprotected = file(
        "unprotected.yaml",
        "mcp_servers: {tools: {url: 'https://tools.company.com/mcp'}}\n",
    );
    let misspelt = file("misspelt.yaml", "sidecar: {drainSecond: 5}\n");
    let misspelt = path(&misspelt);
    let (values, refused) = (path(&values), path(&refused));
    let (broken, unprotected) = (path(&broken), path(&unprotected));
    let shown: [(&str, &[&str], &str); 11] = [
        (
            "status: a client secret that the authorization server refuses",
            &["status", "-n", "wrong-secret"],
            "status -n wrong-secret",
        ),
        (
            "explain: a namespace that has not opted in",
            &["explain", "litellm-0", "-n", "not-opted-in"],
            "explain litellm-0 -n not-opted-in",
        ),
        (
            "explain: a pod that is not there",
            &["explain", "litellm-9", "-n", "not-opted-in"],
            "explain litellm-9 -n not-opted-in",
        ),
        (
            "token: a Secret that is not there",
            &["token", "tools", "-n", "missing-secret"],
            "token tools -n missing-secret",
        ),
        (
            "token: a server that no resource has",
            &["token", "files", "-n", "missing-secret"],
            "token files -n missing-secret",
        ),
        (
            "logs: no pod with a sidecar",
            &["logs", "--audit", "-n", "not-opted-in"],
            "logs --audit -n not-opted-in",
        ),
        (
            "render: a pod that is refused",
            &["render", "-f", refused, "--values", values],
            "render -f refused.yaml --values values.yaml",
        ),
        (
            "render: a file that is no YAML",
            &["render", "-f", broken, "--values", values],
            "render -f broken.yaml --values values.yaml",
        ),
        (
            "render: values that the chart does not take",
            &["render", "-f", refused, "--values", misspelt],
            "render -f refused.yaml --values misspelt.yaml",
        ),
        (
            "import: a file that is not there",
            &["import", "litellm", "/etc/litellm/config.yml"],
            "import litellm /etc/litellm/config.yml",
        ),
        (
            "import: nothing to carry over",
            &["import", "litellm", unprotected],
            "import litellm unprotected.yaml",
        ),
    ];
    let mut text = "## The other commands, where something is broken\n\n".to_owned();
    for (title, arguments, command) in shown {
        text += &transcript(title, arguments, command).await;
    }
    text
}
