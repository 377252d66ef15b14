//! The commands of kubectl and helm that documents show: the programs themselves read them.

use std::collections::BTreeMap;

use mcp_auth_tests::documents::pages;
use tokio::process::Command;

/// What the program says against these words, if it does not take them for one of its commands with that command's flags.
/// With `--help` it reads all of them and does nothing.
async fn objection(program: &str, words: &[&str]) -> Option<String> {
    // What follows `--` is another program's.
    let own = words.iter().take_while(|word| **word != "--");
    let output = Command::new(program)
        .args(own)
        .arg("--help")
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Some(error.lines().next().unwrap_or_default().to_owned());
    }
    // The help of a group of commands says that one of them was misspelt, or left out.
    let usage = printed
        .lines()
        .skip_while(|line| !line.starts_with("Usage:"))
        .nth(1)?;
    ["SUBCOMMAND", "[command]"]
        .iter()
        .any(|group| usage.contains(group))
        .then(|| format!("no command of {}", usage.trim()))
}

#[tokio::test]
async fn kubectl_and_helm_take_every_command_that_a_page_shows() {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for page in pages() {
        for command in page.commands() {
            shown.entry(command).or_insert_with(|| page.path.clone());
        }
    }
    let (mut checked, mut problems) = (0, Vec::new());
    for (command, page) in &shown {
        let words: Vec<&str> = command.split_whitespace().collect();
        let [program @ ("kubectl" | "helm"), rest @ ..] = words.as_slice() else {
            continue;
        };
        // A name alone is no command, our plugin's are looked at by themselves, and krew is not here.
        if rest.is_empty() || ["mcp-auth", "krew"].contains(&rest[0]) {
            continue;
        }
        checked += 1;
        if let Some(said) = objection(program, rest).await {
            problems.push(format!("{page}: `{command}`: {said}"));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    assert!(checked >= 40, "{checked} commands were found");
    for wrong in [
        "kubectl gett msa",
        "kubectl get msa --all-namespace",
        "kubectl rollout restartt deployment/litellm",
        "helm upgrad mcp-auth",
        "helm upgrade mcp-auth --reset-then-reuse-value",
    ] {
        let words: Vec<&str> = wrong.split(' ').collect();
        assert!(
            objection(words[0], &words[1..]).await.is_some(),
            "`{wrong}` would be taken"
        );
    }
}

#[tokio::test]
async fn kubectl_explains_every_field_that_a_page_sends_readers_to() {
    let (mut explained, mut problems) = (Vec::new(), Vec::new());
    for page in pages() {
        for command in page.commands() {
            let Some(field) = command.strip_prefix("kubectl explain ") else {
                continue;
            };
            let output = Command::new("kubectl")
                .args(["explain", field])
                .output()
                .await
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() || !printed.contains("DESCRIPTION:") {
                problems.push(format!("{}: `{command}`: {output:?}", page.path));
            }
            explained.push(field.to_owned());
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    for part in [".spec", ".status"] {
        assert!(
            explained.iter().any(|field| field.ends_with(part)),
            "no page tells of {part}: {explained:?}"
        );
    }
}
