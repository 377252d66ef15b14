//! `krew.yaml` becomes a manifest that krew takes, once a release fills it in.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::process::Command;

use serde_json::Value;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/krew.yaml");
const SHA256: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// krew: "Naming guide" and validation of `short description`.
const MAX_SHORT_DESCRIPTION: usize = 50;

/// As a release fills it in. Also the words that it filled in.
fn filled_in() -> (Value, Vec<String>) {
    let template = std::fs::read_to_string(MANIFEST).expect("the manifest is there");
    let (mut text, mut words) = (template.clone(), Vec::new());
    for part in template.split("${").skip(1) {
        let (word, _) = part.split_once('}').expect("a word ends");
        if word.is_empty() {
            // The comment that speaks of them.
            continue;
        }
        let value = match word.split('_').next().unwrap_or_default() {
            "VERSION" => env!("CARGO_PKG_VERSION").to_owned(),
            "URI" => format!("https://example.com/{}.tar.gz", word.to_lowercase()),
            "SHA256" => SHA256.to_owned(),
            other => panic!("a release does not know the word {other}"),
        };
        text = text.replace(&format!("${{{word}}}"), &value);
        words.push(word.to_owned());
    }
    (serde_saphyr::from_str(&text).expect("it is YAML"), words)
}

#[test]
fn the_manifest_names_the_plugin_that_this_crate_builds() {
    let (manifest, _) = filled_in();
    assert_eq!(
        manifest["apiVersion"],
        "krew.googlecontainertools.github.com/v1alpha2"
    );
    assert_eq!(manifest["kind"], "Plugin");
    // kubectl finds `kubectl-mcp_auth` as `kubectl mcp-auth`, and krew makes the one of the other.
    assert_eq!(manifest["metadata"]["name"], "mcp-auth");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_kubectl-mcp_auth"));
    let program = program.file_stem().unwrap().to_str().unwrap();
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert!(
        platforms.iter().all(|platform| platform["bin"] == program),
        "{platforms:#?}"
    );
}

#[test]
fn every_platform_has_an_archive_and_a_checksum_of_its_own() {
    let (manifest, words) = filled_in();
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    let mut named: Vec<String> = platforms
        .iter()
        .map(|platform| {
            let labels = &platform["selector"]["matchLabels"];
            let suffix = format!(
                "{}_{}",
                labels["os"].as_str().unwrap(),
                labels["arch"].as_str().unwrap()
            );
            assert!(
                platform["uri"]
                    .as_str()
                    .unwrap()
                    .contains(&format!("uri_{suffix}.tar.gz")),
                "{platform:#}"
            );
            assert_eq!(platform["sha256"], SHA256);
            suffix.to_uppercase()
        })
        .collect();
    named.sort();
    named.dedup();
    assert_eq!(named.len(), platforms.len(), "a platform is there twice");
    for platform in ["LINUX_AMD64", "LINUX_ARM64"] {
        assert!(named.iter().any(|named| named == platform), "{platform}");
    }
    assert_eq!(words.len(), 1 + 2 * platforms.len(), "{words:?}");
}

#[test]
fn version_and_description_are_as_krew_wants_them() {
    let (manifest, _) = filled_in();
    let version = manifest["spec"]["version"].as_str().unwrap();
    let numbers: Vec<&str> = version
        .strip_prefix('v')
        .expect("krew wants a v")
        .split('.')
        .collect();
    assert_eq!(numbers.len(), 3, "{version}");
    let short = manifest["spec"]["shortDescription"].as_str().unwrap();
    assert!(
        short.len() <= MAX_SHORT_DESCRIPTION && !short.ends_with('.'),
        "{short}"
    );
    let description = manifest["spec"]["description"].as_str().unwrap();
    assert!(description.lines().all(|line| line.len() <= 120), "{description}");
}

/// An archive as a release has it.
fn archive(folder: &std::path::Path, name: &str, files: &[&str]) {
    for file in files {
        std::fs::write(folder.join(file), file).unwrap();
    }
    let status = Command::new("tar")
        .args(["--create", "--gzip", "--file", name])
        .args(files)
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(status.success());
}

fn rendered(folder: &std::path::Path, version: &str) -> std::process::Output {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/krew-manifest"))
        .args([version, "https://example.com/v1.2.3"])
        .arg(folder)
        .output()
        .unwrap()
}

#[test]
fn a_release_s_archives_fill_the_manifest_in() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let names = ["amd64", "arm64"].map(|arch| format!("kubectl-mcp_auth-1.2.3-linux-{arch}.tar.gz"));
    archive(
        folder,
        &names[0],
        &["kubectl-mcp_auth", "kubectl_complete-mcp_auth", "LICENSE"],
    );
    let missing = rendered(folder, "1.2.3");
    let told = String::from_utf8(missing.stderr).unwrap();
    assert!(!missing.status.success() && told.contains(&names[1]), "{told}");
    archive(folder, &names[1], &["LICENSE"]);
    let empty = rendered(folder, "1.2.3");
    let told = String::from_utf8(empty.stderr).unwrap();
    assert!(
        !empty.status.success() && told.contains("arm64.tar.gz holds no kubectl-mcp_auth"),
        "{told}"
    );

    archive(
        folder,
        &names[1],
        &["LICENSE", "kubectl-mcp_auth", "kubectl_complete-mcp_auth"],
    );
    let output = rendered(folder, "1.2.3");
    assert!(output.status.success(), "{output:?}");
    let manifest: Value = serde_saphyr::from_slice(&output.stdout).unwrap();
    assert_eq!(manifest["spec"]["version"], "v1.2.3");
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), names.len());
    for (platform, name) in platforms.iter().zip(&names) {
        assert_eq!(platform["uri"], format!("https://example.com/v1.2.3/{name}"));
        let sum = Command::new("sha256sum").arg(folder.join(name)).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(platform["sha256"], sum.split_whitespace().next().unwrap());
    }
    assert!(!rendered(folder, "next").status.success());
}
