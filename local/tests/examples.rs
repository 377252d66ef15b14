//! The compose file of the examples: what it runs, with its configuration and its resources, is run here with a
//! stand-in for LiteLLM.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use support::{Ground, kill, message, request, until};

/// A copy of the folder below the ground, so that the secret can be put where the file says.
fn example(ground: &Ground) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/compose");
    let to = ground.folder.path().join("compose");
    fs::create_dir_all(to.join("mcp-auth/secrets/tools-oauth")).unwrap();
    fs::create_dir(to.join("litellm")).unwrap();
    for file in ["compose.yml", "litellm/config.yaml", "mcp-auth/tools.yaml"] {
        // Nothing leaves this machine, and nothing answers there.
        let text = fs::read_to_string(from.join(file)).unwrap();
        let text = text.replace("tools.company.com", "127.0.0.1:1");
        fs::write(to.join(file), text.replace("auth.company.com", "127.0.0.1:1")).unwrap();
    }
    fs::write(to.join("mcp-auth/secrets/tools-oauth/client-secret"), "s3cret").unwrap();
    to
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().unwrap().iter();
    words.map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_the_compose_file_runs_starts_litellm_with_the_server_of_the_resource() {
    let ground = Ground::new("{}");
    let folder = example(&ground);
    let text = fs::read_to_string(folder.join("compose.yml")).unwrap();
    let compose: Value = serde_saphyr::from_str(&text).unwrap();
    let service = &compose["services"]["litellm"];
    let volumes: Vec<(String, String)> = words(&service["volumes"])
        .iter()
        .map(|volume| {
            let mut parts = volume.split(':');
            (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned())
        })
        .collect();
    // Paths of the container become those of the folder; the rest stays as it is.
    let here = |word: &String| {
        let mounted = volumes
            .iter()
            .find_map(|(source, path)| Some((source, word.strip_prefix(path.as_str())?)));
        mounted.map_or(word.clone(), |(source, below)| {
            format!("{}{below}", folder.join(source).display())
        })
    };
    // What the configuration takes from LiteLLM's environment is passed on to the container.
    let config = fs::read_to_string(folder.join("litellm/config.yaml")).unwrap();
    let taken = config.split("os.environ/").skip(1);
    let taken: Vec<&str> = taken
        .map(|rest| rest.split(['\n', '}', ',', ' ']).next().unwrap())
        .collect();
    assert!(taken.contains(&"OPENAI_API_KEY"), "{taken:?}");
    for name in taken {
        let given = service["environment"][name].as_str().unwrap_or_default();
        assert!(given.starts_with(&format!("${{{name}")), "{name}: {given:?}");
    }
    let command = [words(&service["entrypoint"]), words(&service["command"])].concat();
    let mut command: Vec<String> = command.iter().map(here).collect();
    assert_eq!(command.remove(0), "mcp-auth");
    let port = command.iter().position(|word| word == "--port").unwrap() + 1;
    let published = words(&service["ports"]).remove(0);
    assert!(published.ends_with(&format!(":{}", command[port])), "{published}");
    command[port] = ground.port.to_string();

    // The authorization server of the example is nowhere; LiteLLM starts all the same.
    let mut words: Vec<&str> = command.iter().map(String::as_str).collect();
    let timeout = ["--start-timeout-seconds", "0"];
    words.splice(1..1, timeout);
    let child = ground.program(&words).spawn().unwrap();
    ground.report();
    let body = until("LiteLLM answers", || {
        let head =
            "POST /call/tools HTTP/1.1\r\nhost: litellm\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (status, body) = request(ground.port, head)?;
        (status == 200).then_some(body)
    });
    assert!(
        body.contains("503"),
        "the server is there, and its token is not: {body}"
    );
    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", message(&output));
}
